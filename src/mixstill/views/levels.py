"""How strong an operation is at a magnitude: the arguments of RandAugment's operations, as in timm's `LEVEL_TO_ARG`.

Shapes: ... any.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from functools import lru_cache

import torch
from torch import Tensor

_FULL_SCALE = 10.0


@dataclass(frozen=True)
class Level:
    """argument = clamp(offset + sign * step(scale * magnitude / 10), low, high)."""

    scale: float = 0.0
    offset: float = 0.0
    signed: bool = False
    """The sign is drawn; otherwise it is that of `falling`."""
    falling: bool = False
    whole: bool = False
    """step cuts off the fraction."""
    low: float = -math.inf
    high: float = math.inf


_NONE = Level()
_ENHANCE = Level(1.8, 0.1)
_ENHANCE_BOTH_WAYS = Level(0.9, 1.0, signed=True, low=0.1)

# Operations that are tables of 256 values stand first, then those that blend, then those that move pixels:
# `randaugment` carries each family out together.
LEVELS: dict[str, Level] = {
    "AutoContrast": _NONE,
    "Equalize": _NONE,
    "Invert": _NONE,
    "Posterize": Level(4, whole=True),
    "PosterizeIncreasing": Level(4, 4, falling=True, whole=True),
    "Solarize": Level(256, whole=True, high=256),
    "SolarizeIncreasing": Level(256, 256, falling=True, whole=True, low=0),
    "SolarizeAdd": Level(110, whole=True, high=128),
    "Contrast": _ENHANCE,
    "ContrastIncreasing": _ENHANCE_BOTH_WAYS,
    "Brightness": _ENHANCE,
    "BrightnessIncreasing": _ENHANCE_BOTH_WAYS,
    "Color": _ENHANCE,
    "ColorIncreasing": _ENHANCE_BOTH_WAYS,
    "Desaturate": Level(0.5, 0.5, low=0.5, high=1.0),
    "Sharpness": _ENHANCE,
    "SharpnessIncreasing": _ENHANCE_BOTH_WAYS,
    "GaussianBlur": Level(1.9, 0.1, low=0.1, high=2.0),
    "ShearX": Level(0.3, signed=True),
    "TranslateXRel": Level(0.45, signed=True),
    "ShearY": Level(0.3, signed=True),
    "TranslateYRel": Level(0.45, signed=True),
    "Rotate": Level(30.0, signed=True),
}
OPS = tuple(LEVELS)
CODES = {name: code for code, name in enumerate(OPS)}


def arguments(ops: Tensor, magnitudes: Tensor, negative: Tensor) -> Tensor:
    """The argument of each operation at its magnitude; 0 for those that take none.

    ops int64 [...] index `OPS`, magnitudes float64 [...] in [0, ...), negative bool [...] -> float64 [...]: a factor
    (ShearX, ShearY, Color, Contrast, Brightness, Sharpness; Desaturate: what is taken away), a share of the side
    (TranslateXRel, TranslateYRel), degrees (Rotate), bits (Posterize), a threshold (Solarize), what is added
    (SolarizeAdd), a radius in pixels (GaussianBlur).
    """
    scale, offset, signed, falling, whole, low, high = _columns()[ops].unbind(-1)
    step = (magnitudes / _FULL_SCALE) * scale
    step = torch.where(whole > 0, step.trunc(), step)
    minus = torch.where(signed > 0, negative, falling > 0)
    return torch.clamp(torch.where(minus, offset - step, offset + step), low, high)


@lru_cache(maxsize=1)
def _columns() -> Tensor:
    """The fields of all levels, float64 [operations, fields]."""
    return torch.tensor([astuple(level) for level in LEVELS.values()], dtype=torch.float64)
