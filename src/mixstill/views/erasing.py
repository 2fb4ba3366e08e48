"""Random erasing (Zhong et al., AAAI 2020) of normalised images, as timm's `RandomErasing`.

The boxes are drawn on the host. The noise of a pixel is a function of (seed, epoch, sample, repeat, its place), and is
computed for the pixels in a box only.

Shapes: B batch, n boxes, N pixels in boxes, H x W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mixstill import rng
from mixstill.config import ViewsConfig
from mixstill.views.draws import below, between, chance
from mixstill.views.kernels import kernel

_AREA = (0.02, 1 / 3)
_ASPECT = (0.3, 1 / 0.3)
_ATTEMPTS = 10
# Whether and how often, then for every box and every attempt at it: area, aspect ratio, row, column.
_WHETHER, _COUNT, _FIRST = 0, 1, 4


@dataclass(frozen=True)
class Boxes:
    """What is erased, all int64 [n] on the CPU. `samples` are places in the batch, `numbers` count a sample's boxes."""

    samples: Tensor
    numbers: Tensor
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def erase(images: Tensor, ids: Tensor, repeats: Tensor, config: ViewsConfig, seed: int, epoch: int) -> Tensor:
    """Erase boxes of some images, in place: normalised float [B, 3, H, W], contiguous -> the same tensor.

    ids, repeats int64 [B] on the CPU. Later boxes of an image lie over earlier ones.
    """
    if not config.reprob:
        return images
    boxes = draw_boxes(ids, repeats, config, seed, epoch, *images.shape[-2:])
    for number in range(config.recount):
        chosen = torch.nonzero(boxes.numbers == number).squeeze(1)
        if len(chosen):
            _fill(images, boxes, chosen, ids, repeats, config.remode, seed, epoch)
    return images


def draw_boxes(
    ids: Tensor, repeats: Tensor, config: ViewsConfig, seed: int, epoch: int, height: int, width: int
) -> Boxes:
    """Which boxes of height x width images are erased: int64 [B] each, on the CPU -> n boxes.

    An image is chosen with probability `reprob`, its number of boxes is uniform in 1..`recount`. A box has a uniform
    share of the area, divided by that number, and a log-uniform aspect ratio; the first of ten attempts that is smaller
    than the image counts, and where none is, nothing is erased.
    """
    whether = chance(rng.bits(seed, rng.Domain.ERASE, epoch, ids, _WHETHER + 1, repeats)[:, _WHETHER], config.reprob)
    if config.resplit:
        whether &= repeats > 0
    erased = torch.nonzero(whether).squeeze(1)
    draws = _FIRST + 4 * _ATTEMPTS * config.recount
    words = rng.bits(seed, rng.Domain.ERASE, epoch, ids[erased], draws, repeats[erased])
    counts = rng.integers(words[:, _COUNT], config.recount) + 1
    areas, aspects, rows, columns = words[:, _FIRST:].reshape(-1, config.recount, _ATTEMPTS, 4).unbind(3)
    area = between(areas, *_AREA) * (height * width) / counts.view(-1, 1, 1)
    aspect = torch.exp(between(aspects, math.log(_ASPECT[0]), math.log(_ASPECT[1])))
    heights, widths = torch.sqrt(area * aspect).round().long(), torch.sqrt(area / aspect).round().long()
    fits = (heights < height) & (widths < width)
    wanted = torch.arange(config.recount) < counts.unsqueeze(1)
    sample, number = torch.nonzero(fits.any(2) & wanted, as_tuple=True)
    attempt = fits.int().argmax(2)[sample, number]
    heights, widths, rows, columns = (values[sample, number, attempt] for values in (heights, widths, rows, columns))
    top, left = below(rows, height - heights + 1), below(columns, width - widths + 1)
    return Boxes(erased[sample], number, top, left, heights, widths)


def _fill(
    images: Tensor, boxes: Boxes, chosen: Tensor, ids: Tensor, repeats: Tensor, mode: str, seed: int, epoch: int
) -> None:
    """Overwrite the pixels of the chosen boxes, of which no two are of one image."""
    device, (channels, height, width) = images.device, images.shape[1:]
    heights, widths, samples = boxes.height[chosen], boxes.width[chosen], boxes.samples[chosen]
    # The rows of the boxes, [R], each a run of pixels; then their pixels, [N]. Nothing is computed for the others.
    box = torch.repeat_interleave(heights)
    row = torch.arange(len(box)) - (heights.cumsum(0) - heights)[box]
    start = (boxes.top[chosen][box] + row) * width + boxes.left[chosen][box]
    ends = widths[box].cumsum(0)
    count = int((heights * widths).sum())
    runs = torch.stack([samples[box], ids[samples][box], repeats[samples][box], start - (ends - widths[box]), box])
    runs, lengths = (values.to(device, non_blocking=True) for values in (runs, widths[box]))
    run = torch.repeat_interleave(lengths, output_size=count)
    sample, id_, repeat, shift = (values.index_select(0, run) for values in runs[:4].unbind(0))
    places = torch.arange(count, device=device).add_(shift)
    if mode == "pixel":
        values = noise(id_, repeat, places, seed, epoch)
    elif mode == "rand":
        of_box = torch.stack([ids[samples], repeats[samples], boxes.numbers[chosen]]).to(device, non_blocking=True)
        values = noise(of_box[0], of_box[1], of_box[2], seed, epoch)[:, runs[4][run]]
    else:
        values = torch.zeros(channels, count, device=device)
    target = sample.mul_(channels * height * width).add_(places)
    for plane, of_plane in enumerate(values.to(images.dtype).unbind(0)):
        images.view(-1)[plane * height * width :].scatter_(0, target, of_plane)


@kernel
def noise(ids: Tensor, repeats: Tensor, places: Tensor, seed: int, epoch: int) -> Tensor:
    """Three standard normal numbers per place of a sample: int64 [N] each -> float32 [3, N].

    From the words 4 * place to 4 * place + 3 of `Domain.NOISE`, by Box and Muller's transform.
    """
    counter = torch.stack([ids, torch.full_like(ids, epoch), places, (repeats << 8) + int(rng.Domain.NOISE)])
    words = rng.philox(counter.T, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    first, angle, second, other = ((word >> 8).float().mul_(2.0**-24) for word in words.unbind(1))  # in [0, 1)
    radius, other_radius = (draw.add_(2.0**-24).log_().mul_(-2).sqrt_() for draw in (first, second))
    angle, other_angle = (draw.mul_(2 * math.pi) for draw in (angle, other))
    return torch.stack([radius * angle.cos(), radius * angle.sin(), other_radius * other_angle.cos()])
