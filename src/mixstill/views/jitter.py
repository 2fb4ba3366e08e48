"""Changes of colour that are not RandAugment's: torchvision's colour jitter, and DeiT III's three-augment.

Touvron et al., "DeiT III: Revenge of the ViT", ECCV 2022, section 4.

Shapes: B batch, b samples, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixstill import rng
from mixstill.views import filters, tone
from mixstill.views.draws import between
from mixstill.views.sorting import Sorting

BRIGHTNESS, CONTRAST, SATURATION = range(3)
_CHANGES = {BRIGHTNESS: tone.brightness, CONTRAST: tone.contrast, SATURATION: tone.color}
_ORDERS = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
_ORDER, _FACTORS, _JITTER_DRAWS = 0, slice(1, 4), 4

GRAYSCALE, SOLARIZE, BLUR = range(3)
_THRESHOLD, _RADII = 128, (0.1, 2.0)
_WHICH, _RADIUS, _THREE_DRAWS = 0, 1, 2


@dataclass(frozen=True)
class Jitter:
    """Per sample, on the CPU: `order` int64 [B, 3] of the changes, and the `factors` float64 [B, 3] by change."""

    order: Tensor
    factors: Tensor


def draw_jitter(strength: float, ids: Tensor, repeats: Tensor, seed: int, epoch: int) -> Jitter:
    """Any order, as likely; factors uniform in [max(0, 1 - strength), 1 + strength]. int64 [B] each, on the CPU."""
    words = rng.bits(seed, rng.Domain.COLOR_JITTER, epoch, ids, _JITTER_DRAWS, repeats)
    order = _ORDERS[rng.integers(words[:, _ORDER], len(_ORDERS))]
    return Jitter(order, between(words[:, _FACTORS], max(0.0, 1 - strength), 1 + strength))


def color_jitter(pixels: Tensor, jitter: Jitter) -> Tensor:
    """Brightness, contrast and saturation, each sample in its own order: uint8 [B, 3, H, W] -> the same shape."""
    for changes in jitter.order.unbind(1):
        sorting = Sorting(changes)
        factors = sorting.sort(jitter.factors.gather(1, changes.unsqueeze(1)).squeeze(1), pixels.device)
        views = sorting.sort(pixels, pixels.device)
        for change, part in sorting.parts():
            views[part] = _CHANGES[change](views[part], factors[part])
        pixels = sorting.restore(views)
    return pixels


@dataclass(frozen=True)
class ThreeAugment:
    """Per sample, on the CPU: `which` int64 [B] of the three, and the `radius` float64 [B] should it be the blur."""

    which: Tensor
    radius: Tensor


def draw_three(ids: Tensor, repeats: Tensor, seed: int, epoch: int) -> ThreeAugment:
    """One of the three, all as likely, and a uniform radius: int64 [B] each, on the CPU."""
    words = rng.bits(seed, rng.Domain.THREE_AUGMENT, epoch, ids, _THREE_DRAWS, repeats)
    return ThreeAugment(rng.integers(words[:, _WHICH], 3), between(words[:, _RADIUS], *_RADII))


def three_augment(pixels: Tensor, plan: ThreeAugment) -> Tensor:
    """Grayscale, solarisation at 128 or Gaussian blur: uint8 [B, 3, H, W] -> the same shape."""
    sorting = Sorting(plan.which)
    radius = sorting.sort(plan.radius, pixels.device)
    views = sorting.sort(pixels, pixels.device)
    for which, part in sorting.parts():
        views[part] = _augment(which, views[part], radius[part])
    return sorting.restore(views)


def _augment(which: int, pixels: Tensor, radius: Tensor) -> Tensor:
    if which == GRAYSCALE:
        return tone.grayscale(pixels)
    if which == SOLARIZE:
        return tone.solarize(pixels, torch.full_like(radius, _THRESHOLD))
    return filters.gaussian_blur(pixels, radius)
