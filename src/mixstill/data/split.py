"""What training and evaluation ask of a split, whether its images lie in memory or are read while they are needed.

Shapes: n samples of the split, b of a request, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from mixstill.errors import DataError, many
from mixstill.normalisation import Channels

Batch: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Request:
    """Which samples one forward pass wants: both int64 [b], on the CPU.

    `repeats` tells which of its views in this epoch a sample is wanted for. `before` is how many samples this process
    had in the epoch already, over all earlier requests: an iterable set, which gives its samples in an order of its
    own, reads over so many when a run is resumed (only the first request of a `load` needs to tell it).
    """

    ids: Tensor
    repeats: Tensor
    epoch: int
    before: int = 0


class Corrupt:
    """The corrupt images found so far, each once; more than `limit` of them end the run."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self._reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Note the image `name`. Raises `DataError` where it is one too many."""
        self._reasons.setdefault(name, reason)
        if len(self) > self.limit:
            first = next(iter(self))
            raise DataError(
                f"data: {many(len(self), 'corrupt image')}, more than data.max_corrupt {self.limit}; the first: {first}"
            )

    def __len__(self) -> int:
        return len(self._reasons)

    def __iter__(self) -> Iterator[str]:
        """Name and reason of each, in the order found."""
        return (f"{name}: {reason}" for name, reason in self._reasons.items())


class Split(Protocol):
    """One split of a data set on its way to a device."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""

    @property
    def mean(self) -> Channels:
        """Mean of each channel in [0, 1]."""

    @property
    def std(self) -> Channels:
        """Deviation of each channel."""

    @property
    def cropped(self) -> bool:
        """Whether `load` gives random crops already, so that the views on the device must not crop."""

    @property
    def ids(self) -> Tensor:
        """int64 [n] on the CPU, ascending: the samples of this split."""

    @property
    def left_out(self) -> int:
        """Training samples that `data.samples_per_class` leaves out."""

    @property
    def corrupt(self) -> Corrupt:
        """What was found broken so far."""

    def __len__(self) -> int: ...

    def load(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """uint8 [b, 3, H, W] and int64 labels [b] on the device, one pair for each request, in their order.

        Requests are taken ahead of what is given. Raises `DataError` where there are too many corrupt images.
        """

    def eval_batches(self, batch_size: int, rank: int = 0, count: int = 1) -> Iterator[Batch]:
        """Every sample once over the `count` ranks, `ids[rank::count]` for this one; the last batch as short as it is.

        Pairs as those of `load`; corrupt images are left out.
        """
