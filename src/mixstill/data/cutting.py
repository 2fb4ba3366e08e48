"""What of a photo a worker hands over: the random crop of the full-size photo for training, the centre for evaluation.

Shapes: b photos, D draws, S x S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mixstill.config import ViewsConfig
from mixstill.data.images import fit, rgb
from mixstill.views.crops import bicubic, crop_words, rrc_boxes


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
        return self.views is not None and self.views.crop == "rrc"

    def words(self, ids: Tensor, repeats: Tensor, epoch: int) -> Tensor:
        """What the crops of these views draw: int64 [b] each -> int64 [b, D]."""
        if self.views is None or not self.cropped:
            return ids.new_zeros(len(ids), 0)
        return crop_words(ids, repeats, self.views, self.seed, epoch)

    def train(self, image: Image.Image, words: Tensor) -> npt.NDArray[np.uint8]:
        """A training view by its draws, int64 [D]: uint8 [3, S, S]."""
        if self.views is None or not self.cropped:
            return _pixels(fit(image, self.size))
        width, height = image.size
        box = rrc_boxes(words[None], torch.tensor([width]), torch.tensor([height]), self.views.scale, self.views.ratio)
        top, left, rows, columns = box[0].tolist()
        smooth = bool(bicubic(words[None], self.views.interpolation))
        kernel = Image.Resampling.BICUBIC if smooth else Image.Resampling.BILINEAR
        part = rgb(image).crop((left, top, left + columns, top + rows))
        return _pixels(part.resize((self.size, self.size), kernel))

    def eval(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """What evaluation sees: uint8 [3, S, S]."""
        return _pixels(fit(image, self.size, self.crop_pct))


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image).transpose(2, 0, 1)
