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

from mixstill.views.kernels import kernel
from mixstill.views.tone import per_sample, to_bytes

Fill = tuple[int, int, int]

# Levels are cut, not rounded: what is an integer but for float32's error must not fall short of it.
_NUDGE = 2.0**-11

# A rotation's coordinates are integers in units of 2**-18 pixels: exact to floor, and enough for 5700 pixels a side.
_FIXED = 18
_UNIT = 1 << _FIXED

_X, _Y = 3, 2  # axes of pixels


def slide_x(pixels: Tensor, factor: Tensor, offset: Tensor, *, bicubic: Tensor, fill: Fill) -> Tensor:
    """Shears and translations in one: row y takes from `factor` * (y + 1/2) + `offset` pixels to the right."""
    return _slide(pixels, factor, offset, _X, bicubic, _colour(fill, pixels.device))


def slide_y(pixels: Tensor, factor: Tensor, offset: Tensor, *, bicubic: Tensor, fill: Fill) -> Tensor:
    """Shears and translations in one: column x takes from `factor` * (x + 1/2) + `offset` pixels below."""
    return _slide(pixels, factor, offset, _Y, bicubic, _colour(fill, pixels.device))


def rotate(pixels: Tensor, degrees: Tensor, *, bicubic: Tensor, fill: Fill) -> Tensor:
    """Turn counter-clockwise about the centre: uint8 [B, 3, H, W] -> the same."""
    return _rotate(pixels, degrees, bicubic, _colour(fill, pixels.device))


@kernel
def _rotate(pixels: Tensor, degrees: Tensor, bicubic: Tensor, colour: Tensor) -> Tensor:
    angle = -torch.deg2rad(per_sample(degrees, pixels, torch.float64))
    cos, sin = angle.cos(), angle.sin()
    middle_y, middle_x = ((pixels.shape[axis] - 1) / 2 for axis in (_Y, _X))
    y, x = _count(pixels, _Y) - middle_y, _count(pixels, _X) - middle_x
    by_column = _fixed(torch.stack([cos * x + middle_x, middle_y - sin * x]))
    by_row = _fixed(torch.stack([sin * y, cos * y]))
    return _sample(pixels, by_column + by_row, per_sample(bicubic, pixels, torch.float32), colour)


def _count(pixels: Tensor, axis: int, dtype: torch.dtype = torch.float64, before: int = 0, after: int = 0) -> Tensor:
    """0, 1, ... along an axis of pixels, and so many more before and after: [1, 1, H, 1] or [1, 1, 1, W]."""
    count = torch.arange(-before, pixels.shape[axis] + after, dtype=dtype, device=pixels.device)
    return count.view(1, 1, -1, 1) if axis == _Y else count.view(1, 1, 1, -1)


def _sheared(pixels: Tensor, factor: Tensor, axis: int) -> Tensor:
    return per_sample(factor, pixels, torch.float64) * (_count(pixels, axis) + 0.5)


