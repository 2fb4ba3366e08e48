"""A split that lies whole on the device.

Shapes: N samples of the source, n of them in the split, b of a request, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mixstill.data.split import Batch, Corrupt, Request
from mixstill.normalisation import Channels


@dataclass(frozen=True, eq=False)
class Resident:
    """One split on a device; a `Split`.

    `pixels` uint8 [N, 3, H, W] and `labels` int64 [N] are the whole source on the device, shared by the splits cut
    from it; `ids` int64 [n] on the CPU are the positions in them that belong to this split, ascending.
    """

    pixels: Tensor
    labels: Tensor
    ids: Tensor
    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    corrupt: Corrupt = field(default_factory=Corrupt)
    left_out: int = 0

    cropped: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """The images and labels of each request."""
        return (self._batch(request.ids) for request in requests)

    def eval_batches(self, batch_size: int, rank: int = 0, count: int = 1) -> Iterator[Batch]:
        """The images and labels of `ids[rank::count]`, in ascending order, `batch_size` at a time."""
        mine = self.ids[rank::count]
        return (self._batch(ids) for ids in (torch.split(mine, batch_size) if len(mine) else ()))

    def _batch(self, ids: Tensor) -> Batch:
        place = ids.to(self.labels.device)
        return self.pixels[place], self.labels[place]
