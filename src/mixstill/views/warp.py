"""Geometric operations, per sample, as timm's on Pillow images: Image.transform(AFFINE) and Image.rotate.

Each output pixel looks up the source at a place; where that is outside the image, it gets the fill colour. Results
differ from Pillow's by at most one level, and that where float32 falls on the other side of an integer than double.

Shapes: B samples, H x W pixels. Parameters are [B], on any device, as is `bicubic` (bool; false means bilinear);
`fill` is a colour in [0, 255]^3. Coordinates are in pixels, x to the right and y down, and count from the centre of
the upper left pixel. Pixel-sized temporaries are integers or float32, and nothing selects by a boolean mask: on a CPU
torch.where costs as much as all the rest.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mixstill.views.tone import per_sample, to_bytes

Fill = tuple[int, int, int]

# Levels are cut, not rounded: what is an integer but for float32's error must not fall short of it.
_NUDGE = 2.0**-11

# A rotation's coordinates are integers in units of 2**-18 pixels: exact to floor, and enough for 5700 pixels a side.
_FIXED = 18

_X, _Y = 3, 2  # axes of pixels


def shear_x(pixels: Tensor, factor: Tensor, *, bicubic: Tensor, fill: Fill) -> Tensor:
    """Row y takes from `factor` * (y + 1/2) pixels to the right: uint8 [B, 3, H, W] -> the same."""
    return slide_x(pixels, factor, torch.zeros_like(factor), bicubic=bicubic, fill=fill)


def shear_y(pixels: Tensor, factor: Tensor, *, bicubic: Tensor, fill: Fill) -> Tensor:
    """Column x takes from `factor` * (x + 1/2) pixels below: uint8 [B, 3, H, W] -> the same."""
    return slide_y(pixels, factor, torch.zeros_like(factor), bicubic=bicubic, fill=fill)


def translate_x(pixels: Tensor, offset: Tensor, *, bicubic: Tensor, fill: Fill) -> Tensor:
    """Every pixel takes from `offset` pixels to the right: uint8 [B, 3, H, W] -> the same."""
    return slide_x(pixels, torch.zeros_like(offset), offset, bicubic=bicubic, fill=fill)


def translate_y(pixels: Tensor, offset: Tensor, *, bicubic: Tensor, fill: Fill) -> Tensor:
    """Every pixel takes from `offset` pixels below: uint8 [B, 3, H, W] -> the same."""
    return slide_y(pixels, torch.zeros_like(offset), offset, bicubic=bicubic, fill=fill)


def slide_x(pixels: Tensor, slope: Tensor, offset: Tensor, *, bicubic: Tensor, fill: Fill) -> Tensor:
    """Shears and translations in one: row y takes from `slope` * (y + 1/2) + `offset` pixels to the right."""
    return _slide(pixels, slope, offset, _X, bicubic, fill)


def slide_y(pixels: Tensor, slope: Tensor, offset: Tensor, *, bicubic: Tensor, fill: Fill) -> Tensor:
    """Shears and translations in one: column x takes from `slope` * (x + 1/2) + `offset` pixels below."""
    return _slide(pixels, slope, offset, _Y, bicubic, fill)


def rotate(pixels: Tensor, degrees: Tensor, *, bicubic: Tensor, fill: Fill) -> Tensor:
    """Turn counter-clockwise about the centre: uint8 [B, 3, H, W] -> the same."""
    angle = -torch.deg2rad(per_sample(degrees, pixels, torch.float64))
    cos, sin = angle.cos(), angle.sin()
    middle_y, middle_x = ((pixels.shape[axis] - 1) / 2 for axis in (_Y, _X))
    y, x = _along(pixels, _Y) - middle_y, _along(pixels, _X) - middle_x
    across = _fixed(cos * x + middle_x) + _fixed(sin * y)
    down = _fixed(middle_y - sin * x) + _fixed(cos * y)
    return _sample(pixels, across, down, per_sample(bicubic, pixels, torch.float32), fill)


def _along(pixels: Tensor, axis: int, dtype: torch.dtype = torch.float64, extra: int = 0) -> Tensor:
    """0, 1, ... along an axis of pixels, and `extra` more: [1, 1, H, 1] or [1, 1, 1, W]."""
    count = torch.arange(pixels.shape[axis] + extra, dtype=dtype, device=pixels.device)
    return count.view(1, 1, -1, 1) if axis == _Y else count.view(1, 1, 1, -1)


def _taps(fraction: Tensor, bicubic: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the pixels at -1, 0, 1 and 2 for a place at `fraction` in [0, 1).

    Image.transform's kernel is Keys's cubic with a = -1 (that of Image.resize has -1/2): at a distance d it is
    e + t e and d + t d of the two near pixels, -t e and -t d of the far ones, where e = 1 - d and t = d e. Without t
    it is the linear one. `bicubic` is 1 or 0.
    """
    d, e = fraction, 1 - fraction
    t = d * e * bicubic
    far_e, far_d = t * e, t * d
    return -far_e, e + far_e, d + far_d, -far_d


