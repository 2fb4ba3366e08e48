"""Which part of an image a view shows: pad-crop, random resized crop, DeiT III's simple random crop, and flips.

All from the draws of `Domain.VIEW`, numbered here. A new kind of view takes the next numbers and leaves these.

Shapes: B batch, D draws, H x W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mixstill import rng
from mixstill.config import ViewsConfig
from mixstill.views.draws import below, between, chance
from mixstill.views.resample import resize_windows
from mixstill.views.sorting import Sorting
from mixstill.views.tone import to_bytes

ROW, COLUMN, FLIP, VFLIP, INTERPOLATION = range(5)
# Each attempt of a random resized crop takes four words: area, aspect ratio, row, column.
_ATTEMPTS, _FIRST_ATTEMPT = 10, 8
RRC_DRAWS = _FIRST_ATTEMPT + 4 * _ATTEMPTS

SRC_PAD = 4


def crop_words(
    ids: Tensor, repeats: Tensor, config: ViewsConfig, seed: int, epoch: int, *, cropped: bool = False
) -> Tensor:
    """All that crop and flips of these views draw, or the flips alone: int64 [B] each, on the CPU -> int64 [B, D]."""
    draws = RRC_DRAWS if config.crop == "rrc" and not cropped else VFLIP + 1
    return rng.bits(seed, rng.Domain.VIEW, epoch, ids, draws, repeats)


def rrc_boxes(
    words: Tensor, widths: Tensor, heights: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """The boxes of torchvision's `RandomResizedCrop`: a uniform share of the area, a log-uniform aspect ratio.

    The first of ten attempts that fits, else the central crop of the nearest allowed ratio. `words` int64
    [B, RRC_DRAWS] are those of `crop_words`; widths, heights int64 [B] -> int64 [B, 4] (top, left, height, width).
    """
    areas, ratios, rows, columns = words[:, _FIRST_ATTEMPT:RRC_DRAWS].reshape(-1, _ATTEMPTS, 4).unbind(2)
    area = (widths * heights).unsqueeze(1) * between(areas, *scale)
    aspect = torch.exp(between(ratios, math.log(ratio[0]), math.log(ratio[1])))
    width, height = torch.sqrt(area * aspect).round().long(), torch.sqrt(area / aspect).round().long()
    fits = (width > 0) & (width <= widths.unsqueeze(1)) & (height > 0) & (height <= heights.unsqueeze(1))
    first = fits.int().argmax(1, keepdim=True)
    height, width, row, column = (values.gather(1, first).squeeze(1) for values in (height, width, rows, columns))
    drawn = torch.stack([below(row, heights - height + 1), below(column, widths - width + 1), height, width], 1)
    return torch.where(fits.any(1, keepdim=True), drawn, _central(widths, heights, ratio))


def _central(widths: Tensor, heights: Tensor, ratio: tuple[float, float]) -> Tensor:
    """The largest central boxes whose aspect ratio is allowed."""
    height = torch.minimum(heights, (widths / ratio[0]).round().long())
    width = torch.minimum(widths, (heights * ratio[1]).round().long())
    return torch.stack([(heights - height) // 2, (widths - width) // 2, height, width], 1)


def bicubic(words: Tensor, interpolation: str) -> Tensor:
    """Whether a view's resized crop is bicubic rather than bilinear: int64 [B, D] -> bool [B]."""
    if interpolation == "random":
        return chance(words[:, INTERPOLATION], 0.5)
    return torch.full((len(words),), interpolation == "bicubic")


def crop(pixels: Tensor, words: Tensor, config: ViewsConfig, size: int) -> Tensor:
    """The crop that `config.crop` names: uint8 [B, 3, H, W], the int64 [B, D] of `crop_words` -> uint8.

    pad keeps the size, as torchvision's `RandomCrop((H, W), padding=pad)`; rrc and src give size x size.
    """
    if config.crop == "pad":
        return pad_crop(pixels, words, config.pad) if config.pad else pixels
    if config.crop == "src":
        return simple_crop(pixels, words, size)
    height, width = pixels.shape[-2:]
    widths, heights = (torch.full((len(words),), side) for side in (width, height))
    top, left, box_height, box_width = rrc_boxes(words, widths, heights, config.scale, config.ratio).unbind(1)
    modes = bicubic(words, config.interpolation)
    return resize_windows(pixels, top, left, box_height, box_width, size, modes)


def pad_crop(pixels: Tensor, words: Tensor, pad: int) -> Tensor:
    """Zero-pad by `pad` and crop the old size at a uniform place: uint8 [B, 3, H, W] -> the same shape."""
    height, width = pixels.shape[-2:]
    return _cut(F.pad(pixels, (pad,) * 4), words, height, width)


def simple_crop(pixels: Tensor, words: Tensor, size: int) -> Tensor:
    """DeiT III's simple random crop (Touvron et al., ECCV 2022, section 4): uint8 [B, 3, H, W] -> [B, 3, size, size].

    The shorter side to `size` (bicubic), 4 pixels of reflection on every side, then a crop at a uniform place.
    """
    height, width = pixels.shape[-2:]
    short = min(height, width)
    if short != size:
        scaled = (size * height // short, size * width // short)
        levels = F.interpolate(pixels.float(), scaled, mode="bicubic", antialias=True)
        pixels = to_bytes(levels.add_(0.5))
    return _cut(F.pad(pixels, (SRC_PAD,) * 4, mode="reflect"), words, size, size)


def _cut(pixels: Tensor, words: Tensor, height: int, width: int) -> Tensor:
    """The height x width window of each image at its drawn place: [B, 3, H, W] -> [B, 3, height, width]."""
    batch, channels, rows, columns = pixels.shape
    top, left = rng.integers(words[:, ROW], rows - height + 1), rng.integers(words[:, COLUMN], columns - width + 1)
    start = (torch.arange(batch) * channels * rows + top) * columns + left
    # Every window of the whole batch as a strided view, by its first pixel: choosing among them copies whole rows.
    span = ((channels - 1) * rows + height - 1) * columns + width
    shape = (pixels.numel() - span + 1, channels, height, width)
    windows = pixels.flatten().as_strided(shape, (1, rows * columns, columns, 1))
    return windows.index_select(0, start.to(pixels.device, non_blocking=True))


def src_corners(words: Tensor, widths: Tensor, heights: Tensor, size: int) -> Tensor:
    """Where simple crops of `size` x `size` lie in photos of these sizes, resized and reflected as above.

    `words` int64 [B, D] are those of `crop_words`; widths, heights int64 [B] -> int64 [B, 2] (top, left).
    """
    short = torch.minimum(widths, heights)
    rows, columns = (size * side // short + 2 * SRC_PAD for side in (heights, widths))
    return torch.stack([below(words[:, ROW], rows - size + 1), below(words[:, COLUMN], columns - size + 1)], 1)


def flip(pixels: Tensor, words: Tensor, hflip: float, vflip: float) -> Tensor:
    """Mirror left-right and upside down, each with its probability: uint8 [B, 3, H, W] -> the same shape."""
    kinds = chance(words[:, FLIP], hflip).long() + 2 * chance(words[:, VFLIP], vflip)
    if not kinds.any():
        return pixels
    sorting = Sorting(kinds)
    views = sorting.sort(pixels, pixels.device)
    for kind, part in sorting.parts(first=1):
        views[part] = views[part].flip({1: (3,), 2: (2,), 3: (2, 3)}[kind])
    return sorting.restore(views)
