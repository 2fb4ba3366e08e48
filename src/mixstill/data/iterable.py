"""A split that only comes one sample after another: shards of webdataset, streams of the hub, TensorFlow's data sets.

timm's readers deal the shards to processes and workers and shuffle by (seed, epoch); see docs/data.md for what holds.

Shapes: n samples of the split, b of a request, S x S pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mixstill import rng
from mixstill.config import DataConfig, ViewsConfig
from mixstill.data.cutting import Cutting
from mixstill.data.factory import class_names, create
from mixstill.data.feeding import FeedReader, detached
from mixstill.data.images import Part, normalisation_of
from mixstill.data.reading import take_note
from mixstill.data.shards import check_shards
from mixstill.data.split import Batch, Corrupt, Request
from mixstill.data.workers import read_stream
from mixstill.errors import DataError, UserError
from mixstill.normalisation import Channels

_BLOCK = 32  # samples that a worker hands over at once in training


@dataclass(frozen=True, eq=False)
class Feed:
    """One split of an iterable data set; a `Split`.

    `ids` are only numbers, to draw views by: what a request gets are the next samples of its epoch's order. The order
    is a function of (seed, epoch), the number of workers and that of processes.
    """

    reader: Any
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
        """Of each request's epoch the next samples in its order; a resumed epoch is read over up to where it stood."""
        rank, world = _process()
        for epoch, its in groupby(requests, lambda request: request.epoch):
            first = next(its)
            with closing(self._read(epoch, _BLOCK, rank, world, training=True)) as blocks:
                taker = _Taker(_interleaved(blocks, max(1, self.workers)))
                for start in range(0, first.before, _BLOCK):
                    taker.take(min(_BLOCK, first.before - start))
                for request in chain([first], its):
                    yield self._on_device(taker.take(len(request.ids)))

    def eval_batches(self, batch_size: int, rank: int = 0, count: int = 1) -> Iterator[Batch]:
        """Every sample once over the ranks, as timm's reader deals out the shards; corrupt ones are left out."""
        with closing(self._read(0, batch_size, rank, count, training=False)) as blocks:
            yield from map(self._on_device, blocks)

    def _read(self, epoch: int, size: int, rank: int, world: int, *, training: bool) -> Generator[Batch]:
        """Blocks of `size` samples, on the CPU."""
        about = (len(self.classes), epoch, size, rank, world, training, self.corrupt.limit)
        feed = FeedReader(self.reader, self.cutting, *about)
        seed = int(rng.bits(self.cutting.seed, rng.Domain.ORDER, epoch, torch.tensor([0]), 1))
        with closing(read_stream(feed, self.workers, seed, pin=self.device.type == "cuda")) as blocks:
            for block in blocks:
                take_note(block, self.corrupt)
                if len(block.labels):  # a worker may be left without a shard
                    yield block.pixels, block.labels

    def _on_device(self, batch: Batch) -> Batch:
        pixels, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        return pixels, labels


def _process() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _interleaved(blocks: Iterator[Batch], count: int) -> Iterator[Batch]:
    """Each `count` blocks as one, in which the first samples of all come before the second ones and so on.

    So no worker is ahead of another, and none begins anew before the others have given theirs.
    """
    while group := list(islice(blocks, count)):
        yield tuple(torch.stack(parts, 1).flatten(0, 1) for parts in zip(*group, strict=True))  # type: ignore[misc]


class _Taker:
    """Takes any number of samples off blocks of another size."""

    def __init__(self, blocks: Iterator[Batch]) -> None:
        self._blocks = blocks
        self._rest: Batch | None = None

    def take(self, count: int) -> Batch:
        """The next `count` samples. Raises `DataError` where there are none left."""
        pixels: list[Tensor] = []
        labels: list[Tensor] = []
        while count:
            block = self._rest or next(self._blocks, None)
            if block is None:
                raise DataError("data: no more samples come; perhaps no shard is left for this process and its workers")
            pixels.append(block[0][:count])
            labels.append(block[1][:count])
            self._rest = (block[0][count:], block[1][count:]) if len(block[1]) > count else None
            count -= len(labels[-1])
        return (pixels[0], labels[0]) if len(labels) == 1 else (torch.cat(pixels), torch.cat(labels))


def open_feed(
    config: DataConfig, part: Part, device: torch.device, size: int | None, views: ViewsConfig | None, seed: int
) -> Feed:
    """A part of an iterable data set. Raises `UserError` as `create` and `check_shards` do, and for no size."""
    if size is None:
        raise UserError("data.input_size: None is not valid; photos need the size to be brought to")
    reader = _reader(config, part, is_training=part == "train", seed=seed)
    check_shards(config, part, reader, _process()[1])
    classes = class_names(config, getattr(reader, "class_to_idx", None), None)
    cutting = Cutting(size=size, crop_pct=config.crop, views=views, seed=seed)
    about = (classes, *normalisation_of(config), cutting, device, config.workers, Corrupt(config.max_corrupt))
    return Feed(detached(reader), torch.arange(reader.num_samples), *about)


def _reader(config: DataConfig, part: Part, **options: Any) -> Any:
    """timm's reader. A test part need not tell its size: it is read to its end, and counts as empty until then."""
    if part == "train":
        return create(config, part, num_samples=config.num_samples, **options).reader
    try:
        return create(config, part, **options).reader
    except UserError as error:
        if not str(error).startswith("data.num_samples"):
            raise
        reader = create(config, part, num_samples=1, **options).reader
        reader.num_samples = 0
        return reader
