"""Antialiased cropping and resizing, per sample, as Pillow's Image.resize computes it: two matrix products.

Shapes: B samples, H x W pixels of the source, `out` x `out` of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixstill.views.tone import to_bytes


def weights(start: Tensor, extent: Tensor, out: int, size: int, bicubic: Tensor) -> Tensor:
    """How `out` pixels are made of those in the window [start, start + extent) of an axis of `size` pixels.

    `start`, `extent` int [B] with 0 <= start and start + extent <= size; `bicubic` bool [B], false means bilinear ->
    float32 [B, out, size], each row summing to 1. The kernel (Keys with a = -1/2, or a triangle) is as much wider than
    on the source's grid as the window shrinks, and reaches no pixel outside the window.
    """
    start, extent, cubic = (tensor.float().view(-1, 1, 1) for tensor in (start, extent, bicubic))
    scale = extent / out
    stretch = scale.clamp(min=1)
    centre = start + (torch.arange(out, dtype=torch.float32, device=start.device) + 0.5).view(1, -1, 1) * scale
    pixel = torch.arange(size, dtype=torch.float32, device=start.device) + 0.5
    beyond = (start - pixel).clamp_(min=0) + (pixel - start - extent).clamp_(min=0)  # the window: 0 or at least a half
    place = pixel / stretch + beyond * 1e6  # too far for any tap
    # Keys's cubic in truncated powers of the distance d, u = (2 - d)+ and v = (1 - d)+, of which v is the triangle:
    # (u - 1) u^2 / 2 + v^2 - 2 v^3.
    u = (2 - (place - centre / stretch).abs_()).clamp_(min=0)
    w = u - 1
    v = w.clamp(min=0)
    square = v * v
    keys = torch.addcmul(square, square, v, value=-2).addcmul_(u.square_(), w, value=0.5)
    kernel = torch.lerp(v, keys, cubic)
    return kernel.div_(kernel.sum(2, keepdim=True))


def resize_windows(
    pixels: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, out: int, bicubic: Tensor
) -> Tensor:
    """Cut a window out of each sample and resize it: uint8 [B, 3, H, W] -> uint8 [B, 3, out, out].

    `top`, `left`, `height`, `width` int [B], in pixels, the window within the image; `bicubic` bool [B].
    """
    top, left, height, width, bicubic = (
        tensor.to(pixels.device, non_blocking=True) for tensor in (top, left, height, width, bicubic)
    )
    rows = weights(top, height, out, pixels.shape[-2], bicubic)
    columns = weights(left, width, out, pixels.shape[-1], bicubic)
    # Pillow too rounds in between, and goes across first (since its version 13 only where that is the less work).
    batch, _, height_in, width_in = pixels.shape
    levels = pixels.transpose(1, 2).reshape(batch, -1, width_in).float() @ columns.mT  # [B, 3H, out], row by row
    levels = levels.add_(0.5).floor_().clamp_(0, 255).view(batch, height_in, -1)  # [B, H, 3 out]
    levels = (rows @ levels).add_(0.5)  # [B, out, 3 out]
    return to_bytes(levels).view(batch, out, 3, out).transpose(1, 2).contiguous()
