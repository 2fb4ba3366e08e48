"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) of a whole batch with its own reverse.

As timm's `Mixup` in batch mode: one lambda and one box per batch, of CutMix or of timm's min-max variant. The draws are
a function of (seed, epoch, step), so they belong to the global batch: mix before it is split over processes or
passes.

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
_MIXED, _CUT, _LAMBDA, _ROW, _COLUMN, _HEIGHT, _WIDTH = range(7)
_DRAWS = 7


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
    cutmix = config.cutmix > 0 or config.cutmix_minmax is not None
    if not (config.mixup or cutmix) or draws[_MIXED] >= config.mixup_prob:
        return Mix()
    cut = draws[_CUT] < config.mixup_switch_prob if config.mixup and cutmix else cutmix
    if not cut:
        return Mix(_beta(config.mixup, draws[_LAMBDA]))
    if config.cutmix_minmax is None:
        lam = _beta(config.cutmix, draws[_LAMBDA])
        ends = (*_side_of_area(height, lam, draws[_ROW]), *_side_of_area(width, lam, draws[_COLUMN]))
    else:
        shares = config.cutmix_minmax
        rows = _side_of_share(height, shares, draws[_HEIGHT], draws[_ROW])
        ends = (*rows, *_side_of_share(width, shares, draws[_WIDTH], draws[_COLUMN]))
    top, bottom, left, right = ends
    return Mix(1 - (bottom - top) * (right - left) / (height * width), ends)


def _beta(alpha: float, draw: float) -> float:
    """Beta(alpha, alpha) by its inverse distribution function."""
    return float(betaincinv(alpha, alpha, draw))


def _side_of_area(side: int, lam: float, place: float) -> tuple[int, int]:
    """First and last of one side of CutMix's box: of area 1-lam, about a uniform centre, cut off at the border."""
    extent, centre = int(side * math.sqrt(1 - lam)), int(side * place)
    return max(0, centre - extent // 2), min(side, centre + (extent + 1) // 2)


def _side_of_share(side: int, shares: tuple[float, float], extent: float, place: float) -> tuple[int, int]:
    """First and last of one side of the box of timm's `cutmix_minmax`: a uniform share, anywhere within the image."""
    least, most = (int(side * share) for share in shares)
    length = least + int(extent * max(1, most - least))  # `most` itself is excluded, as in timm
    first = int(place * (side - length + 1))
    return first, first + length


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
