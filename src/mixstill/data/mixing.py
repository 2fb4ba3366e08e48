"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) of a whole batch with its own reverse.

As timm's `Mixup` in batch mode: one lambda and one box per batch. The draws are a function of (seed, epoch, step), so
they belong to the global batch: mix before it is split over processes or micro-batches.

Shapes: B batch, K classes, H x W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from mixstill import rng
from mixstill.config import ViewsConfig

Box: TypeAlias = tuple[int, int, int, int]

# Which draw of a step is for what.
_MIXED, _CUT, _LAMBDA, _ROW, _COLUMN = range(5)
_DRAWS = 5


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed: it keeps the share `lam`; its reverse gives the rest.

    With a `box` (top, bottom, left, right; the ends excluded) that rest is the box, without it is a blend.
    """

    lam: float = 1.0
    box: Box | None = None

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return self.lam < 1.0


def draw_mix(config: ViewsConfig, seed: int, epoch: int, step: int, height: int, width: int) -> Mix:
    """The mix of one batch of height x width images; `step` counts from 0 within the epoch."""
    draws = rng.scalars(seed, rng.Domain.MIX, epoch, step, _DRAWS)
    if not (config.mixup or config.cutmix) or draws[_MIXED] >= config.mixup_prob:
        return Mix()
    both = config.mixup > 0 and config.cutmix > 0
    cut = draws[_CUT] < config.mixup_switch_prob if both else config.cutmix > 0
    alpha = config.cutmix if cut else config.mixup
    lam = float(betaincinv(alpha, alpha, draws[_LAMBDA]))  # Beta(alpha, alpha) by its inverse distribution function
    if not cut:
        return Mix(lam)
    box = _box(lam, draws[_ROW], draws[_COLUMN], height, width)
    top, bottom, left, right = box
    return Mix(1 - (bottom - top) * (right - left) / (height * width), box)


def _box(lam: float, row: float, column: float, height: int, width: int) -> Box:
    """CutMix's box of area 1-lam about a uniform centre, cut off at the border (hence smaller there)."""
    ratio = math.sqrt(1 - lam)
    ends = []
    for side, draw in ((height, row), (width, column)):
        extent, centre = int(side * ratio), int(side * draw)
        ends += [max(0, centre - extent // 2), min(side, centre + (extent + 1) // 2)]
    top, bottom, left, right = ends
    return top, bottom, left, right


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """Blend the batch with its reverse, or paste the box of its reverse: [B, 3, H, W] -> the same shape."""
    if not mix.active:
        return images
    if mix.box is None:
        return images * mix.lam + images.flip(0) * (1 - mix.lam)
    top, bottom, left, right = mix.box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].flip(0)
    return mixed


def mix_targets(labels: Tensor, mix: Mix, num_classes: int) -> Tensor:
    """int64 [B] labels -> float32 [B, K] targets, mixed as the images are. Smoothing is the loss's business."""
    targets = F.one_hot(labels, num_classes).float()
    return targets * mix.lam + targets.flip(0) * (1 - mix.lam) if mix.active else targets
