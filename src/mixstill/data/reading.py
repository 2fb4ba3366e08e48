"""What a worker makes of a list of samples: their pixels and labels, and which of them are broken.

Shapes: b samples asked for, S x S pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mixstill.data.cutting import Cutting
from mixstill.data.images import odd_label, reason
from mixstill.data.photos import Photos
from mixstill.data.split import Corrupt
from mixstill.errors import DataError
from mixstill.quiet import no_warnings

# What is asked of a worker: plain numbers, as each tensor sent to another process would cost a file descriptor.
Wanted: TypeAlias = tuple[list[int], list[int], int]  # ids, repeats and epoch

_GROUP = 32  # photos whose heads are read before they are decoded one after another


class Loaded(NamedTuple):
    """uint8 [n, 3, S, S], int64 [n], and names and reasons of what was found broken on the way.

    `failure` tells why the run cannot go on: a reader broke down, or a label is no class.
    """

    pixels: Tensor
    labels: Tensor
    broken: dict[str, str]
    failure: str = ""


def take_note(loaded: Loaded, corrupt: Corrupt) -> None:
    """Count what a worker found broken. Raises `DataError` for one too many, and where the run cannot go on."""
    for name, why in loaded.broken.items():
        corrupt.add(name, why)
    if loaded.failure:
        raise DataError(f"data: {loaded.failure}")


class Block:
    """Pixels and labels, in range(`classes`), as they gather: room for `count` samples of `size` x `size` pixels."""

    def __init__(self, count: int, size: int, classes: int) -> None:
        self._pixels = np.empty((count, 3, size, size), dtype=np.uint8)
        self._labels: list[int] = []
        self._classes = classes
        self._failure = ""

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, pixels: npt.NDArray[np.uint8], label: int, name: Callable[[], str]) -> None:
        """One sample more: uint8 [3, S, S] and its class; `name` tells what to call it."""
        if not 0 <= label < self._classes:
            self._failure = self._failure or odd_label(name(), label, self._classes)
        self._pixels[len(self)] = pixels
        self._labels.append(label)

    def loaded(self, broken: dict[str, str]) -> Loaded:
        """What has gathered, and what was found broken meanwhile."""
        labels = torch.tensor(self._labels, dtype=torch.int64)
        return Loaded(torch.from_numpy(self._pixels[: len(self)]), labels, dict(broken), self._failure)


@dataclass(frozen=True, eq=False)
class TrainReader(Dataset[Loaded]):
    """The training views of what is wanted.

    In the place of a broken sample comes the next readable one of `ids`, cut as the broken one would have been.
    """

    photos: Photos
    ids: npt.NDArray[np.int64]
    cutting: Cutting
    classes: int
    max_corrupt: int

    def __getitem__(self, wanted: Wanted) -> Loaded:
        ids, repeats, epoch = wanted
        block = Block(len(ids), self.cutting.size, self.classes)
        broken: dict[str, str] = {}
        which = torch.tensor([ids, repeats], dtype=torch.int64)
        words = self.cutting.words(which[0], which[1], epoch)
        with no_warnings():  # Pillow's, of odd but readable files
            for start in range(0, len(ids), _GROUP):
                self._add(block, ids[start : start + _GROUP], words[start : start + _GROUP], broken)
                if len(broken) > self.max_corrupt:
                    break
        return block.loaded(broken)

    def _add(self, block: Block, ids: list[int], words: Tensor, broken: dict[str, str]) -> None:
        """Cut the samples of a group into `block`; their windows are drawn together, by their sizes."""
        photos = self._open(ids)
        windows = self.cutting.windows(words, [(1, 1) if photo is None else photo[0].size for photo in photos])
        for index, window, draws in zip(ids, windows, words, strict=True):
            photo = photos.popleft()
            try:
                if photo is not None:
                    block.add(self.cutting.train(photo[0], window), photo[1], partial(self.photos.name, index))
                    continue
            except Exception:  # the reason is found again below
                photo = None
            self._add_next(block, index, draws[None], broken)
            if len(broken) > self.max_corrupt:
                return

    def _open(self, ids: list[int]) -> deque[tuple[Image.Image, int] | None]:
        """The photos, None for one that cannot be opened. One that comes several times in a row is one object."""
        photos: deque[tuple[Image.Image, int] | None] = deque()
        for place, index in enumerate(ids):
            if place and index == ids[place - 1]:
                photos.append(photos[-1])
                continue
            try:
                photos.append(self.photos.open(index))
            except Exception:  # a broken file makes Pillow raise almost anything
                photos.append(None)
        return photos

    def _add_next(self, block: Block, index: int, words: Tensor, broken: dict[str, str]) -> None:
        """Cut the first readable sample from `index` on into `block`; those before it are broken."""
        for candidate in self._from(index):
            try:
                image, label = self.photos.open(candidate)
                (window,) = self.cutting.windows(words, [image.size])
                block.add(self.cutting.train(image, window), label, partial(self.photos.name, candidate))
                return
            except Exception as error:  # a broken file makes Pillow raise almost anything
                broken[self.photos.name(candidate)] = reason(error)
                if len(broken) > self.max_corrupt:
                    return
        name, why = next(iter(broken.items()))
        raise DataError(f"data: no image of {len(self.ids)} can be read; the first: {name}: {why}")

    def _from(self, index: int) -> Iterator[int]:
        """All ids from `index` on, and round to it again."""
        yield index
        place = int(np.searchsorted(self.ids, index))
        yield from np.roll(self.ids, -place)[1:].tolist()


@dataclass(frozen=True, eq=False)
class EvalReader(Dataset[Loaded]):
    """What evaluation sees of the given ids; broken samples are left out."""

    photos: Photos
    cutting: Cutting
    classes: int
    max_corrupt: int

    def __getitem__(self, ids: list[int]) -> Loaded:
        block = Block(len(ids), self.cutting.size, self.classes)
        broken: dict[str, str] = {}
        with no_warnings():  # Pillow's, of odd but readable files
            for index in ids:
                try:
                    image, label = self.photos.open(index)
                    block.add(self.cutting.eval(image), label, partial(self.photos.name, index))
                except Exception as error:  # a broken file makes Pillow raise almost anything
                    broken[self.photos.name(index)] = reason(error)
                    if len(broken) > self.max_corrupt:
                        break
        return block.loaded(broken)
