"""CycleMLP B1 to B5 (Chen et al., "CycleMLP: A MLP-like Architecture for Dense Prediction", ICLR 2022).

Small images would leave a last grid of 1x1; for them the stem takes smaller steps.

Shapes: B batch, C channels, H and W height and width of the grid, K classes. Features are [B,H,W,C].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal, cast

import torch
from timm.layers import trunc_normal_
from timm.models import build_model_with_cfg, checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from mixstill.errors import UserError
from mixstill.models.cycle import CycleBlock
from mixstill.models.entries import Entry, register
from mixstill.models.renaming import filter_cyclemlp
from mixstill.normalisation import CIFAR100, IMAGENET

Size = dict[str, Any]

_NARROW, _WIDE = (64, 128, 320, 512), (96, 192, 384, 768)

STEM_KERNEL = 7
STEM_STRIDES = (1, 2, 4)


class Stage(nn.Module):
    """Blocks of one width, behind a convolution that halves the grid (in all stages but the first)."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[CycleBlock]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)


class CycleMlp(nn.Module):
    """A CycleMLP with timm's methods; images [B,in_chans,H,W] of any size -> logits [B,K].

    Args:
        depths: Blocks in each stage.
        embed_dims: Channels in each stage.
        mlp_ratios: Expansion of the channel MLP in each stage.
        num_classes: K; 0 for pooled features instead of logits.
        in_chans: Channels of the images.
        stem_stride: Pixels per step of the first grid, 4 for 224 pixels; 1 or 2 for small images.
        global_pool: `avg`; empty for none (then `num_classes` is 0).
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        device: Where the parameters are made.
        dtype: Of the parameters.

    Raises:
        UserError: A stem stride that is not 1, 2 or 4.
    """

    output_fmt = "NHWC"

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 4, 2),
        embed_dims: Sequence[int] = _NARROW,
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        num_classes: int = 1000,
        in_chans: int = 3,
        stem_stride: int = 4,
        global_pool: Literal["avg", ""] = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if stem_stride not in STEM_STRIDES:
            raise UserError(f"stem_stride: {stem_stride!r} is not valid; it must be 1, 2 or 4")
        if global_pool not in ("avg", ""):
            raise UserError(f"global_pool: {global_pool!r} is not valid; it must be 'avg', or empty for none")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.global_pool = global_pool
        self.grad_checkpointing = False
        placed: dict[str, Any] = {"device": device, "dtype": dtype}

        # The padding that gives H / stride steps: 2 at stride 4, as the authors have it.
        padding = (STEM_KERNEL - stem_stride + 1) // 2
        self.stem = nn.Conv2d(in_chans, embed_dims[0], STEM_KERNEL, stem_stride, padding, **placed)
        drop_paths = [drop_path_rate * block / max(sum(depths) - 1, 1) for block in range(sum(depths))]
        self.stages = nn.ModuleList()
        self.feature_info: list[dict[str, Any]] = []
        for index, (channels, ratio) in enumerate(zip(embed_dims, mlp_ratios, strict=True)):
            rates = drop_paths[sum(depths[:index]) : sum(depths[: index + 1])]
            downsample = (
                nn.Conv2d(embed_dims[index - 1], channels, 3, stride=2, padding=1, **placed) if index else nn.Identity()
            )
            self.stages.append(Stage(downsample, [CycleBlock(channels, ratio, rate, **placed) for rate in rates]))
            self.feature_info += [
                {"module": f"stages.{index}.blocks.{block}", "num_chs": channels, "reduction": stem_stride << index}
                for block in range(len(rates))
            ]
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.last_stage = sum(depths[:-1])  # its first block; the final norm is for this stage
        self.norm: nn.Module = nn.LayerNorm(self.num_features, **placed)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._classifier(num_classes, placed)
        self.init_weights()

    def init_weights(self) -> None:
        """Linear layers as DeiT: truncated normal of deviation 0.02, no bias."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """None besides biases and norms, which timm's optimizer factory leaves out by itself."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns of parameter names: the stem, then blocks (or, if `coarse`, stages)."""
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: Literal["avg", ""] | None = None) -> None:
        """A new last layer for `num_classes` (0: none), and another pooling where one is named."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        placed = {"device": self.stem.weight.device, "dtype": self.stem.weight.dtype}
        self.head = self._classifier(num_classes, placed).train(self.training)

    def _classifier(self, num_classes: int, placed: dict[str, Any]) -> nn.Module:
        return nn.Linear(self.num_features, num_classes, **placed) if num_classes else nn.Identity()

    def _grids(self, x: Tensor) -> Iterator[Tensor]:
        """Images [B,in_chans,H,W] -> the features [B,H,W,C] after each block."""
        x = self.stem(x).permute(0, 2, 3, 1)
        for module in self.stages:
            stage = cast(Stage, module)
            x = stage.downsample(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            for block in stage.blocks:
                x = checkpoint(block, x) if self.grad_checkpointing and torch.is_grad_enabled() else block(x)
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
        """The final features [B,H,W,C] and those after each block.

        Args:
            x: Images [B,in_chans,H,W].
            indices: The last n blocks, or those at these indices; None for all.
            norm: Put those of the last stage through the final norm, which fits no other.
            stop_early: Compute no block after the last that is asked for; the final features are then that block's.
            output_fmt: `NCHW` or `NLC`, of the features after the blocks.
            intermediates_only: Leave the final features out.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt {output_fmt!r}: only NCHW and NLC")
        taken, last = feature_take_indices(len(self.feature_info), indices)
        intermediates = []
        for index, features in enumerate(self._grids(x)):
            x = features
            if index in taken:
                normed = self.norm(x) if norm and index >= self.last_stage else x
                intermediates.append(normed.permute(0, 3, 1, 2) if output_fmt == "NCHW" else normed.flatten(1, 2))
            if stop_early and index == last:
                break
        if intermediates_only:
            return intermediates
        return (self.norm(x) if index >= self.last_stage else x), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take off what comes after the last of the blocks at `indices`; returns these as indices from 0."""
        taken, last = feature_take_indices(len(self.feature_info), indices)
        stages, self.stages = cast(list[Stage], list(self.stages)), nn.ModuleList()
        left = last + 1
        for stage in stages:
            stage.blocks = stage.blocks[:left]
            left -= len(stage.blocks)
            self.stages.append(stage)
            if not left:
                break
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        """[B,in_chans,H,W] -> [B,H,W,C]."""
        for features in self._grids(x):
            x = features
        return cast(Tensor, self.norm(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features [B,H,W,C] -> logits [B,K], or with `pre_logits` pooled features [B,C]."""
        x = self.head_drop(x.mean((1, 2)) if self.global_pool else x)
        return x if pre_logits else cast(Tensor, self.head(x))

    def forward(self, x: Tensor) -> Tensor:
        """[B,in_chans,H,W] -> [B,K]."""
        return self.forward_head(self.forward_features(x))


