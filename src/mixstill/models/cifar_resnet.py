"""The CIFAR ResNets of He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), section 4.2.

6n+2 layers: a 3x3 stem and three stages of n blocks, W, 2W and 4W channels wide (W = 16), the last two at half the
resolution of the one before. Modules are named as in chenyaofo/pytorch-cifar-models, whose weights load as they are, by
name too: `cifar_resnet20.cifar100` (timm's default) and `cifar_resnet20.cifar10`.

Shapes: B batch, C channels, H and W height and width, K classes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers.classifier import create_classifier
from timm.layers.drop import DropPath
from timm.models import build_model_with_cfg, checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from mixstill.errors import UserError, unknown
from mixstill.models.entries import Entry, register
from mixstill.normalisation import CIFAR10, CIFAR100

STAGES = ("layer1", "layer2", "layer3")
SHORTCUTS = ("A", "B")


class PadShortcut(nn.Module):
    """Shortcut A: every second pixel, and new channels of zeros, half of them before and half after. No parameters.

    [B,C,H,W] -> [B,C+new,H/2,W/2].
    """

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C+new,H/2,W/2]."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


def _conv3x3(channels: int, width: int, stride: int, **placed: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding=1, bias=False, **placed)


def _shortcut(kind: str, channels: int, width: int, **placed: Any) -> nn.Module:
    if kind == "A":
        return PadShortcut(width - channels)
    conv = nn.Conv2d(channels, width, 1, stride=2, bias=False, **placed)
    return nn.Sequential(conv, nn.BatchNorm2d(width, **placed))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    def __init__(self, channels: int, width: int, shortcut: str, drop_path: float, **placed: Any) -> None:
        super().__init__()
        new_stage = channels != width
        self.conv1 = _conv3x3(channels, width, 2 if new_stage else 1, **placed)
        self.bn1 = nn.BatchNorm2d(width, **placed)
        self.conv2 = _conv3x3(width, width, 1, **placed)
        self.bn2 = nn.BatchNorm2d(width, **placed)
        self.downsample = _shortcut(shortcut, channels, width, **placed) if new_stage else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C,H,W], or [B,2C,H/2,W/2] where a new stage begins."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(self.drop_path(y) + self.downsample(x))


class CifarResNet(nn.Module):
    """A CIFAR ResNet with timm's methods; images [B,in_chans,H,W] -> logits [B,K].

    Args:
        depth: Layers, 6n+2.
        num_classes: K; 0 for pooled features instead of logits.
        in_chans: Channels of the images.
        shortcut: Where the width changes: `A` zero-pads channels, `B` is a 1x1 convolution with batch norm.
        width: Channels of the first stage.
        global_pool: timm's name of the pooling; empty for none (then `num_classes` is 0).
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0 (Huang et al., ECCV 2016).
        device: Where the parameters are made.
        dtype: Of the parameters.

    Raises:
        UserError: A depth that is not 6n+2, or a shortcut that is neither A nor B.
    """

    def __init__(
        self,
        depth: int = 20,
        num_classes: int = 10,
        in_chans: int = 3,
        shortcut: str = "B",
        width: int = 16,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise UserError(f"depth: {depth!r} is not valid; it must be 6n+2, as 8, 20, 32, 44 or 56")
        if shortcut not in SHORTCUTS:
            raise unknown("shortcut", shortcut, SHORTCUTS)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        placed: dict[str, Any] = {"device": device, "dtype": dtype}

        self.conv1 = _conv3x3(in_chans, width, 1, **placed)
        self.bn1 = nn.BatchNorm2d(width, **placed)
        per_stage = (depth - 2) // 6
        drop_paths = [drop_path_rate * block / (3 * per_stage - 1) for block in range(3 * per_stage)]
        channels = width
        self.feature_info: list[dict[str, Any]] = []
        for index, name in enumerate(STAGES):
            blocks = []
            for drop_path in drop_paths[index * per_stage : (index + 1) * per_stage]:
                blocks.append(BasicBlock(channels, width << index, shortcut, drop_path, **placed))
                channels = width << index
            self.add_module(name, nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": channels, "reduction": 1 << index, "module": name})

        self.num_features = channels
        self.global_pool, self.fc = create_classifier(channels, num_classes, pool_type=global_pool, **placed)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.init_weights()

    def init_weights(self) -> None:
        """Convolutions as in He et al., "Delving Deep into Rectifiers" (ICCV 2015), equation 10."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """timm's patterns of parameter names: the stem, then blocks (or, if `coarse`, stages)."""
        return {"stem": r"^(?:conv1|bn1)", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass, which, as in timm, updates its batch-norm statistics once more."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return cast(nn.Module, self.fc)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for `num_classes` (0: none), and another pooling where one is named."""
        self.num_classes = num_classes
        kind = self.global_pool.pool_type if global_pool is None else global_pool
        weight = self.conv1.weight
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=kind, device=weight.device, dtype=weight.dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def _stage(self, name: str, x: Tensor) -> Tensor:
        stage = self.get_submodule(name)
        if self.grad_checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint_seq(stage, x))
        return cast(Tensor, stage(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The final features and the outputs of the three stages, as timm's ResNet (which counts its stem as a fourth).

        Args:
            x: Images [B,in_chans,H,W].
            indices: The last n stages, or those at these indices; None for all.
            norm: Without effect: there is no final norm.
            stop_early: Compute no stage after the last that is asked for; the final features are then that stage's.
            output_fmt: Only `NCHW`.
            intermediates_only: Leave the final features out.

        Returns:
            ([B,4W,H/4,W/4], [[B,W,H,W], [B,2W,H/2,W/2], [B,4W,H/4,W/4]]) for all indices, W being the width.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt {output_fmt!r}: only NCHW")
        taken, last = feature_take_indices(len(STAGES), indices)
        x = F.relu(self.bn1(self.conv1(x)))
        intermediates = []
        for index, name in enumerate(STAGES[: last + 1] if stop_early else STAGES):
            x = self._stage(name, x)
            if index in taken:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B,in_chans,H,W] -> [B,4W,H/4,W/4], W being the width."""
        x = F.relu(self.bn1(self.conv1(x)))
        for name in STAGES:
            x = self._stage(name, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features [B,C,H,W] -> logits [B,K], or with `pre_logits` pooled features [B,C]."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else cast(Tensor, self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        """[B,in_chans,H,W] -> [B,K]."""
        return self.forward_head(self.forward_features(x))


_CFG = {
    "input_size": (3, 32, 32),
    "pool_size": (8, 8),
    "crop_pct": 1.0,
    "mean": CIFAR100[0],
    "std": CIFAR100[1],
    "num_classes": 100,
    "first_conv": "conv1",
    "classifier": "fc",
}
_PUBLIC = "https://github.com/chenyaofo/pytorch-cifar-models/releases/download/resnet"
_LICENCE = {"license": "bsd-3-clause"}
_TEN_CLASSES: dict[str, Any] = {"num_classes": 10, "mean": CIFAR10[0], "std": CIFAR10[1]}


def _public(depth: int, millions: float, cifar100: tuple[str, float], cifar10: tuple[str, float]) -> Entry:
    """One that chenyaofo has weights of: for each data set the end of the file's name, and its published top-1."""
    weights: dict[str, dict[str, Any]] = {
        "cifar100": {"url": f"{_PUBLIC}/cifar100_resnet{depth}-{cifar100[0]}.pt", **_LICENCE},
        "cifar10": {"url": f"{_PUBLIC}/cifar10_resnet{depth}-{cifar10[0]}.pt", **_LICENCE, **_TEN_CLASSES},
    }
    top_1 = f"published top-1 {cifar100[1]} on CIFAR-100, {cifar10[1]} on CIFAR-10"
    return Entry(f"{depth} layers, {millions} M parameters; {top_1}.", _CFG, {"depth": depth}, weights)


DEPTHS = {
    "cifar_resnet8": Entry("8 layers, 0.1 M parameters: below the paper's, for quick teachers.", _CFG, {"depth": 8}),
    "cifar_resnet14": Entry("14 layers, 0.2 M parameters: below the paper's, for quick teachers.", _CFG, {"depth": 14}),
    "cifar_resnet20": _public(20, 0.28, cifar100=("23dac2f1", 68.8), cifar10=("4118986f", 92.6)),
    "cifar_resnet32": _public(32, 0.47, cifar100=("84213ce6", 70.2), cifar10=("ef93fc4d", 93.5)),
    "cifar_resnet44": _public(44, 0.67, cifar100=("ffe32858", 71.6), cifar10=("2a3cabcb", 94.0)),
    "cifar_resnet56": _public(56, 0.86, cifar100=("f2eff4c8", 72.6), cifar10=("187c023a", 94.4)),
    "cifar_resnet110": Entry("110 layers, 1.7 M parameters.", _CFG, {"depth": 110}),
}


def _build(name: str, pretrained: bool, kwargs: dict[str, Any]) -> CifarResNet:
    features = {"out_indices": (0, 1, 2), "feature_cls": "getter"}
    return build_model_with_cfg(CifarResNet, name, pretrained, feature_cfg=features, **DEPTHS[name].size | kwargs)


register(__name__, DEPTHS, _build)
