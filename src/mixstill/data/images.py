"""What a source is, and how its images are decoded.

Shapes: N samples of a split, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
from PIL import EpsImagePlugin, Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pil

from mixstill.config import DataConfig
from mixstill.data.split import Corrupt
from mixstill.errors import UserError, one_line
from mixstill.normalisation import CIFAR10, CIFAR100, IMAGENET, Channels, Normalisation
from mixstill.paths import open_regular
from mixstill.quiet import no_warnings

Part: TypeAlias = Literal["train", "test"]

# The mean and deviation of each channel of the train split, in [0, 1].
STATISTICS: dict[str, Normalisation] = {
    "digits": ((0.3055, 0.3055, 0.3055), (0.3757, 0.3757, 0.3757)),
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
}

# What a picture may be, whatever its name ends in. Of the others Pillow hands EPS to another program, Ghostscript.
# What a picture may be, whatever its name ends in; AVIF where Pillow knows it.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "JPEG2000")
FORMATS += ("AVIF",) if find_spec("PIL.AvifImagePlugin") else ()

_DECODE_CHUNK = 64  # images per task of a thread: small ones cost less than a task's bookkeeping


def normalisation_of(config: DataConfig) -> Normalisation:
    """What images are normalised by: `config.mean` and `config.std`, else the statistics of the data set.

    A data set is known by the last word of its name; photos have the statistics of ImageNet.
    """
    mean, std = STATISTICS.get(config.dataset.rpartition("/")[2], IMAGENET)
    return config.mean or mean, config.std or std


@dataclass(frozen=True, eq=False)
class Source:
    """One split: `pixels` uint8 [N, 3, H, W], `labels` int64 [N], both on the CPU."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    corrupt: Corrupt = field(default_factory=Corrupt)


def decode(
    read: Callable[[int], Image.Image], name: Callable[[int], str], count: int, side: int, max_corrupt: int
) -> tuple[Tensor, Tensor, Corrupt]:
    """The `count` images that `read` gives, in threads: uint8 [n, 3, side, side], their indices [n], those left out.

    Raises `UserError` where more than `max_corrupt` of them cannot be read.
    """
    pixels = np.empty((count, 3, side, side), dtype=np.uint8)

    def fill(start: int) -> list[tuple[int, str]]:
        failures = []
        for index in range(start, min(start + _DECODE_CHUNK, count)):
            try:
                pixels[index] = np.asarray(read(index)).transpose(2, 0, 1)
            except Exception as error:  # a broken file makes Pillow raise almost anything
                failures.append((index, reason(error)))
        return failures

    corrupt = Corrupt(count)
    broken: set[int] = set()
    with ThreadPoolExecutor() as pool:
        for failures in pool.map(fill, range(0, count, _DECODE_CHUNK)):
            for index, why in failures:
                broken.add(index)
                corrupt.add(name(index), why)
            if len(broken) > max_corrupt:
                pool.shutdown(cancel_futures=True)
                raise UserError(
                    f"data.data_dir: corrupt image {next(iter(corrupt))}; --data.max_corrupt COUNT leaves up to COUNT "
                    f"such images out, now {max_corrupt}"
                )
    kept = torch.tensor([index for index in range(count) if index not in broken], dtype=torch.int64)
    if not len(kept):
        raise UserError(f"data.data_dir: no image of {count} can be read: {next(iter(corrupt), 'there are none')}")
    decoded = torch.from_numpy(pixels)
    return decoded[kept] if broken else decoded, kept, corrupt


def reason(error: Exception) -> str:
    """Why an image could not be read, in one line."""
    return "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)


def odd_label(name: str, label: int, classes: int) -> str:
    """What there is to say of a label that is no class."""
    return f"{name} has the label {label}; they lie in 0 to {classes - 1}"


def rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits as Pillow converts to them; the orientation that EXIF tells is not applied."""
    with no_warnings():  # of a palette's transparency, which is left out all the same
        return image if image.mode == "RGB" else image.convert("RGB")


def fit(image: Image.Image, size: int, crop_pct: float = 1.0) -> Image.Image:
    """RGB, the shorter side brought to size / crop_pct (bicubic), the centre cut out: `size` x `size` pixels.

    What timm's evaluation does.
    """
    resized = pil.resize(rgb(image), [math.floor(size / crop_pct)], InterpolationMode.BICUBIC)
    return cast(Image.Image, pil.center_crop(resized, [size]))


def run_no_programs() -> None:
    """Have Pillow hand no picture to another program, as EPS to Ghostscript, in the whole process."""
    EpsImagePlugin.gs_binary = False


def open_image(path: Path, size: int, crop_pct: float = 1.0) -> Tensor:
    """The image in a file as `fit` brings it: uint8 [3, size, size]. Raises `UserError` for one that cannot be read."""
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            return torch.from_numpy(np.asarray(fit(image, size, crop_pct)).transpose(2, 0, 1).copy())
    except Exception as error:  # a broken file makes Pillow raise almost anything
        why = f"it is none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise UserError(f"image {str(path)!r} cannot be read: {why}") from error
