"""Splits that lie whole on the device, and the order in which their samples come: a function of (seed, epoch).

Shapes: N samples of the source, n of them in the split, B a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from mixstill import rng
from mixstill.config import DataConfig
from mixstill.data.images import Source
from mixstill.data.sources import load_source
from mixstill.data.splits import SPLIT_SEED, VALIDATION_SPLIT, first_per_class
from mixstill.errors import UserError, unknown
from mixstill.normalisation import Channels

SplitName: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Resident:
    """One split on a device.

    `pixels` uint8 [N, 3, H, W] and `labels` int64 [N] are the whole source, shared by the splits cut from it; `ids`
    int64 [n] are the positions in them that belong to this split, ascending. `pixels[ids]` are the images of `ids`.
    """

    pixels: Tensor
    labels: Tensor
    ids: Tensor
    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Whole batches in an epoch; a split smaller than a batch gives one, of all its samples."""
        return max(1, len(self) // batch_size)

    def batch_ids(self, seed: int, epoch: int, step: int, batch_size: int) -> Tensor:
        """The ids of one training batch: int64 [B]. `step` counts from 0 within the epoch."""
        if not 0 <= step < self.steps_per_epoch(batch_size):
            raise IndexError(f"step {step} of an epoch of {self.steps_per_epoch(batch_size)} steps")
        order = _order(seed, epoch, len(self), self.ids.device)
        return self.ids[order[step * batch_size : (step + 1) * batch_size]]

    def eval_batches(self, batch_size: int) -> Iterator[Tensor]:
        """All ids in ascending order, the last batch as short as it comes: int64 [B] each."""
        return iter(torch.split(self.ids, batch_size))


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, n: int, device: torch.device) -> Tensor:
    return rng.permutation(seed, rng.Domain.ORDER, epoch, n, device)


def load_split(config: DataConfig, split: SplitName, device: torch.device | str, size: int | None) -> Resident:
    """One split, on `device`; see `load_splits`."""
    return load_splits(config, [split], device, size)[split]


def load_splits(
    config: DataConfig, splits: Iterable[SplitName], device: torch.device | str, size: int | None
) -> dict[SplitName, Resident]:
    """The named splits, on `device`; what train and val share is decoded and held once.

    val is a fixed share `config.val_fraction` of each class of train, train the rest, of which
    `config.samples_per_class` fixed samples of each class are kept. Neither depends on the seed of a run.
    `size` is that of `load_source`. Raises `UserError` as that does, and for a split that the config does not give.
    """
    wanted = list(splits)
    for split in wanted:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if split == "val" and config.val_fraction == 0:
            raise UserError("data.val_fraction: 0.0 leaves no validation split; give a share of train, such as 0.1")
    loaded: dict[SplitName, Resident] = {}
    if "test" in wanted:
        source = load_source(config, "test", size)
        loaded |= _residents(source, {"test": torch.arange(len(source.labels))}, device)
    if "train" in wanted or "val" in wanted:
        source = load_source(config, "train", size)
        val = _validation(source, config.val_fraction)
        train = torch.ones(len(source.labels), dtype=torch.bool).index_fill_(0, val, False).nonzero().squeeze(1)
        if config.samples_per_class is not None and "train" in wanted:
            train = _subset(source, train, config.samples_per_class)
        loaded |= _residents(source, {"train": train, "val": val}, device)
    return {split: loaded[split] for split in wanted}


def _residents(
    source: Source, ids: Mapping[SplitName, Tensor], device: torch.device | str
) -> dict[SplitName, Resident]:
    pixels, labels = source.pixels.to(device), source.labels.to(device)
    about = (source.classes, source.mean, source.std, source.skipped)
    return {split: Resident(pixels, labels, members.to(device), *about) for split, members in ids.items()}


def _validation(source: Source, fraction: float) -> Tensor:
    """Ids of a fixed share of each class, at least one and never all of it: int64, ascending."""
    if fraction == 0:
        return torch.empty(0, dtype=torch.int64)
    sizes = torch.bincount(source.labels, minlength=len(source.classes)).tolist()
    counts = [max(0, min(size - 1, max(1, round(fraction * size)))) for size in sizes]
    order = rng.permutation(SPLIT_SEED, rng.Domain.SPLIT, VALIDATION_SPLIT, len(source.labels))
    return first_per_class(source.labels, order, counts)


def _subset(source: Source, train: Tensor, count: int) -> Tensor:
    """`count` fixed ids of each class out of `train`; a smaller count gives a subset of a larger one's."""
    for label, size in enumerate(torch.bincount(source.labels[train], minlength=len(source.classes)).tolist()):
        if size < count:
            name = source.classes[label]
            raise UserError(f"data.samples_per_class: {count} is not valid; class {name!r} has only {size} in train")
    order = rng.permutation(SPLIT_SEED, rng.Domain.SUBSET, 0, len(source.labels))
    order = order[torch.isin(order, train)]
    return first_per_class(source.labels, order, [count] * len(source.classes))
