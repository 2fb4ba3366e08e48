"""Each sample its own kind of work, without a loop over samples: sort by kind, work on slices, sort back.

Which sample is of which kind is known on the host, so nothing waits for the device. Sorting costs two copies of the
batch and makes the samples of a kind a contiguous slice: far cheaper on a CPU than scattered writes of bytes.

Shapes: B batch, b samples of one kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor


class Sorting:
    """The order that brings the samples of a kind together, and the way back. `kinds` int64 [B] >= 0 on the CPU."""

    def __init__(self, kinds: Tensor) -> None:
        self.order = torch.argsort(kinds, stable=True)
        stops = torch.bincount(kinds).cumsum(0).tolist()
        self._bounds = [0, *stops]

    def parts(self, first: int = 0) -> Iterator[tuple[int, slice]]:
        """(kind, its slice of the sorted batch) for each kind from `first` on that has samples."""
        for kind, (start, stop) in enumerate(pairwise(self._bounds)):
            if kind >= first and stop > start:
                yield kind, slice(start, stop)

    def sort(self, values: Tensor, device: torch.device) -> Tensor:
        """[B, ...] -> the same on `device`, sorted by kind (a copy)."""
        if values.device.type == "cpu":
            return values.index_select(0, self.order).to(device, non_blocking=True)
        return values.index_select(0, self.order.to(device, non_blocking=True))

    def restore(self, values: Tensor) -> Tensor:
        """[B, ...] sorted by kind -> in the order of the batch."""
        inverse = torch.empty_like(self.order)
        inverse[self.order] = torch.arange(len(inverse))
        return values.index_select(0, inverse.to(values.device, non_blocking=True))
