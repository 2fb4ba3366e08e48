"""Data sets of timm's factory, by the scheme in their name, each mistake told in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from timm.data import create_dataset
from torch import Tensor

from mixstill.config import DataConfig
from mixstill.data.images import Part, odd_label, run_no_programs
from mixstill.data.opening import secure_webdataset
from mixstill.data.photos import Decoded, Encoded, Files, Photos
from mixstill.errors import RunError, UserError, one_line, shown
from mixstill.quiet import only_errors
from mixstill.telling import deceives

ITERABLE = ("hfids", "tfds", "wds")
_PACKAGES = {"hfds": "datasets", "hfids": "datasets", "wds": "webdataset", "tfds": "tensorflow_datasets"}
_NEEDING_FOLDER = ("torch", "wds")


@dataclass(frozen=True, eq=False)
class Listing:
    """A part of a map-style data set: its samples and the names of its classes."""

    photos: Photos
    classes: tuple[str, ...]


def scheme_of(config: DataConfig) -> str:
    """What stands before the slash of the data set's name, or the whole name."""
    return config.dataset.partition("/")[0]


def is_iterable(config: DataConfig) -> bool:
    """Whether the data set gives its samples only one after another."""
    return scheme_of(config) in ITERABLE


def worker_modules(config: DataConfig) -> list[str]:
    """What workers need besides, to unpack the data set: slow to import, so better once in their server."""
    scheme = scheme_of(config)
    return [f"timm.data.readers.reader_{scheme}"] if scheme in ("hfds", "hfids", "wds") else []


def open_listing(config: DataConfig, part: Part) -> Listing:
    """A part of a map-style data set of timm's: `hfds/NAME`, `torch/NAME`. Raises `UserError` as `create` does."""
    dataset = create(config, part)
    if scheme_of(config) == "hfds":
        reader = dataset.reader
        labels, words = _labels(reader.dataset, reader.label_key)
        _check_images(reader.dataset, reader.image_key)
        return listing(config, Encoded(reader, labels, f"{part} row"), words or reader.class_to_idx)
    if hasattr(dataset, "samples") and hasattr(dataset, "loader"):
        return listing(config, files(dataset), _class_names(dataset))
    targets = getattr(dataset, "targets", None)
    known = None if targets is None else torch.as_tensor(np.asarray(targets), dtype=torch.int64)
    return listing(config, Decoded(dataset, known, f"{part} sample"), _class_names(dataset))


def files(folder: Any) -> Files:
    """The image files of torchvision's `ImageFolder`."""
    paths, labels = zip(*folder.samples, strict=True)
    return Files(paths, labels)


def create(config: DataConfig, part: Part, **options: Any) -> Any:
    """timm's data set for a part of `config.dataset`.

    Raises `UserError` where a package is missing or the data set cannot be opened, `RunError` where the net fails.
    """
    scheme = scheme_of(config)
    package = _PACKAGES.get(scheme)
    if package is not None and find_spec(package) is None:
        extra = "tensorflow-datasets tensorflow" if scheme == "tfds" else "'mixstill[stream]'"
        raise UserError(f"data.dataset: {config.dataset!r} needs the package {package}: pip install {extra}")
    if scheme == "wds":
        secure_webdataset()
    if not config.data_dir and scheme in _NEEDING_FOLDER:
        raise UserError(
            f"data.data_dir: {config.data_dir!r} is not valid; {config.dataset} lies in a folder: --data-dir DIR"
        )
    if scheme == "torch":
        if config.input_key or config.target_key:
            key = "input_key" if config.input_key else "target_key"
            raise UserError(
                f"data.{key}: {getattr(config, key)!r} is not valid; {config.dataset} has no keys to choose"
            )
    else:
        options |= {"input_key": config.input_key, "target_key": config.target_key}
    split = config.train_split if part == "train" else config.test_split
    return open_with_timm(config, config.dataset, config.data_dir, split=split, download=config.download, **options)


def open_with_timm(config: DataConfig, name: str, root: str | None, **options: Any) -> Any:
    """What timm's factory makes of `name`; whatever it raises as one line."""
    run_no_programs()
    try:
        with _quietly(name):
            return create_dataset(name, root=root, **options)
    except (UserError, RunError):
        raise
    except ConnectionError as error:
        raise RunError(f"data.dataset: {config.dataset!r} could not be fetched: {one_line(error)}") from error
    except Exception as error:  # the data sets' own readers raise almost anything
        text = one_line(error, 200)
        if "num_samples" in text:
            raise UserError(
                f"data.num_samples: {config.num_samples} is not valid; {config.dataset!r} does not tell how many "
                "training samples it has"
            ) from error
        if config.dataset == "folder":
            raise UserError(f"data.data_dir: {root}: {text}") from error
        split = f", split {options['split']!r}" if "split" in options else ""
        where = f" in {root!r}" if root else ""
        raise UserError(f"data.dataset: {config.dataset!r}{where}{split} cannot be opened: {text}") from error


