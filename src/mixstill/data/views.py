"""What a training sample looks like: batched on the device, each draw a function of (seed, epoch, sample id).

Shapes: B batch, H x W pixels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mixstill import rng
from mixstill.config import ViewsConfig

# Which draw of a sample is for what. A new kind of view takes the next numbers and leaves these as they are.
ROW, COLUMN, FLIP = 0, 1, 2
DRAWS = 3


def train_views(pixels: Tensor, ids: Tensor, config: ViewsConfig, seed: int, epoch: int) -> Tensor:
    """Crop at random from the zero-padded image, then flip at random: uint8 [B, 3, H, W] -> float32 in [0, 1].

    Per sample what torchvision's RandomCrop((H, W), padding=pad) and RandomHorizontalFlip do; `ids` int64 [B] say
    which samples these are. Row and column offsets are uniform over 0..2*pad.
    """
    height, width = pixels.shape[-2:]
    words = rng.bits(seed, rng.Domain.VIEW, epoch, ids, DRAWS)
    places = 2 * config.pad + 1
    top, left = rng.integers(words[:, ROW, None], places), rng.integers(words[:, COLUMN, None], places)
    flip = words[:, FLIP, None] < round(config.hflip * 2**32)

    rows = torch.arange(height, device=ids.device) + top
    columns = torch.arange(width, device=ids.device)
    columns = torch.where(flip, width - 1 - columns, columns) + left
    padded = F.pad(pixels, (config.pad,) * 4)
    index = (rows.unsqueeze(2) * padded.shape[-1] + columns.unsqueeze(1)).flatten(1)  # [B, H*W] into the padded image
    views = padded.flatten(2).gather(2, index.unsqueeze(1).expand(-1, pixels.shape[1], -1))
    return to_float(views.view(pixels.shape))


def to_float(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1], of any shape: what evaluation sees."""
    return torch.div(pixels, 255)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images - mean) / std by channel: float [B, 3, H, W] in [0, 1] -> float [B, 3, H, W]."""
    centre, scale = (_channels(values, images.device, images.dtype) for values in (mean, std))
    return (images - centre) / scale


def denormalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """images * std + mean by channel, the inverse of `normalise`: float [B, 3, H, W] -> float [B, 3, H, W]."""
    centre, scale = (_channels(values, images.device, images.dtype) for values in (mean, std))
    return images * scale + centre


@lru_cache(maxsize=64)
def _channels(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype).view(-1, 1, 1)


def resize(images: Tensor, size: int) -> Tensor:
    """Bicubic and antialiased, kept within [0, 1]: float [B, 3, H, W] in [0, 1] -> [B, 3, size, size]."""
    if images.shape[-2:] == (size, size):
        return images
    scaled = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    return scaled.clamp(0, 1)
