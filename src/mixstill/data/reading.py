"""What a worker makes of a list of samples: their pixels and labels, and which of them are broken.

Shapes: b samples asked for, S x S pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mixstill.data.cutting import Cutting
from mixstill.data.images import reason
from mixstill.data.photos import Photos
from mixstill.data.split import Request
from mixstill.errors import DataError


class Loaded(NamedTuple):
    """uint8 [n, 3, S, S], int64 [n], and names and reasons of what was found broken on the way.

    `failure` tells why there is no more, where a reader broke down.
    """

    pixels: Tensor
    labels: Tensor
    broken: dict[str, str]
    failure: str = ""


class Block:
    """Pixels and labels as they gather: room for `count` samples of `size` x `size` pixels."""

    def __init__(self, count: int, size: int) -> None:
        self._pixels = np.empty((count, 3, size, size), dtype=np.uint8)
        self._labels: list[int] = []

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, pixels: npt.NDArray[np.uint8], label: int) -> None:
        """One sample more: uint8 [3, S, S] and its class."""
        self._pixels[len(self)] = pixels
        self._labels.append(label)

    def loaded(self, broken: dict[str, str]) -> Loaded:
        """What has gathered, and what was found broken meanwhile."""
        labels = torch.tensor(self._labels, dtype=torch.int64)
        return Loaded(torch.from_numpy(self._pixels[: len(self)]), labels, dict(broken))


@dataclass(frozen=True, eq=False)
class TrainReader(Dataset[Loaded]):
    """The training views of a request.

    In the place of a broken sample comes the next readable one of `ids`, cut as the broken one would have been.
    """

    photos: Photos
    ids: Tensor
    cutting: Cutting
    max_corrupt: int

    def __getitem__(self, request: Request) -> Loaded:
        block = Block(len(request.ids), self.cutting.size)
        words = self.cutting.words(request.ids, request.repeats, request.epoch)
        broken: dict[str, str] = {}
        before: tuple[int, Image.Image, int] | None = None
        with warnings.catch_warnings(action="ignore"):  # Pillow's, of odd but readable files
            for index, draws in zip(request.ids.tolist(), words, strict=True):
                # The views of a sample that comes several times follow one another: it is decoded once.
                opened = before if before is not None and before[0] == index else None
                before = self._add(block, index, draws, opened, broken)
                if len(broken) > self.max_corrupt:
                    break
        return block.loaded(broken)

    def _add(
        self,
        block: Block,
        index: int,
        words: Tensor,
        opened: tuple[int, Image.Image, int] | None,
        broken: dict[str, str],
    ) -> tuple[int, Image.Image, int] | None:
        """Cut sample `index`, or the first readable one after it, into `block`; what was opened for it."""
        for candidate in self._from(index):
            try:
                image, label = opened[1:] if opened is not None else self.photos.open(candidate)
                block.add(self.cutting.train(image, words), label)
                return index, image, label
            except Exception as error:  # a broken file makes Pillow raise almost anything
                broken[self.photos.name(candidate)] = reason(error)
                if len(broken) > self.max_corrupt:
                    return None
        raise DataError(f"no image of {len(self.ids)} can be read")

    def _from(self, index: int) -> Iterator[int]:
        """All ids from `index` on, and round to it again."""
        yield index
        place = int(torch.searchsorted(self.ids, index))
        yield from self.ids.roll(-place)[1:].tolist()


@dataclass(frozen=True, eq=False)
class EvalReader(Dataset[Loaded]):
    """What evaluation sees of the given ids, int64 [b]; broken samples are left out."""

    photos: Photos
    cutting: Cutting
    max_corrupt: int

    def __getitem__(self, ids: Tensor) -> Loaded:
        block = Block(len(ids), self.cutting.size)
        broken: dict[str, str] = {}
        with warnings.catch_warnings(action="ignore"):  # Pillow's, of odd but readable files
            for index in ids.tolist():
                try:
                    image, label = self.photos.open(index)
                    block.add(self.cutting.eval(image), label)
                except Exception as error:  # a broken file makes Pillow raise almost anything
                    broken[self.photos.name(index)] = reason(error)
                    if len(broken) > self.max_corrupt:
                        break
        return block.loaded(broken)