_CFG = {
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,  # the authors evaluate the centre of 256 pixels, whatever stands in their cfgs
    "interpolation": "bicubic",
    "mean": IMAGENET[0],
    "std": IMAGENET[1],
    "num_classes": 1000,
    "first_conv": "stem",
    "classifier": "head",
}
_AUTHORS = "https://github.com/ShoufaChen/CycleMLP"


def _size(depths: Sequence[int], embed_dims: Sequence[int] = _NARROW, mlp_ratios: Sequence[int] = (4, 4, 4, 4)) -> Size:
    return {"depths": depths, "embed_dims": embed_dims, "mlp_ratios": mlp_ratios}


def _published(name: str, about: str, size: Size) -> Entry:
    url = f"{_AUTHORS}/releases/download/v0.1/CycleMLP_{name}.pth"
    return Entry(f"CycleMLP-{name}: {about}", _CFG, size, {"in1k": {"url": url, "license": "mit"}})


def _small(about: str, pixels: int, stem_stride: int, size: Size) -> Entry:
    last = pixels // stem_stride // 8
    cfg = {"input_size": (3, pixels, pixels), "pool_size": (last, last), "crop_pct": 1.0, "num_classes": 100}
    return Entry(about, _CFG | cfg | {"mean": CIFAR100[0], "std": CIFAR100[1]}, size | {"stem_stride": stem_stride})


_B1, _B2 = _size((2, 2, 4, 2)), _size((2, 3, 10, 3))
_B3, _B4 = _size((3, 4, 18, 3), mlp_ratios=(8, 8, 4, 4)), _size((3, 8, 27, 3), mlp_ratios=(8, 8, 4, 4))
_B5, _MICRO = _size((3, 4, 24, 3), _WIDE), _size((1, 1, 2, 1), (16, 32, 64, 64))

PUBLISHED = {
    "cyclemlp_b1_224": _published("B1", "15.2 M parameters, 2.1 G multiply-adds; published top-1 78.9.", _B1),
    "cyclemlp_b2_224": _published("B2", "26.8 M parameters, 3.9 G multiply-adds; published top-1 81.6.", _B2),
    "cyclemlp_b3_224": _published("B3", "38.4 M parameters, 6.9 G multiply-adds; published top-1 82.4.", _B3),
    "cyclemlp_b4_224": _published("B4", "51.8 M parameters, 10.1 G multiply-adds; published top-1 83.0.", _B4),
    "cyclemlp_b5_224": _published("B5", "75.7 M parameters, 12.3 G multiply-adds; published top-1 83.2.", _B5),
}
SMALL = {
    "cyclemlp_b1_32": _small("CycleMLP-B1 for 32 pixels: grids of 32, 16, 8 and 4, 14.7 M parameters.", 32, 1, _B1),
    "cyclemlp_b2_32": _small("CycleMLP-B2 for 32 pixels: grids of 32, 16, 8 and 4, 26.3 M parameters.", 32, 1, _B2),
    "cyclemlp_b1_64": _small("CycleMLP-B1 for 64 pixels: grids of 32, 16, 8 and 4, 14.7 M parameters.", 64, 2, _B1),
    "cyclemlp_b2_64": _small("CycleMLP-B2 for 64 pixels: grids of 32, 16, 8 and 4, 26.3 M parameters.", 64, 2, _B2),
    "cyclemlp_micro_32": _small(
        "A small CycleMLP to try things out: grids of 16, 8, 4 and 2, 0.25 M parameters.", 32, 2, _MICRO
    ),
}
SIZES = PUBLISHED | SMALL


def _build(name: str, pretrained: bool, kwargs: dict[str, Any]) -> CycleMlp:
    arguments = SIZES[name].size | kwargs
    ends = tuple(end - 1 for end in accumulate(arguments["depths"]))
    features = {"out_indices": ends, "feature_cls": "getter"}
    return build_model_with_cfg(
        CycleMlp, name, pretrained, pretrained_filter_fn=filter_cyclemlp, feature_cfg=features, **arguments
    )


register(__name__, SIZES, _build)
