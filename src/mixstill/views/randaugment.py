"""RandAugment per sample and batched: each view its own operations and magnitudes, as timm's `RandAugment`.

A plan of small tensors is drawn on the host; carrying it out sorts the samples of a layer by operation, so that each
operation is called once, and all that are tables of 256 values are looked up at once.

Shapes: B batch, b samples of one operation, L layers, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mixstill import rng
from mixstill.views import filters, tone, warp
from mixstill.views.draws import between, chance, normal, unit
from mixstill.views.levels import CODES, OPS, arguments
from mixstill.views.policy import Policy, parse
from mixstill.views.sorting import Sorting
from mixstill.views.warp import Fill

__all__ = ["Plan", "Policy", "apply", "draw", "parse"]

# The four words of a layer. The lowest bits of the first two, which their main use does not see, are coins besides.
_WHICH, _WHETHER, _MAGNITUDE = 0, 1, slice(2, 4)
_DRAWS = 4
NOTHING = -1


@dataclass(frozen=True)
class Plan:
    """What each sample gets in each layer, on the CPU."""

    ops: Tensor
    """int64 [L, B], an index of `levels.OPS`, or `NOTHING`."""
    arguments: Tensor
    """float64 [L, B], as `levels.arguments` gives them."""
    bicubic: Tensor
    """bool [L, B], whether what moves pixels interpolates bicubically rather than bilinearly."""


def draw(policy: Policy, ids: Tensor, repeats: Tensor, seed: int, epoch: int, interpolation: str) -> Plan:
    """The plan of these views: ids, repeats int64 [B] on the CPU; interpolation bicubic, bilinear or random."""
    words = rng.bits(seed, rng.Domain.RANDAUGMENT, epoch, ids, _DRAWS * policy.layers, repeats)
    words = words.view(-1, policy.layers, _DRAWS).transpose(0, 1)
    ops = torch.tensor([CODES[name] for name in policy.ops])[_choose(words[..., _WHICH], policy)]
    given = arguments(ops, magnitudes(words[..., _MAGNITUDE], policy), (words[..., _WHICH] & 1).bool())
    ops = torch.where(chance(words[..., _WHETHER], policy.probability), ops, NOTHING)
    coin = (words[..., _WHETHER] & 1).bool()
    return Plan(ops, given, coin if interpolation == "random" else torch.full_like(coin, interpolation == "bicubic"))


def _choose(words: Tensor, policy: Policy) -> Tensor:
    """Which of the policy's operations: int64 [L, B] -> int64 [L, B]."""
    if policy.weights is None:
        return rng.integers(words, len(policy.ops))
    left = torch.tensor(policy.weights, dtype=torch.float64).repeat(words.shape[1], 1)
    chosen = []
    for layer in words:  # without replacement: what was chosen weighs nothing in the layers after
        sums = left.cumsum(1)
        threshold = unit(layer).unsqueeze(1) * sums[:, -1:]
        chosen.append(torch.searchsorted(sums, threshold, right=True))
        left = left.scatter(1, chosen[-1], 0.0)
    return torch.stack(chosen).squeeze(2)


def magnitudes(words: Tensor, policy: Policy) -> Tensor:
    """Normal, uniform or constant, and within the limit of the policy: int64 [..., 2] -> float64 [...]."""
    if policy.deviation == float("inf"):
        drawn = between(words[..., 0], 0.0, policy.magnitude)
    else:
        drawn = policy.magnitude + policy.deviation * normal(words[..., 0], words[..., 1])
    return drawn.clamp(0.0, policy.limit)


def apply(pixels: Tensor, plan: Plan, fill: Fill) -> Tensor:
    """Carry out the plan, layer by layer; `fill` in [0, 255] is for what comes from outside the image.

    uint8 [B, 3, H, W] on any device -> the same shape. The plan may hold fewer or more layers than one.
    """
    for ops, given, bicubic in zip(plan.ops, plan.arguments, plan.bicubic, strict=True):
        pixels = _layer(pixels, ops, given, bicubic, fill)
    return pixels


def _layer(pixels: Tensor, ops: Tensor, given: Tensor, bicubic: Tensor, fill: Fill) -> Tensor:
    """One operation per sample: uint8 [B, 3, H, W], [B] each on the CPU -> uint8 [B, 3, H, W]."""
    sorting = Sorting(ops - NOTHING)  # those that get nothing come first
    parts = [(OPS[kind + NOTHING], part) for kind, part in sorting.parts(first=1)]
    if not parts:
        return pixels
    given, bicubic = (sorting.sort(values, pixels.device) for values in (given, bicubic))
    views = sorting.sort(pixels, pixels.device)
    tables = [(part, _TABLES[name](views[part], given[part])) for name, part in parts if name in _TABLES]
    if tables:
        together = slice(tables[0][0].start, tables[-1][0].stop)
        views[together] = tone.apply_table(views[together], torch.cat([table for _, table in tables]))
    for name, part in parts:
        if name in _BLENDS:
            views[part] = _BLENDS[name](views[part], given[part])
        elif name in _WARPS:
            warp_, side = _WARPS[name]
            places = given[part] * (pixels.shape[side] if side else 1)
            views[part] = warp_(views[part], places, bicubic=bicubic[part], fill=fill)
    return sorting.restore(views)


# How each operation of `levels.OPS` is carried out: as a table of 256 values, by blending, or by moving pixels.
_TABLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AutoContrast": lambda pixels, _: tone.autocontrast_table(pixels),
    "Equalize": lambda pixels, _: tone.equalize_table(pixels),
    "Invert": lambda pixels, _: tone.invert_table(pixels),
    **dict.fromkeys(("Posterize", "PosterizeIncreasing"), tone.posterize_table),
    **dict.fromkeys(("Solarize", "SolarizeIncreasing"), tone.solarize_table),
    "SolarizeAdd": tone.solarize_add_table,
    **dict.fromkeys(("Contrast", "ContrastIncreasing"), tone.contrast_table),
    **dict.fromkeys(("Brightness", "BrightnessIncreasing"), tone.brightness_table),
}
_BLENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **dict.fromkeys(("Color", "ColorIncreasing"), tone.color),
    "Desaturate": lambda pixels, taken: tone.color(pixels, 1 - taken),
    **dict.fromkeys(("Sharpness", "SharpnessIncreasing"), filters.sharpness),
    "GaussianBlur": filters.gaussian_blur,
}
# With the axis of the pixels' shape whose size a translation is a share of.
_WARPS: dict[str, tuple[Callable[..., Tensor], int | None]] = {
    "ShearX": (warp.shear_x, None),
    "ShearY": (warp.shear_y, None),
    "TranslateXRel": (warp.translate_x, -1),
    "TranslateYRel": (warp.translate_y, -2),
    "Rotate": (warp.rotate, None),
}