def _taps(fraction: Tensor, bicubic: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the pixels at -1, 0, 1 and 2 for a place at `fraction` in [0, 1).

    Image.transform's kernel is Keys's cubic with a = -1 (that of Image.resize has -1/2). With d the fraction, e = 1 - d
    and t = d e, the two near pixels weigh e + t e and d + t d, the far ones -t e and -t d. Without t this is the linear
    kernel. `bicubic` is 1 or 0.
    """
    d, e = fraction, 1 - fraction
    t = d * e * bicubic
    before, beyond = -t * e, -t * d
    return before, e - before, d - beyond, beyond


@kernel
def _slide(pixels: Tensor, factor: Tensor, offset: Tensor, axis: int, bicubic: Tensor, colour: Tensor) -> Tensor:
    """Every line of pixels along `axis` takes from `shift` pixels further on: uint8 [B, 3, H, W] -> the same.

    `shift` float64 [B, 1, H or 1, W or 1] has a value for each line, or one for all.
    """
    size, width = pixels.shape[axis], pixels.shape[_X]
    shift = _sheared(pixels, factor, _X + _Y - axis) + per_sample(offset, pixels, torch.float64)
    shift = shift.clamp(-size - 1, size + 1)
    first = shift.floor()  # where a line's pixel 0 looks, and the fraction beyond it
    weights = _taps((shift - first).float(), per_sample(bicubic, pixels, torch.float32))

    count = _count(pixels, axis, torch.int32, before=1, after=2)
    lines = _count(pixels, _X + _Y - axis, torch.int32)
    reach = (first.to(torch.int32) + count).clamp_(0, size - 1)
    index = lines * width + reach if axis == _X else reach * width + lines
    wide = pixels.flatten(2).gather(2, index.flatten(1).long().unsqueeze(1).expand(-1, 3, -1))
    wide = wide.view(-1, 3, *index.shape[2:]).float()
    levels = torch.addcmul(wide.new_full((), _NUDGE), wide.narrow(axis, 0, size), weights[0])
    for tap in range(1, 4):
        levels.addcmul_(wide.narrow(axis, tap, size), weights[tap])

    # Inside from half a pixel before the first centre on, for just `size` pixels.
    inner = (shift + 0.5).floor_().to(torch.int32) + count.narrow(axis, 1, size)
    return _fill_outside(to_bytes(levels), _outside(inner, size), colour)


def _sample(pixels: Tensor, places: Tensor, bicubic: Tensor, colour: Tensor) -> Tensor:
    """The source at places in fixed point: uint8 [B, 3, H, W], int32 [2 (x, y), B, 1, H, W] -> uint8 [B, 3, H, W]."""
    height, width = pixels.shape[-2:]
    weights = _taps((places & (_UNIT - 1)).float().div_(_UNIT), bicubic)
    weights_x, weights_y = zip(*(tap.flatten(3).unbind() for tap in weights), strict=True)
    x, y = (places + _UNIT // 2).unbind()
    outside = _outside(x, width * _UNIT) | _outside(y, height * _UNIT)

    # Two more pixels on each side, so that every tap is the same list of places in a source that starts elsewhere.
    padded = pixels.new_empty(*pixels.shape[:2], height + 4, width + 4)
    padded[..., 2:-2, 2:-2] = pixels
    padded[..., 2:-2, :2], padded[..., 2:-2, -2:] = pixels[..., :1], pixels[..., -1:]
    padded[..., :2, :], padded[..., -2:, :] = padded[..., 2:3, :], padded[..., -3:-2, :]
    source, pitch = padded.flatten(2), width + 4
    left, top = (places >> _FIXED).unbind()
    index = (top.clamp_(-1, height - 1) + 1) * pitch + (left.clamp_(-1, width - 1) + 1)
    index = index.flatten(2).long().expand(-1, 3, -1)

    levels = torch.full(index.shape, _NUDGE, device=pixels.device)
    for row, weight_y in enumerate(weights_y):
        for column, weight_x in enumerate(weights_x):
            tap = source[..., row * pitch + column :].gather(2, index)
            levels.addcmul_(tap.float(), weight_y * weight_x)
    return _fill_outside(to_bytes(levels).view(pixels.shape), outside, colour)


def _fixed(places: Tensor) -> Tensor:
    return (places * _UNIT).round_().to(torch.int32)


def _outside(places: Tensor, size: int) -> Tensor:
    """int32 of any shape -> int32, all bits set where a place is not in [0, size), else none."""
    return (places | (size - 1 - places)) >> 31


def _fill_outside(levels: Tensor, outside: Tensor, colour: Tensor) -> Tensor:
    """The colour where `outside` [B, 1, H or 1, W or 1] has all bits set: uint8 [B, 3, H, W] -> the same."""
    return ((levels ^ colour).bitwise_and_(outside.to(torch.uint8))).bitwise_xor_(levels)


@lru_cache(maxsize=64)
def _colour(fill: Fill, device: torch.device) -> Tensor:
    return torch.tensor(fill, dtype=torch.uint8, device=device).view(1, 3, 1, 1)
