"""The batches of a run: a pure function of (seed, epoch, index), however many processes and passes share one.

Shapes: B samples of the whole batch, b of one part, K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import torch
from torch import Tensor

from mixstill import rng
from mixstill.config import Config
from mixstill.data.split import Request, Split
from mixstill.errors import many
from mixstill.train.processes import ALONE, Processes
from mixstill.views import draw_mix, erase, kernels, mix_images, mix_targets, normalise, resize, to_float, train_views


@dataclass(frozen=True, eq=False)
class Part:
    """What one forward pass sees of a batch.

    images: float32 [b,3,H,W], normalised and mixed.
    targets: float32 [b,K].
    rows: int64 [b], the places of its samples in the whole batch, ascending; on the CPU.
    total: B.
    sizes: how many samples each process has in this pass.
    order: int64, puts the samples of this pass, gathered by process, into the order of the batch.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor
    total: int
    sizes: tuple[int, ...]
    order: Tensor

    @property
    def share(self) -> float:
        """Of the whole batch, in this process's part of this pass."""
        return len(self.rows) / self.total

    @property
    def pass_share(self) -> float:
        """Of the whole batch, in this pass over all processes."""
        return sum(self.sizes) / self.total


def shards(batch: int, count: int) -> list[Tensor]:
    """`range(batch)` in `count` parts, each with the mirror image of every place in it: int64 [b] each, ascending.

    A batch is mixed with its own reverse; so each part is mixed with its own reverse too, and needs no other.
    """
    first = torch.arange(batch // 2).tensor_split(count)
    middle = [torch.arange(0)] * (count - 1) + [torch.arange(batch // 2, batch - batch // 2)]
    return [torch.cat([low, centre, batch - 1 - low.flip(0)]) for low, centre in zip(first, middle, strict=True)]


@dataclass(frozen=True, eq=False)
class Batches:
    """The training batches of a run; images come normalised by the data set's mean and deviation."""

    data: Split
    config: Config
    input_size: int
    processes: Processes = ALONE
    compiled: bool = False
    """Whether the inner functions of the views run compiled."""

    @property
    def size(self) -> int:
        """Samples of a batch: `train.batch_size`, or all there are where they are fewer."""
        return min(self.config.train.batch_size, len(self.data))

    @property
    def passes(self) -> int:
        """Forward and backward passes per batch, so that none holds more than `train.device_batch_size` samples."""
        most = (self.config.train.device_batch_size or self.size) * self.processes.count
        wanted = -(-self.size // most)
        return max(1, min(wanted, self.size // 2 // self.processes.count))

    @property
    def per_epoch(self) -> int:
        """Optimizer steps in an epoch: its whole batches."""
        return len(self.data) // self.size

    @property
    def total(self) -> int:
        """Optimizer steps in all epochs."""
        return self.config.train.epochs * self.per_epoch

    @property
    def last(self) -> int:
        """The step that a run ends after: `train.max_steps`, or that of all epochs."""
        return min(self.total, self.config.train.max_steps or self.total)

    def about(self) -> list[str]:
        """What is worth saying about how a batch is split."""
        wanted = self.config.train.device_batch_size
        sizes = sorted({len(rows) for part in range(self.passes) for rows in self.rows(part)})
        count = f"{many(self.processes.count, 'process')} in {many(self.passes, 'pass')}"
        lines = []
        if self.data.left_out:
            lines.append(
                f"data.samples_per_class {self.config.data.samples_per_class}: {self.data.left_out} of "
                f"{len(self.data) + self.data.left_out} training images are left out; --data.samples_per_class none "
                "takes all"
            )
        if self.processes.count * self.passes > 1:
            lines.append(f"a batch of {self.size} is worked on by {count}, {sizes[-1]} samples at once")
        if len(sizes) > 1:
            lines.append(f"warning: a batch of {self.size} does not split evenly over {count}: parts of {sizes}")
        if wanted is not None and sizes[-1] > wanted:
            lines.append(f"warning: train.device_batch_size {wanted} cannot be kept: {sizes[-1]} samples at once")
        return lines

    def run(self, first: int, last: int) -> Iterator[Iterator[Part]]:
        """The parts of this process, pass by pass, of each batch from step `first` up to `last`.

        Raises `DataError`, between two batches, where the data of the next one cannot be had.
        """
        asked: deque[Request] = deque()  # loading reads ahead

        def requests() -> Iterator[Request]:
            for step in range(first, last):
                for part in range(self.passes):
                    asked.append(self._request(*divmod(step, self.per_epoch), part))
                    yield asked[-1]

        loaded = self.data.load(requests())
        for step in range(first, last):
            index = step % self.per_epoch
            found = list(islice(loaded, self.passes))  # what cannot be had is found out before the step begins
            wanted = [asked.popleft() for _ in found]
            yield (self._part(wanted[part], index, part, *found[part]) for part in range(self.passes))

    def get(self, epoch: int, index: int) -> list[Part]:
        """The parts of this process of one batch."""
        step = epoch * self.per_epoch + index
        return list(next(self.run(step, step + 1)))

    def sample(self, epoch: int) -> Tensor:
        """Unmixed views float32 [b,3,H,W] of as many random samples as a batch has, for what is done once an epoch."""
        seed, n = self.config.train.seed, len(self.data)
        ids = self.data.ids[rng.permutation(seed, rng.Domain.REGULARISER, epoch, n)[: self.size]]
        request = Request(ids, torch.zeros_like(ids), epoch)
        ((pixels, _),) = self.data.load([request])
        return self.views(pixels, request)

    def views(self, pixels: Tensor, request: Request) -> Tensor:
        """Loaded pixels uint8 [b,3,h,w] -> the views of these samples in this epoch, float32 [b,3,H,W], not mixed."""
        views, seed, mean = self.config.views, self.config.train.seed, self.data.mean
        which = (request.ids, request.repeats)
        with kernels.compiled("inductor" if self.compiled else None):
            varied = train_views(
                pixels, *which, views, seed, request.epoch, size=self.input_size, mean=mean, cropped=self.data.cropped
            )
            images = normalise(resize(to_float(varied), self.input_size), mean, self.data.std)
            return erase(images, *which, views, seed, request.epoch)

    def rows(self, part: int) -> list[Tensor]:
        """The places in the batch of each process's samples in pass `part`: int64 [b] by rank."""
        count = self.processes.count
        return _shards(self.size, self.passes * count)[part * count : (part + 1) * count]

    def _request(self, epoch: int, index: int, part: int) -> Request:
        views, rank = self.config.views.aug_repeats, self.processes.rank  # views of one sample come side by side
        mine = [len(self.rows(each)[rank]) for each in range(self.passes)]
        places = index * self.size + self.rows(part)[rank]
        order = _order(self.config.train.seed, epoch, len(self.data))
        before = index * sum(mine) + sum(mine[:part])
        return Request(self.data.ids[order[places // views]], places % views, epoch, before)

    def _part(self, request: Request, index: int, part: int, pixels: Tensor, labels: Tensor) -> Part:
        images = self.views(pixels, request)
        seed, size = self.config.train.seed, self.input_size
        mix = draw_mix(self.config.views, seed, request.epoch, index, size, size)
        rows = self.rows(part)
        return Part(
            mix_images(images, mix),
            mix_targets(labels, mix, len(self.data.classes)),
            rows[self.processes.rank],
            self.size,
            tuple(map(len, rows)),
            torch.cat(rows).argsort(),
        )


@lru_cache(maxsize=4)
def _shards(batch: int, count: int) -> list[Tensor]:
    return shards(batch, count)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> Tensor:
    return rng.permutation(seed, rng.Domain.ORDER, epoch, n)
