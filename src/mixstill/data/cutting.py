"""What of a photo a worker hands over: the random crop of the full-size photo for training, the centre for evaluation.

Shapes: b photos, D draws, S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pil

from mixstill.config import ViewsConfig
from mixstill.data.images import fit, rgb
from mixstill.views.crops import SRC_PAD, bicubic, crop_words, rrc_boxes, src_corners

_BICUBIC, _BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


class Window(NamedTuple):
    """A part of a photo (left, top, right, bottom; the ends excluded), and how it is brought to size."""

    box: tuple[int, int, int, int]
    kernel: Image.Resampling


class Corner(NamedTuple):
    """Where a square begins in a photo whose shorter side was brought to size, and whose borders were reflected."""

    top: int
    left: int


Place: TypeAlias = Window | Corner | None  # None is the whole middle square


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How photos become `size` x `size` pixels; without `views`, training has the middle square too."""

    size: int
    crop_pct: float
    views: ViewsConfig | None
    seed: int

    @property
    def cropped(self) -> bool:
        """Whether training gets random crops, rather than middle squares for the device to crop."""
        return self.views is not None and self.views.crop in ("rrc", "src")

    def words(self, ids: Tensor, repeats: Tensor, epoch: int) -> Tensor:
        """What the crops of these views draw: int64 [b] each -> int64 [b, D]."""
        if self.views is None or not self.cropped:
            return ids.new_zeros(len(ids), 0)
        return crop_words(ids, repeats, self.views, self.seed, epoch)

    def windows(self, words: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Place]:
        """Which part of each photo of these (width, height) training shows, by its draws, int64 [b, D]."""
        if self.views is None or not self.cropped:
            return [None] * len(sizes)
        widths, heights = torch.tensor(sizes).unbind(1)
        if self.views.crop == "src":
            return [Corner(*corner) for corner in src_corners(words, widths, heights, self.size).tolist()]
        boxes = rrc_boxes(words, widths, heights, self.views.scale, self.views.ratio).tolist()
        smooth = bicubic(words, self.views.interpolation).tolist()
        return [
            Window((left, top, left + width, top + height), _BICUBIC if cubic else _BILINEAR)
            for (top, left, height, width), cubic in zip(boxes, smooth, strict=True)
        ]

    def train(self, image: Image.Image, window: Place) -> npt.NDArray[np.uint8]:
        """A training view: uint8 [3, S, S]."""
        if window is None:
            return _pixels(fit(image, self.size))
        if isinstance(window, Corner):
            resized = pil.resize(rgb(image), [self.size], InterpolationMode.BICUBIC)
            levels = np.pad(np.asarray(resized), ((SRC_PAD,) * 2, (SRC_PAD,) * 2, (0, 0)), mode="reflect")
            rows, columns = (slice(start, start + self.size) for start in window)
            return levels[rows, columns].transpose(2, 0, 1)
        return _pixels(rgb(image).crop(window.box).resize((self.size, self.size), window.kernel))

    def eval(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """What evaluation sees: uint8 [3, S, S]."""
        return _pixels(fit(image, self.size, self.crop_pct))


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image).transpose(2, 0, 1)
