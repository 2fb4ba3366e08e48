"""The token module of Spatial-channel Token Distillation (Li et al., ICML 2022, section 3): one per (teacher, place).

It reads the features Z of one block and never writes back. Of each MLP only the token's own row or column is computed.

Shapes: B batch, N patches, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TokenKind = Literal["spatial+channel", "spatial", "channel", "none"]
TOKEN_STD = 0.02  # of the truncated normal that tokens and heads start from, as DeiT's
NORM_EPS = 1e-6  # as timm's Mixer


@dataclass(frozen=True)
class Tokens:
    """The tokens of one module: spatial T_S [B,C] and channel T_C [B,N]; None where the module has no such token."""

    spatial: Tensor | None = None
    channel: Tensor | None = None


class SpatialStep(nn.Module):
    """T_S <- MLP_S(LN([Z; T_S])) + T_S: the token joins the patches, and the MLP mixes along them."""

    def __init__(self, patches: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.mlp = _mlp_to_one(patches + 1, hidden)

    def forward(self, features: Tensor, token: Tensor) -> Tensor:
        """Z [B,N,C], T_S [B,C] -> T_S [B,C]."""
        return _mix_to_one(self.mlp, self.norm(features).transpose(1, 2), self.norm(token)) + token


class ChannelStep(nn.Module):
    """T_C <- MLP_C(LN([Z, T_C])) + T_C: the token joins the channels, and the MLP mixes along them."""

    def __init__(self, patches: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels + 1, eps=NORM_EPS)
        self.mlp = _mlp_to_one(channels + 1, hidden)

    def forward(self, features: Tensor, token: Tensor) -> Tensor:
        """Z [B,N,C], T_C [B,N] -> T_C [B,N]."""
        return _mix_to_one(self.mlp, *_joint_norm(self.norm, features, token)) + token


def _mlp_to_one(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 1))


def _mix_to_one(mlp: nn.Sequential, rows: Tensor, last: Tensor) -> Tensor:
    """`mlp` on rows of [rows, last]: [..., W] and [...] -> [...].

    Compiled, they are never joined: the matrix product keeps the even width W, which matrix units want, and what `last`
    adds and the product with the single output row are elementwise, so that they fuse with the GELU. Uncompiled, the
    passes over the hidden layer that this takes would cost more than joining.
    """
    if not torch.compiler.is_compiling():
        return cast(Tensor, mlp(torch.cat([rows, last.unsqueeze(-1)], dim=-1)).squeeze(-1))
    inner, activation, outer = (cast(Any, layer) for layer in mlp)
    hidden = F.linear(rows, inner.weight[:, :-1], inner.bias)
    hidden = hidden + (last.unsqueeze(-1) * inner.weight[:, -1]).to(hidden.dtype)
    return cast(Tensor, (activation(hidden) * outer.weight[0]).sum(dim=-1) + outer.bias)


def _joint_norm(norm: nn.LayerNorm, features: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """LN([Z, T_C]) in its two parts, which are never joined: Z [B,N,C] and T_C [B,N] -> the same shapes.

    Mean and variance are those of Z, with one more entry taken in (Chan et al., 1979).
    """
    exact = torch.promote_types(norm.weight.dtype, torch.float32)  # as LayerNorm's own statistics
    features, token, count = features.to(exact), token.to(exact).unsqueeze(2), features.shape[2] + 1
    variance, mean = torch.var_mean(features, dim=2, correction=0, keepdim=True)
    gap = token - mean
    mean = mean + gap / count
    scale = torch.rsqrt((variance + gap.square() / count) * ((count - 1) / count) + norm.eps)
    weight, bias = norm.weight, norm.bias
    normalised = (features - mean) * scale * weight[:-1] + bias[:-1]
    own = ((token - mean) * scale * weight[-1] + bias[-1]).squeeze(2)
    return normalised.to(weight.dtype), own.to(weight.dtype)


def _head(width: int, num_classes: int) -> nn.Module:
    if not num_classes:
        return nn.Identity()
    head = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(head.weight, std=TOKEN_STD)
    nn.init.zeros_(head.bias)
    return head


class TokenPath(nn.Module):
    """K steps of one token, from its learned start or, where tokens propagate, from an earlier module's token."""

    def __init__(self, steps: Sequence[nn.Module], length: int, learned_start: bool) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.empty(length)) if learned_start else None
        self.steps = nn.ModuleList(steps)
        if self.start is not None:
            nn.init.trunc_normal_(self.start, std=TOKEN_STD)

    def forward(self, features: Tensor, earlier: Tensor | None) -> Tensor:
        """Z [B,N,C] and, without a learned start, the earlier token -> the token after K steps."""
        token = earlier if self.start is None else self.start.expand(features.shape[0], -1)
        if token is None:
            raise RuntimeError("a module that propagates needs the tokens of the earlier module")
        for step in self.steps:
            token = step(features, token)
        return token


class TokenModule(nn.Module):
    """Tokens at one place and the head that one teacher speaks to: Linear(C+N -> K) on [T_S, T_C].

    `tokens` drops one of the tokens, or both: then the head is linear on the pooled features (the paper's ablation).
    The published sizes follow from `spatial_hidden` = the backbone's token-mixing width and `channel_hidden` = 4C.
    """

    def __init__(
        self,
        patches: int,
        channels: int,
        num_classes: int,
        *,
        tokens: TokenKind = "spatial+channel",
        steps: int = 1,
        spatial_hidden: int | None = None,
        channel_hidden: int | None = None,
        learned_start: bool = True,
    ) -> None:
        super().__init__()
        self.spatial = self.channel = self.norm = None
        width = 0
        if "spatial" in tokens:
            hidden = spatial_hidden or channels // 2
            updates = [SpatialStep(patches, channels, hidden) for _ in range(steps)]
            self.spatial = TokenPath(updates, channels, learned_start)
            width += channels
        if "channel" in tokens:
            hidden = channel_hidden or 4 * channels
            columns = [ChannelStep(patches, channels, hidden) for _ in range(steps)]
            self.channel = TokenPath(columns, patches, learned_start)
            width += patches
        if tokens == "none":
            self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
            width = channels
        self.width = width
        self.head = _head(width, num_classes)

    def reset_head(self, num_classes: int) -> None:
        """A new head for `num_classes`, where it is (0: none, and the tokens come out)."""
        placed = next(self.parameters())
        self.head = _head(self.width, num_classes).to(placed.device, placed.dtype)

    def forward(self, features: Tensor, earlier: Tokens | None = None) -> tuple[Tensor, Tokens]:
        """Z [B,N,C] and, where tokens propagate, the earlier module's tokens -> (logits [B,K], tokens)."""
        earlier = earlier or Tokens()
        if self.norm is not None:
            return self.head(self.norm(features).mean(dim=1)), Tokens()
        spatial = None if self.spatial is None else self.spatial(features, earlier.spatial)
        channel = None if self.channel is None else self.channel(features, earlier.channel)
        present = [token for token in (spatial, channel) if token is not None]
        return self.head(torch.cat(present, dim=1)), Tokens(spatial, channel)
