"""Vision MLPs with DeiT's distillation token: the baseline that STD is compared with.

DeiT (Touvron et al., "Training data-efficient image transformers & distillation through attention", ICML 2021) lets a
learned token take part in every layer, and reads from it a second head that the teacher speaks to.

The STD paper has rows of "DeiT distillation" on MLPs, but does not publish their exact form; their sizes (20.0 M
parameters for Mixer-S16, 28.6 M for CycleMLP-B2) could not be reconstructed. What was built is DeiT's own: one token
and one head more, and token-mixing layers that are larger by the token. Mixer-S16 has 19,045,880 parameters so.
A CycleMLP mixes a grid, not a sequence, so that no token can join it: there the second head is all (`distill.tokens:
none`), 27,316,528 parameters for B2.

Shapes: B batch, N patches, C channels, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from timm.layers import trunc_normal_
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from timm.models.mlp_mixer import MixerBlock, MlpMixer
from torch import Tensor, nn


class DistilledMlpMixer(MlpMixer):
    """timm's `MlpMixer` (Mixer, ResMLP or gMLP) with a distillation token, the first of N+1 that its blocks mix.

    The class head reads the mean of the patches, the distillation head the token; both start alike. In training after
    `set_distilled_training` they are told apart, otherwise the logits are their mean: timm's convention.

    Args:
        block_layer: As of `MlpMixer`; each block is made for N+1 tokens.
        kwargs: Of `MlpMixer`; without `global_pool` the output is the final features [B,N+1,C].
    """

    def __init__(self, *, block_layer: Callable[..., nn.Module] = MixerBlock, **kwargs: Any) -> None:
        def block_of_one_more(channels: int, patches: int, *args: Any, **named: Any) -> nn.Module:
            return block_layer(channels, patches + 1, *args, **named)

        super().__init__(block_layer=cast(Any, block_of_one_more), **kwargs)
        self.dist_token = nn.Parameter(self.stem.proj.weight.new_empty(1, 1, self.embed_dim))
        trunc_normal_(self.dist_token, std=0.02)
        self.head_dist = copy.deepcopy(self.head)
        self.distilled_training = False

    def no_weight_decay(self) -> set[str]:
        """The token, besides biases and norms, which timm's optimizer factory leaves out by itself."""
        return {"dist_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns of parameter names, the token in the stem."""
        return {**super().group_matcher(coarse), "stem": r"^stem|^dist_token"}

    def set_distilled_training(self, enable: bool = True) -> None:
        """Give (class, distillation) logits in training instead of their mean."""
        self.distilled_training = enable

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        """The class head and the distillation head."""
        return self.head, self.head_dist

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Two new heads for `num_classes` (0: none), and another pooling where one is named."""
        super().reset_classifier(num_classes, global_pool)
        self.head_dist = copy.deepcopy(self.head)

    def _sequences(self, x: Tensor) -> Iterator[Tensor]:
        """Images [B,in_chans,H,W] -> the token and the patches [B,N+1,C] after each block."""
        x = torch.cat([self.dist_token.expand(x.shape[0], -1, -1), self.stem(x)], 1)
        for block in self.blocks:
            x = checkpoint(block, x) if self.grad_checkpointing else block(x)
            yield x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The final features [B,N+1,C], and the patches (without the token) after each block, as `MlpMixer` has them.

        Args:
            x: Images [B,in_chans,H,W].
            indices: The last n blocks, or those at these indices; None for all.
            norm: Put the patches through the final norm.
            stop_early: Compute no block after the last that is asked for; the final features are then that block's.
            output_fmt: `NCHW` or `NLC`, of the patches.
            intermediates_only: Leave the final features out.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt {output_fmt!r}: only NCHW and NLC")
        taken, last = feature_take_indices(len(self.blocks), indices)
        grid = self.stem.dynamic_feat_size((x.shape[-2], x.shape[-1]))
        intermediates = []
        for index, sequence in enumerate(self._sequences(x)):
            x = sequence
            if index in taken:
                patches = (self.norm(x) if norm else x)[:, 1:]
                intermediates.append(patches.mT.unflatten(2, grid) if output_fmt == "NCHW" else patches)
            if stop_early and index == last:
                break
        return intermediates if intermediates_only else (self.norm(x), intermediates)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B,in_chans,H,W] -> [B,N+1,C], the token first."""
        for sequence in self._sequences(x):
            x = sequence
        return cast(Tensor, self.norm(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        """Features [B,N+1,C] -> logits [B,K], in distilled training a pair of them.

        With `pre_logits`: the mean [B,C] of what the two heads read.
        """
        if not self.global_pool:
            return x
        patches, token = self.head_drop(x[:, 1:].mean(1)), self.head_drop(x[:, 0])
        if pre_logits:
            return cast(Tensor, (patches + token) / 2)
        logits, distilled = self.head(patches), self.head_dist(token)
        return (logits, distilled) if self.distilled_training and self.training else (logits + distilled) / 2
