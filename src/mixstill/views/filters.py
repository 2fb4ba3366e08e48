"""Filters over neighbouring pixels, per sample, as Pillow's ImageFilter and ImageEnhance compute them.

Shapes: B samples, H x W pixels. Parameters are [B], on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixstill.views.kernels import kernel
from mixstill.views.tone import blend, to_bytes

PASSES = 3  # box blurs in Pillow's Gaussian blur


@kernel
def sharpness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the smoothed image, ImageEnhance.Sharpness: uint8 [B, 3, H, W] -> the same.

    Smoothing (ImageFilter.SMOOTH) weights a pixel 5 and its eight neighbours 1 each, and leaves the outermost pixels.
    """
    height, width = pixels.shape[-2:]
    sharp = pixels.clone()
    if min(height, width) < 3:
        return sharp
    # One line for each sample: sums of neighbours that wrap around an edge belong to outermost pixels.
    line = pixels.flatten(1).to(torch.int16)
    across = (line[:, :-2] + line[:, 1:-1]).add_(line[:, 2:])
    square = (across[:, : -2 * width] + across[:, width:-width]).add_(across[:, 2 * width :])
    centre = line[:, width + 1 : -width - 1]
    smooth = torch.add(square, centre, alpha=4).add(6.5).mul_(1 / 13).floor_()  # rounded: no thirteenth is a half
    blended = torch.empty_like(sharp)
    blended.flatten(1)[:, width + 1 : -width - 1] = blend(smooth, centre.float(), factor)
    sharp[..., 1:-1, 1:-1] = blended[..., 1:-1, 1:-1]
    return sharp


@kernel
def gaussian_blur(pixels: Tensor, radius: Tensor) -> Tensor:
    """Blur by a Gaussian of standard deviation `radius`, as ImageFilter.GaussianBlur: uint8 [B, 3, H, W] -> the same.

    Pillow's three extended box blurs along each axis (Gwosdek et al., 2011), here as one matrix per axis and sample.
    Pillow rounds after each of the six passes, here only the result is rounded.
    """
    box = _box_radius(radius.to(pixels.device, torch.float32, non_blocking=True)).view(-1, 1, 1)
    batch, _, height, width = pixels.shape
    rows = _blur_matrix(box, height)
    columns = rows if width == height else _blur_matrix(box, width)
    levels = pixels.transpose(1, 2).reshape(batch, -1, width).float() @ columns.mT  # [B, 3H, W], row by row
    levels = (rows @ levels.view(batch, height, -1)).add_(0.5)  # [B, H, 3W]
    return to_bytes(levels).view(batch, height, 3, width).transpose(1, 2).contiguous()


def _blur_matrix(box: Tensor, size: int) -> Tensor:
    """`PASSES` extended box blurs of an axis that repeats its edges: float32 [B, 1, 1] -> float32 [B, size, size].

    A box of radius r weights a pixel at distance k by r + 1 - k, at most 1 and at least 0.
    """
    pixel = torch.arange(size, dtype=torch.float32, device=box.device)
    once = (box + 1 - (pixel - pixel.view(-1, 1)).abs()).clamp_(0, 1)
    beyond = (box.squeeze(2) - pixel).clamp_(min=0)  # what of a box around a pixel lies before pixel 0
    once[:, :, 0] += beyond
    once[:, :, -1] += beyond.flip(1)
    once /= 2 * box + 1
    blurred = once
    for _ in range(PASSES - 1):
        blurred = blurred @ once
    return blurred


def _box_radius(radius: Tensor) -> Tensor:
    """The radius of one of `PASSES` extended boxes whose sum has the variance of the Gaussian: float32 [B] -> [B]."""
    variance = radius * radius / PASSES
    whole = ((12 * variance + 1).sqrt() - 1).div(2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + part
