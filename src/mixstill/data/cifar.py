"""CIFAR-10 and CIFAR-100 in the hub's Parquet layout, in torchvision's pickles, or by torchvision's download."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pyarrow as pa
import torch
from PIL import Image
from torchvision import datasets

from mixstill.config import DataConfig
from mixstill.data.images import STATISTICS, Part, Source, decode
from mixstill.data.parquet import class_names, holding, image_column, open_parquet, shards, unreadable
from mixstill.errors import RunError, UserError, one_line
from mixstill.paths import check_regular

_CIFAR_SIDE = 32
_CIFAR_CLASSES = {"cifar10": 10, "cifar100": 100}
_CIFAR_LABEL = {"cifar10": "label", "cifar100": "fine_label"}
_CIFAR_PICKLES = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
_PARQUET_FORMATS = ("PNG", "JPEG", "WEBP")  # asking for few is what makes opening 50,000 small images quick
# What unpickling a file that is none, or of other content than its digest is checked for, may raise.
_OF_PICKLES = (pickle.UnpicklingError, ValueError, KeyError, EOFError, AttributeError, TypeError)


def load_cifar(config: DataConfig, root: Path, split: Part) -> Source:
    """CIFAR-10 or CIFAR-100: the hub's Parquet files, else torchvision's pickles, else torchvision's download."""
    name = config.dataset
    rows, pickles = _rows(root), _pickles(root)
    if name in rows:
        return _cifar_parquet(config, rows[name], split)
    if name in pickles:
        return _cifar_pickles(name, pickles[name], split, config.download)
    others = [other for other in _CIFAR_CLASSES if other in rows or other in pickles]
    if others:
        raise UserError(f"data.data_dir: {str(root)!r} holds {others[0]}, not the data.dataset {name!r}")
    if config.download:
        return _cifar_pickles(name, root, split, config.download)
    raise UserError(
        f"data.data_dir: no {name} in {str(root)!r} or two folders down: neither {split}-*.parquet with a column "
        f"{_CIFAR_LABEL[name]!r} nor {_CIFAR_PICKLES[name].base_folder}; --data.download true fetches it"
    )


def held(root: Path) -> str | None:
    """Which of the CIFARs lies in `root`, in any of its forms; None where neither does."""
    try:
        there = _rows(root) | _pickles(root)
    except (UserError, OSError):
        return None
    return next((name for name in _CIFAR_CLASSES if name in there), None)


def _rows(root: Path) -> dict[str, Path]:
    """The folder of the Parquet files of each of the CIFARs that is there."""
    folders = reversed(holding(root, "train-*.parquet", "test-*.parquet"))
    named = ((_parquet_dataset(folder), folder) for folder in folders)
    return {name: folder for name, folder in named if name is not None}


def _pickles(root: Path) -> dict[str, Path]:
    """The folder that holds the folder of torchvision's pickles, of each of the CIFARs that is there."""
    found = {name: holding(root, f"{kind.base_folder}/*") for name, kind in _CIFAR_PICKLES.items()}
    return {name: folders[0].parent for name, folders in found.items() if folders}


def _parquet_dataset(folder: Path) -> str | None:
    """Which of the CIFARs the Parquet files of `folder` hold, by their columns and number of classes."""
    schema = open_parquet(min(folder.glob("*.parquet"))).schema_arrow
    if image_column(schema) is None:
        return None
    name = "cifar100" if "fine_label" in schema.names else "cifar10"
    names = class_names(schema, _CIFAR_LABEL[name])
    fits = _CIFAR_LABEL[name] in schema.names and len(names or range(_CIFAR_CLASSES[name])) == _CIFAR_CLASSES[name]
    return name if fits else None


def _cifar_parquet(config: DataConfig, folder: Path, split: Part) -> Source:
    name = config.dataset
    label = _CIFAR_LABEL[name]
    where: list[str] = []
    images: list[bytes | None] = []
    labels: list[int] = []
    for shard in shards(folder, split):
        file = open_parquet(shard)
        image = image_column(file.schema_arrow)
        if image is None or label not in file.schema_arrow.names:
            raise UserError(f"data.data_dir: {shard} has no column of images or no {label!r}")
        try:
            table = file.read(columns=[image, label])
        except (pa.ArrowException, OSError) as error:
            raise unreadable(shard, error) from error
        images += table[image].combine_chunks().field("bytes").to_pylist()
        labels += table[label].to_pylist()
        where += [f"{shard} row {row}" for row in range(table.num_rows)]
    classes = _CIFAR_CLASSES[name]
    for place, value in zip(where, labels, strict=True):
        if not (isinstance(value, int) and 0 <= value < classes):
            raise UserError(f"data.data_dir: {place} has the {label} {value!r}; {name}'s lie in 0 to {classes - 1}")

    def read(index: int) -> Image.Image:
        encoded = images[index]
        if encoded is None:
            raise ValueError("no bytes")
        image = Image.open(io.BytesIO(encoded), formats=_PARQUET_FORMATS).convert("RGB")
        if image.size != (_CIFAR_SIDE, _CIFAR_SIDE):
            raise ValueError(f"{image.width}x{image.height} pixels, {name}'s have {_CIFAR_SIDE}x{_CIFAR_SIDE}")
        return image

    pixels, kept, corrupt = decode(read, where.__getitem__, len(where), _CIFAR_SIDE, config.max_corrupt)
    names = class_names(file.schema_arrow, label) or [str(number) for number in range(classes)]
    return Source(pixels, torch.tensor(labels)[kept], tuple(names), *STATISTICS[name], corrupt)


def _cifar_pickles(name: str, root: Path, split: Part, download: bool) -> Source:
    kind = _CIFAR_PICKLES[name]
    try:
        for file in (root / kind.base_folder).glob("*"):  # torchvision would wait for a pipe
            check_regular(file)
        data = kind(root, train=split == "train", download=download)
    except (RuntimeError, OSError, *_OF_PICKLES) as error:
        if download:
            raise RunError(f"{name} could not be downloaded into {root}: {one_line(error)}") from error
        message = f"data.data_dir: {root / kind.base_folder} is incomplete or corrupt"
        raise UserError(f"{message}; --data.download true repairs it") from error
    pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return Source(pixels, torch.tensor(data.targets), tuple(data.classes), *STATISTICS[name])