def _slide(pixels: Tensor, slope: Tensor, offset: Tensor, axis: int, bicubic: Tensor, fill: Fill) -> Tensor:
    """Each line of pixels along `axis` takes from its own distance along it: uint8 [B, 3, H, W] -> the same."""
    size, lines = pixels.shape[axis], _along(pixels, _X + _Y - axis)
    shift = per_sample(slope, pixels, torch.float64) * (lines + 0.5) + per_sample(offset, pixels, torch.float64)
    shift = shift.clamp_(-size - 1, size + 1)  # [B, 1, H, 1] or [B, 1, 1, W]
    first = shift.floor()  # where a line's pixel 0 looks, and the fraction beyond it
    part = shift - first
    first = first.to(torch.int32)

    count = _along(pixels, axis, torch.int32, 3)
    reach = (first - 1 + count).clamp_(0, size - 1)
    lines = lines.to(torch.int32)
    width = pixels.shape[_X]
    index = lines * width + reach if axis == _X else reach * width + lines
    wide = pixels.flatten(2).gather(2, index.flatten(1).long().unsqueeze(1).expand(-1, 3, -1))
    wide = wide.view(-1, 3, *index.shape[2:]).float()

    weights = _taps(part.float(), per_sample(bicubic, pixels, torch.float32))
    levels = torch.addcmul(wide.new_full((), _NUDGE), wide.narrow(axis, 0, size), weights[0])
    for tap in range(1, 4):
        levels.addcmul_(wide.narrow(axis, tap, size), weights[tap])

    # Inside from half a pixel before the first centre on, for just `size` pixels.
    inner = first + (part >= 0.5).to(torch.int32) + count.narrow(axis, 0, size)
    return _fill_outside(to_bytes(levels), _outside(inner, size), fill)


def _sample(pixels: Tensor, x: Tensor, y: Tensor, bicubic: Tensor, fill: Fill) -> Tensor:
    """The source at the places (x, y) int32 [B, 1, H, W], in fixed point: uint8 [B, 3, H, W] -> the same."""
    height, width = pixels.shape[-2:]
    half = 1 << (_FIXED - 1)
    outside = _outside(x + half, width << _FIXED) | _outside(y + half, height << _FIXED)
    weights_x, weights_y = (_taps(_fraction(place), bicubic) for place in (x, y))

    # Two more pixels on each side, so that every tap is the same list of places in a source that starts elsewhere.
    padded = pixels.new_empty(*pixels.shape[:2], height + 4, width + 4)
    padded[..., 2:-2, 2:-2] = pixels
    padded[..., 2:-2, :2], padded[..., 2:-2, -2:] = pixels[..., :1], pixels[..., -1:]
    padded[..., :2, :], padded[..., -2:, :] = padded[..., 2:3, :], padded[..., -3:-2, :]
    top, left = ((place >> _FIXED).clamp_(-1, size - 1) + 1 for place, size in ((y, height), (x, width)))
    index = (top * (width + 4) + left).flatten(1).long().unsqueeze(1).expand(-1, 3, -1)

    source = padded.flatten(2)
    levels = torch.full(pixels.shape, _NUDGE, device=pixels.device)
    for row, weight_y in enumerate(weights_y):
        for column, weight_x in enumerate(weights_x):
            tap = source[..., row * (width + 4) + column :].gather(2, index)
            levels.addcmul_(tap.view(pixels.shape).float(), weight_y * weight_x)
    return _fill_outside(to_bytes(levels), outside, fill)


def _fixed(places: Tensor) -> Tensor:
    return (places * 2**_FIXED).round_().to(torch.int32)


def _fraction(places: Tensor) -> Tensor:
    return (places & ((1 << _FIXED) - 1)).float() * 2.0**-_FIXED


def _outside(places: Tensor, size: int) -> Tensor:
    """int32 of any shape -> int32, all bits set where a place is not in [0, size), else none."""
    return (places | (size - 1 - places)) >> 31


def _fill_outside(levels: Tensor, outside: Tensor, fill: Fill) -> Tensor:
    """The colour where `outside` [B, 1, H or 1, W or 1] has all bits set: uint8 [B, 3, H, W] -> the same."""
    colour = _colour(fill, levels.device)
    return ((levels ^ colour).bitwise_and_(outside.to(torch.uint8))).bitwise_xor_(levels)


@lru_cache(maxsize=64)
def _colour(fill: Fill, device: torch.device) -> Tensor:
    return torch.tensor(fill, dtype=torch.uint8, device=device).view(1, 3, 1, 1)
