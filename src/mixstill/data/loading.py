"""Which samples belong to which split, and whether they are held in memory or read while they are needed.

Shapes: N samples of a part of the data set, n of them in the split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mixstill import rng
from mixstill.config import SMALL, DataConfig, ViewsConfig
from mixstill.data.cutting import Cutting
from mixstill.data.factory import is_iterable, worker_modules
from mixstill.data.images import Part, normalisation_of
from mixstill.data.iterable import open_feed
from mixstill.data.parts import SPLITS, SplitName, cut
from mixstill.data.resident import Resident
from mixstill.data.sources import list_photos, load_source
from mixstill.data.split import Corrupt, Split
from mixstill.data.splits import SPLIT_SEED, VALIDATION_SPLIT, first_per_class
from mixstill.data.streaming import Stream
from mixstill.data.workers import start_server
from mixstill.errors import UserError, unknown


@dataclass(frozen=True, eq=False)
class _Whole:
    """A part of a data set before it is cut into splits."""

    count: int
    labels: Tensor | None
    classes: tuple[str, ...]
    split: Callable[[Tensor, int], Split]
    """Of the ids of the split, and how many more `samples_per_class` leaves out."""


def load_split(
    config: DataConfig,
    split: SplitName,
    device: torch.device | str,
    size: int | None,
    *,
    views: ViewsConfig | None = None,
    seed: int = 0,
) -> Split:
    """One split, on `device`; see `load_splits`."""
    return load_splits(config, [split], device, size, views=views, seed=seed)[split]


def load_splits(
    config: DataConfig,
    splits: Iterable[SplitName],
    device: torch.device | str,
    size: int | None,
    *,
    views: ViewsConfig | None = None,
    seed: int = 0,
) -> dict[SplitName, Split]:
    """The named splits, on `device`; what train and val share is held once.

    val is a fixed share `config.val_fraction` of each class of train (see `cut` where it is left open), train the rest,
    of which `config.samples_per_class` fixed samples of each class are kept. Neither depends on the seed of a run.
    `size` is that of `load_source`; `views` and `seed` are for the crops that workers draw in training.
    Raises `UserError` as `load_source` does, and for a split that the config does not give.
    """
    wanted, config = list(splits), cut(config)
    for split in wanted:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if split == "val" and config.val_fraction == 0:
            raise UserError("data.val_fraction: 0.0 leaves no validation split; give a share of train, such as 0.1")
    _check_resident(config)

    if config.workers and config.dataset not in SMALL and not config.resident:
        start_server(worker_modules(config))

    def whole(part: Part) -> _Whole:
        if is_iterable(config):
            return _feed(config, part, torch.device(device), size, views, seed)
        if config.resident or config.dataset in SMALL:
            return _resident(config, part, torch.device(device), size)
        return _stream(config, part, torch.device(device), size, views, seed)

    loaded: dict[SplitName, Split] = {}
    if "test" in wanted:
        part = whole("test")
        loaded["test"] = part.split(torch.arange(part.count), 0)
    if "train" in wanted or "val" in wanted:
        part = whole("train")
        val = _validation(config, part)
        train = torch.ones(part.count, dtype=torch.bool).index_fill_(0, val, False).nonzero().squeeze(1)
        there = len(train)
        if config.samples_per_class is not None and "train" in wanted:
            train = _subset(config, part, train, config.samples_per_class)
        loaded |= {"train": part.split(train, there - len(train)), "val": part.split(val, 0)}
        if "test" in loaded and loaded["test"].classes != part.classes:
            raise UserError(
                f"data.dataset: the train and the test part of {config.dataset!r} differ in their classes: "
                f"{len(part.classes)} and {len(loaded['test'].classes)}, or other names"
            )
    return {split: loaded[split] for split in wanted}


def _check_resident(config: DataConfig) -> None:
    """Raises `UserError` where a data set cannot be held in memory, or is always."""
    if config.resident is False and config.dataset in SMALL:
        raise UserError(f"data.resident: False is not valid; {config.dataset} is always held in memory")
    if config.resident and is_iterable(config):
        raise UserError(f"data.resident: True is not valid; {config.dataset} can only be read one after another")


def _resident(config: DataConfig, part: Part, device: torch.device, size: int | None) -> _Whole:
    source = load_source(config, part, size)
    pixels, labels = source.pixels.to(device), source.labels.to(device)
    about = (source.classes, *normalisation_of(config), source.corrupt)
    return _Whole(
        len(labels), source.labels, source.classes, lambda ids, out: Resident(pixels, labels, ids, *about, out)
    )


def _stream(
    config: DataConfig, part: Part, device: torch.device, size: int | None, views: ViewsConfig | None, seed: int
) -> _Whole:
    found = list_photos(config, part, size)
    photos, classes = found.photos, found.classes
    cutting = Cutting(size=size or 0, crop_pct=config.crop, views=views, seed=seed)
    about = (classes, *normalisation_of(config), cutting, device, config.workers, Corrupt(config.max_corrupt))
    return _Whole(len(photos), photos.labels, classes, lambda ids, out: Stream(photos, ids, *about, out))


def _feed(
    config: DataConfig, part: Part, device: torch.device, size: int | None, views: ViewsConfig | None, seed: int
) -> _Whole:
    if views is not None and views.aug_repeats > 1:
        raise UserError(
            f"views.aug_repeats: {views.aug_repeats} is not valid; {config.dataset} gives each sample only once"
        )
    feed = open_feed(config, part, device, size, views, seed)
    return _Whole(len(feed), None, feed.classes, lambda ids, out: feed)


def _labels(config: DataConfig, whole: _Whole, field: str) -> Tensor:
    if whole.labels is None:
        raise UserError(
            f"data.{field}: {getattr(config, field)} is not valid; the labels of {config.dataset} are only known when "
            "its images are read"
        )
    return whole.labels


def _validation(config: DataConfig, whole: _Whole) -> Tensor:
    """Ids of a fixed share of each class, at least one and never all of it: int64, ascending."""
    fraction = config.val_fraction
    if not fraction:
        return torch.empty(0, dtype=torch.int64)
    labels = _labels(config, whole, "val_fraction")
    sizes = torch.bincount(labels, minlength=len(whole.classes)).tolist()
    counts = [max(0, min(size - 1, max(1, round(fraction * size)))) for size in sizes]
    order = rng.permutation(SPLIT_SEED, rng.Domain.SPLIT, VALIDATION_SPLIT, len(labels))
    return first_per_class(labels, order, counts)


def _subset(config: DataConfig, whole: _Whole, train: Tensor, count: int) -> Tensor:
    """`count` fixed ids of each class out of `train`; a smaller count gives a subset of a larger one's."""
    labels = _labels(config, whole, "samples_per_class")
    for label, size in enumerate(torch.bincount(labels[train], minlength=len(whole.classes)).tolist()):
        if size < count:
            name = whole.classes[label]
            raise UserError(f"data.samples_per_class: {count} is not valid; class {name!r} has only {size} in train")
    order = rng.permutation(SPLIT_SEED, rng.Domain.SUBSET, 0, len(labels))
    order = order[torch.isin(order, train)]
    return first_per_class(labels, order, [count] * len(whole.classes))
