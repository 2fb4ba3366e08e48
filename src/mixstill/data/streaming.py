"""A split whose photos are read, decoded and cut while they are needed, by worker processes.

Shapes: n samples of the split, b of a request, S x S pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixstill.data.cutting import Cutting
from mixstill.data.photos import Photos
from mixstill.data.reading import EvalReader, Loaded, TrainReader, Wanted, take_note
from mixstill.data.split import Batch, Corrupt, Request
from mixstill.data.workers import read_in_order
from mixstill.normalisation import Channels


@dataclass(frozen=True, eq=False)
class Stream:
    """One split of a map-style data set; a `Split`.

    What it gives is a pure function of what is asked, whatever the number of `workers`: each request is shared out
    among them. `ids` int64 [n] on the CPU are the positions in `photos` that belong to the split, ascending.
    """

    photos: Photos
    ids: Tensor
    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    cutting: Cutting
    device: torch.device
    workers: int
    corrupt: Corrupt
    left_out: int = 0

    @property
    def cropped(self) -> bool:
        """Whether `load` gives random crops already."""
        return self.cutting.cropped

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """The training views and labels of each request; for a corrupt image those of the next readable one."""
        reader = TrainReader(self.photos, self.ids.numpy().copy(), self.cutting, len(self.classes), self.corrupt.limit)
        return self._batches(reader, map(self._parts_of, requests))

    def eval_batches(self, batch_size: int, rank: int = 0, count: int = 1) -> Iterator[Batch]:
        """The images and labels of `ids[rank::count]`, in ascending order, corrupt ones left out."""
        reader = EvalReader(self.photos, self.cutting, len(self.classes), self.corrupt.limit)
        mine = self.ids[rank::count].tolist()
        wanted = (self._parts(mine[start : start + batch_size]) for start in range(0, len(mine), batch_size))
        with closing(self._batches(reader, wanted)) as batches:
            yield from (batch for batch in batches if len(batch[1]))

    def _batches(self, reader: Dataset[Loaded], wanted: Iterable[list[Any]]) -> Generator[Batch]:
        """A pair for each of `wanted`, of which each part is read by another worker."""
        counts: deque[int] = deque()

        def tasks() -> Iterator[Any]:
            for parts in wanted:
                counts.append(len(parts))
                yield from parts

        with closing(read_in_order(reader, tasks(), self.workers, pin=self.device.type == "cuda")) as loaded:
            for first in loaded:
                yield self._join([first, *(next(loaded) for _ in range(counts.popleft() - 1))])

    def _parts_of(self, request: Request) -> list[Wanted]:
        pairs = zip(self._parts(request.ids.tolist()), self._parts(request.repeats.tolist()), strict=True)
        return [(ids, repeats, request.epoch) for ids, repeats in pairs]

    def _parts(self, numbers: list[int]) -> list[list[int]]:
        """Some numbers in a part for each worker; at least one part, however empty."""
        size = max(1, -(-len(numbers) // max(1, self.workers)))
        return [numbers[start : start + size] for start in range(0, max(1, len(numbers)), size)]

    def _join(self, parts: list[Loaded]) -> Batch:
        for part in parts:
            take_note(part, self.corrupt)
        pixels, labels = zip(*((part.pixels, part.labels) for part in parts), strict=True)
        return _on(self.device, pixels), _on(self.device, labels)


def _on(device: torch.device, parts: tuple[Tensor, ...]) -> Tensor:
    there = [part.to(device, non_blocking=True) for part in parts]
    return there[0] if len(there) == 1 else torch.cat(there)
