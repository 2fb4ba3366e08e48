"""What a source is, and how its images are decoded.

Shapes: N samples of a split, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pil

from mixstill.errors import UserError, one_line
from mixstill.normalisation import CIFAR10, CIFAR100, IMAGENET, Channels, Normalisation

Split: TypeAlias = Literal["train", "test"]

# The mean and deviation of each channel of the train split, in [0, 1].
STATISTICS: dict[str, Normalisation] = {
    "digits": ((0.3055, 0.3055, 0.3055), (0.3757, 0.3757, 0.3757)),
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "folder": IMAGENET,  # what pretrained models expect
}

_DECODE_CHUNK = 64  # images per task of a thread: small ones cost less than a task's bookkeeping


@dataclass(frozen=True, eq=False)
class Source:
    """One split: `pixels` uint8 [N, 3, H, W], `labels` int64 [N], both on the CPU; `skipped` names corrupt images."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    skipped: tuple[str, ...] = ()


def decode(
    read: Callable[[int], Image.Image], where: Sequence[str], side: int, skip_corrupt: bool
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Every image that `read` gives, in threads: uint8 [n, 3, side, side], their indices [n], the skipped by name."""
    pixels = np.empty((len(where), 3, side, side), dtype=np.uint8)

    def fill(start: int) -> list[tuple[int, str]]:
        failures = []
        for index in range(start, min(start + _DECODE_CHUNK, len(where))):
            try:
                pixels[index] = np.asarray(read(index)).transpose(2, 0, 1)
            except Exception as error:  # a broken file makes Pillow raise almost anything
                reason = "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)
                failures.append((index, f"{where[index]}: {reason}"))
        return failures

    corrupt: dict[int, str] = {}
    with ThreadPoolExecutor() as pool:
        for failures in pool.map(fill, range(0, len(where), _DECODE_CHUNK)):
            corrupt.update(failures)
            if failures and not skip_corrupt:
                pool.shutdown(cancel_futures=True)
                raise UserError(
                    f"data.data_dir: corrupt image {failures[0][1]}; --data.skip_corrupt true leaves such images out"
                )
    kept = torch.tensor([index for index in range(len(where)) if index not in corrupt], dtype=torch.int64)
    if not len(kept):
        reason = next(iter(corrupt.values()), "there are none")
        raise UserError(f"data.data_dir: no image of {len(where)} can be read: {reason}")
    decoded = torch.from_numpy(pixels)
    return decoded[kept] if corrupt else decoded, kept, tuple(corrupt.values())


def fit(image: Image.Image, size: int) -> Image.Image:
    """RGB, the shorter side brought to `size` (bicubic), the centre cut out: `size` x `size` pixels."""
    resized = pil.resize(image.convert("RGB"), [size], InterpolationMode.BICUBIC)
    return cast(Image.Image, pil.center_crop(resized, [size]))


def open_image(path: Path, size: int) -> Tensor:
    """The image in a file as `fit` brings it: uint8 [3, size, size]. Raises `UserError` for one that cannot be read."""
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.asarray(fit(image, size)).transpose(2, 0, 1).copy())
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise UserError(f"image {str(path)!r} cannot be read: {one_line(error)}") from error