@contextmanager
def _quietly(name: str) -> Iterator[None]:
    """Without the remarks of timm's readers and the progress bars of `datasets`."""
    with ExitStack() as stack:
        stack.enter_context(only_errors("timm.data.readers"))
        if name.startswith(("hfds/", "hfids/")):
            import datasets

            if not datasets.are_progress_bars_disabled():
                stack.callback(datasets.enable_progress_bars)
                datasets.disable_progress_bars()
        yield


def listing(config: DataConfig, photos: Photos, known: dict[str, int] | Sequence[str] | None) -> Listing:
    """`photos` with the names of their classes. Raises `UserError` for no samples, or labels that are no class."""
    if not len(photos):
        raise UserError(f"data.dataset: {config.dataset!r} has no samples")
    highest = None if photos.labels is None else int(photos.labels.max())
    classes = class_names(config, known, highest)
    if photos.labels is not None:
        check_labels(photos.labels, len(classes), photos.name)
    return Listing(photos, classes)


def check_labels(labels: Tensor, classes: int, name: Callable[[int], str]) -> None:
    """Raises `UserError` unless `labels` int64 [n] lie in range(classes); `name` tells the sample of a position."""
    odd = ((labels < 0) | (labels >= classes)).nonzero()
    if len(odd):
        place = int(odd[0])
        raise UserError(f"data: {odd_label(name(place), int(labels[place]), classes)}")


def class_names(
    config: DataConfig, known: dict[str, int] | Sequence[str] | None, highest: int | None
) -> tuple[str, ...]:
    """The names that the data set knows, else the numbers of `config.num_classes` or up to the `highest` label.

    Raises `UserError` where none of them tells, or the config and the data set tell different counts.
    """
    names = tuple(sorted(known, key=known.__getitem__)) if isinstance(known, dict) else tuple(known or ())
    odd = next(filter(deceives, names), None)
    if odd is not None:
        raise UserError(f"data: the class name {shown(odd)} holds a character that a terminal would obey; rename it")
    if names:
        if config.num_classes not in (None, len(names)):
            known_count = f"{len(names)} class{'es' if len(names) > 1 else ''}"
            raise UserError(
                f"data.num_classes: {config.num_classes} is not valid; {config.dataset!r} has {known_count}"
            )
        return names
    count = config.num_classes or (None if highest is None else highest + 1)
    if count is None:
        raise UserError(f"data.num_classes: None is not valid; {config.dataset!r} does not tell its classes")
    return tuple(str(number) for number in range(count))


def _class_names(dataset: Any) -> list[str]:
    """The names that a data set of torchvision gives; ImageNet has several for each class."""
    names = getattr(dataset, "classes", None) or []
    return [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]


def _labels(rows: Any, key: str) -> tuple[Tensor | None, list[str]]:
    """The labels of a data set of the hub, and the classes where they are words, in their order.

    None where they lie deeper than a column. Raises `UserError` for what is neither a number nor a word.
    """
    if "/" in key or "," in key:
        return None, []
    if key not in rows.column_names:
        raise UserError(f"data.target_key: {key!r} is not valid; there are {', '.join(rows.column_names)}")
    values = np.asarray(rows.with_format("numpy")[key][:])
    if values.dtype.kind in "OU" and all(isinstance(value, str) for value in values.tolist()):
        words, numbers = np.unique(values.astype(str), return_inverse=True)
        return torch.from_numpy(numbers.astype(np.int64)), words.tolist()
    if not np.issubdtype(values.dtype, np.integer):
        odd = next((value for value in values.tolist() if not isinstance(value, str)), values[0])
        raise UserError(f"data.target_key: {key!r} holds {str(odd)!r}; labels must be class numbers or words")
    return torch.from_numpy(values.astype(np.int64)), []


def _check_images(rows: Any, key: str) -> None:
    """Raises `UserError` for a column without images, such as timm's reader adds where there is none of that name."""
    if rows.data.column(key).null_count == len(rows):
        others = ", ".join(name for name in rows.column_names if name != key)
        raise UserError(f"data.input_key: {key!r} is not valid; there are {others}")
