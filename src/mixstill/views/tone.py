"""Operations on the levels of a pixel, per sample, as Pillow's ImageOps and ImageEnhance compute them.

Most are a table of 256 levels for each channel. A `*_table` function gives the tables, uint8 [B, 3, 256], so that
`apply_table` can apply the concatenated tables of several operations in one pass. What colour jitter takes alone has
a function of the same name without `_table` that does both.

Shapes: B samples, H x W pixels. Parameters are [B], on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixstill.views.kernels import kernel

# ITU-R 601-2 luma in 16 bits, as Pillow's conversion to "L" has it.
_RED, _GREEN, _BLUE = 19595, 38470, 7471


def per_sample(parameter: Tensor, pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """A parameter [B] on the device of `pixels` [B, ...], with as many axes as they have."""
    moved = parameter.to(pixels.device, dtype, non_blocking=True)
    return moved.view(-1, *(1,) * (pixels.ndim - 1))


def to_bytes(levels: Tensor) -> Tensor:
    """Float levels, clipped to [0, 255] and cut to integers as a C cast does; overwrites its input."""
    return levels.clamp_(0, 255).to(torch.int16).to(torch.uint8)  # twice as fast on a CPU as in one conversion


def blend(degenerate: Tensor, levels: Tensor, factor: Tensor) -> Tensor:
    """degenerate + factor * (levels - degenerate), clipped: PIL.Image.blend. Float32 [B, ...] -> uint8 of that shape.

    `degenerate` may be of a smaller shape that expands to that of `levels`.
    """
    difference = levels - degenerate
    return to_bytes(difference.mul_(per_sample(factor, levels, torch.float32)).add_(degenerate))


def luma(pixels: Tensor) -> Tensor:
    """Pillow's conversion to "L": uint8 [B, 3, H, W] -> int32 [B, 1, H, W] in [0, 255]."""
    red, green, blue = pixels.int().unsqueeze(2).unbind(1)
    return (red * _RED + green * _GREEN + blue * _BLUE + (1 << 15)) >> 16


@kernel
def grayscale(pixels: Tensor) -> Tensor:
    """The luma in all three channels: torchvision's Grayscale(3). uint8 [B, 3, H, W] -> the same."""
    return luma(pixels).to(torch.uint8).repeat(1, 3, 1, 1)


@kernel
def color(pixels: Tensor, factor: Tensor) -> Tensor:
    """Saturation: blend with the luma, ImageEnhance.Color. uint8 [B, 3, H, W] -> the same."""
    return blend(luma(pixels).float(), pixels.float(), factor)


@kernel
def apply_table(pixels: Tensor, table: Tensor) -> Tensor:
    """Every level through its sample's and channel's table: uint8 [B, 3, H, W], [B, 3, 256] -> uint8 [B, 3, H, W]."""
    return table.gather(2, pixels.flatten(2).long()).view(pixels.shape)


def _levels(pixels: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
    """0, 1, ..., 255 as [1, 1, 256]."""
    return torch.arange(256, dtype=dtype, device=pixels.device).view(1, 1, 256)


def _table(levels: Tensor, pixels: Tensor) -> Tensor:
    """Levels in [0, 255], cut to integers, of a shape that expands to [B, 3, 256] -> uint8 [B, 3, 256]."""
    return levels.to(torch.uint8).expand(pixels.shape[0], 3, 256)


@kernel
def autocontrast_table(pixels: Tensor) -> Tensor:
    """Stretch each channel from its darkest and lightest level to 0 and 255: ImageOps.autocontrast."""
    flat = pixels.flatten(2)
    low, high = flat.amin(2, keepdim=True).double(), flat.amax(2, keepdim=True).double()
    span = high - low
    one_level = (span == 0).double()
    # Pillow's own roundings, in double: with others some products fall short of an integer.
    scale = torch.full_like(span, 255).div_(span + one_level)
    scale, offset = torch.lerp(scale, one_level, one_level), -low * scale * (1 - one_level)
    return _table((_levels(pixels, torch.float64) * scale).add_(offset).clamp_(0, 255), pixels)


@kernel
def equalize_table(pixels: Tensor) -> Tensor:
    """Make each channel's histogram flat: ImageOps.equalize."""
    flat = pixels.flatten(2)
    one = torch.ones((), dtype=torch.int32, device=pixels.device)
    histogram = torch.zeros(*flat.shape[:2], 256, dtype=torch.int32, device=pixels.device)
    histogram.scatter_add_(2, flat.long(), one.expand(flat.shape))
    lightest = histogram.gather(2, flat.amax(2, keepdim=True).long())
    step = (flat.shape[2] - lightest) // 255
    below = histogram.cumsum(2, dtype=torch.int32).sub_(histogram).add_(step // 2)
    spread = below.double().div_(step.clamp(min=1)).clamp_(max=255)
    found = (step > 0).double()
    return _table(spread.mul_(found).add_(_levels(pixels, torch.float64) * (1 - found)), pixels)


def invert_table(pixels: Tensor) -> Tensor:
    """255 minus each level: ImageOps.invert."""
    return _table(255 - _levels(pixels), pixels)


@kernel
def posterize_table(pixels: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` of each level, all from 8 on and none at 0: ImageOps.posterize, which refuses 0."""
    kept = (0xFF00 >> per_sample(bits, pixels[..., 0], torch.int32).clamp(max=8)) & 0xFF
    return _table(_levels(pixels) & kept, pixels)


@kernel
def solarize_table(pixels: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels from `threshold` on: ImageOps.solarize."""
    levels = _levels(pixels)
    inverted = levels >= per_sample(threshold, pixels[..., 0], torch.int32)
    return _table(levels ^ inverted.int().mul_(255), pixels)


@kernel
def solarize_add_table(pixels: Tensor, add: Tensor) -> Tensor:
    """Add `add` to the levels below 128: timm's solarize_add."""
    levels = _levels(pixels)
    raised = (levels < 128).int() * per_sample(add, pixels[..., 0], torch.int32)
    return _table(raised.add_(levels).clamp_(max=255), pixels)


@kernel
def brightness_table(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with black: ImageEnhance.Brightness."""
    levels = _levels(pixels, torch.float32)
    return _table(to_bytes(levels * per_sample(factor, levels, torch.float32)), pixels)


@kernel
def contrast_table(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean luma: ImageEnhance.Contrast."""
    luminance = luma(pixels).flatten(2)
    count = luminance.shape[2]
    mean = (2 * luminance.sum(2, keepdim=True) + count) // (2 * count)  # of the integers, halves go up
    levels = _levels(pixels, torch.float32).expand(pixels.shape[0], 1, 256)
    return _table(blend(mean.float(), levels, factor), pixels)


def solarize(pixels: Tensor, threshold: Tensor) -> Tensor:
    """`solarize_table` applied: uint8 [B, 3, H, W] -> the same."""
    return apply_table(pixels, solarize_table(pixels, threshold))


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """`brightness_table` applied: uint8 [B, 3, H, W] -> the same."""
    return apply_table(pixels, brightness_table(pixels, factor))


def contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """`contrast_table` applied: uint8 [B, 3, H, W] -> the same."""
    return apply_table(pixels, contrast_table(pixels, factor))
