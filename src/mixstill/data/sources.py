"""What is trained on: a whole split, decoded once into uint8 pixels. Reads only; where a sample lies is its id.

Shapes: N samples of a split, H x W pixels.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pil

from mixstill import rng
from mixstill.config import DataConfig
from mixstill.errors import RunError, UserError, one_line

Split: TypeAlias = Literal["train", "test"]
Channels: TypeAlias = tuple[float, float, float]

# The mean and deviation of each channel of the train split, in [0, 1].
STATISTICS: dict[str, tuple[Channels, Channels]] = {
    "digits": ((0.3055, 0.3055, 0.3055), (0.3757, 0.3757, 0.3757)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
    "folder": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's: what pretrained models expect
}

# Fixed splits are draws of seed 0, the same for every run; each kind has its own epoch number.
SPLIT_SEED = 0
DIGITS_TEST_SPLIT, VALIDATION_SPLIT = 0, 1

_CIFAR_SIDE = 32
_CIFAR_CLASSES = {"cifar10": 10, "cifar100": 100}
_CIFAR_LABEL = {"cifar10": "label", "cifar100": "fine_label"}
_CIFAR_PICKLES = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
_IMAGE_COLUMNS = ("img", "image")
_PARQUET_FORMATS = ("PNG", "JPEG", "WEBP")  # asking for few is what makes opening 50,000 small images quick
_SHARD = re.compile(r"(?:train|test)-(\d+)-of-(\d+)")
_TEST_FOLDERS = ("test", "val", "validation")
_DECODE_CHUNK = 64  # images per task of a thread: small ones cost less than a task's bookkeeping


@dataclass(frozen=True, eq=False)
class Source:
    """One split: `pixels` uint8 [N, 3, H, W], `labels` int64 [N], both on the CPU; `skipped` names corrupt images."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    skipped: tuple[str, ...] = ()


def load_source(config: DataConfig, split: Split, size: int | None) -> Source:
    """The whole `split` of `config.dataset`.

    A folder's images are resized to `size` pixels per side; the other sets keep their own size.
    Raises `UserError` where the data is missing, incomplete, corrupt or another set than was asked for, and `RunError`
    where a download fails.
    """
    if config.dataset == "digits":
        return _digits(split)
    if config.data_dir is None:
        raise UserError(f"data.data_dir: None is not valid; {config.dataset} needs the folder that it lies in")
    root = Path(config.data_dir).expanduser()
    if not config.download or config.dataset == "folder":
        if not root.is_dir():
            raise UserError(f"data.data_dir: {str(root)!r} is not a folder")
        if not any(root.iterdir()):
            raise UserError(f"data.data_dir: {str(root)!r} is empty")
    return _folder(config, root, split, size) if config.dataset == "folder" else _cifar(config, root, split)


def first_per_class(labels: Tensor, order: Tensor, counts: Sequence[int]) -> Tensor:
    """The first `counts[k]` samples of each class k in `order` (int64 [n] positions in `labels`), sorted."""
    ordered = labels[order]
    picks = [order[ordered == label][:count] for label, count in enumerate(counts)]
    return torch.cat(picks).sort().values


def _digits(split: Split) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8; a third of each class, always the same, is the test split."""
    bunch = load_digits()
    labels = torch.from_numpy(bunch.target).long()
    grey = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)
    order = rng.permutation(SPLIT_SEED, rng.Domain.SPLIT, DIGITS_TEST_SPLIT, len(labels))
    chosen = first_per_class(labels, order, [count // 3 for count in torch.bincount(labels).tolist()])
    member = torch.zeros(len(labels), dtype=torch.bool).index_fill_(0, chosen, True)
    if split == "train":
        member = ~member
    pixels = grey[member].unsqueeze(1).repeat(1, 3, 1, 1)
    return Source(pixels, labels[member], tuple(str(name) for name in bunch.target_names), *STATISTICS["digits"])


def _cifar(config: DataConfig, root: Path, split: Split) -> Source:
    """CIFAR-10 or CIFAR-100: the hub's Parquet files, else torchvision's pickles, else torchvision's download."""
    name = config.dataset
    held = {
        _parquet_dataset(folder): folder for folder in reversed(_holding(root, "train-*.parquet", "test-*.parquet"))
    }
    if name in held:
        return _cifar_parquet(config, held[name], split)
    pickles = {other: _holding(root, f"{kind.base_folder}/*") for other, kind in _CIFAR_PICKLES.items()}
    if pickles[name]:
        return _cifar_pickles(name, pickles[name][0].parent, split, config.download)
    others = [other for other in _CIFAR_CLASSES if other in held or pickles[other]]
    if others:
        raise UserError(f"data.data_dir: {str(root)!r} holds {others[0]}, not the data.dataset {name!r}")
    if config.download:
        return _cifar_pickles(name, root, split, config.download)
    raise UserError(
        f"data.data_dir: no {name} in {str(root)!r} or two folders down: neither {split}-*.parquet with a column "
        f"{_CIFAR_LABEL[name]!r} nor {_CIFAR_PICKLES[name].base_folder}; --data.download true fetches it"
    )


def _holding(root: Path, *patterns: str) -> list[Path]:
    """The folders that hold a file like one of `patterns`, `root` itself first, at most two folders down."""
    depths = [
        {file.parent for pattern in patterns for file in root.glob(down + pattern)} for down in ("", "*/", "*/*/")
    ]
    return [folder for folders in depths for folder in sorted(folders)]


def _parquet_dataset(folder: Path) -> str | None:
    """Which of the CIFARs the Parquet files of `folder` hold, by their columns and number of classes."""
    schema = _open_parquet(min(folder.glob("*.parquet"))).schema_arrow
    if _image_column(schema) is None:
        return None
    name = "cifar100" if "fine_label" in schema.names else "cifar10"
    names = _class_names(schema, _CIFAR_LABEL[name])
    fits = _CIFAR_LABEL[name] in schema.names and len(names or range(_CIFAR_CLASSES[name])) == _CIFAR_CLASSES[name]
    return name if fits else None


def _image_column(schema: Any) -> str | None:
    """The column of encoded images: a struct with the field `bytes`."""
    for name in _IMAGE_COLUMNS:
        if (
            name in schema.names
            and pa.types.is_struct(kind := schema.field(name).type)
            and kind.get_field_index("bytes") >= 0
        ):
            return name
    return None


def _open_parquet(file: Path) -> Any:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: BaseException) -> UserError:
    return UserError(f"data.data_dir: {file} cannot be read as Parquet: {one_line(error)}")


def _class_names(schema: Any, label: str) -> list[str] | None:
    """The class names that the hub's `datasets` leaves in a Parquet file's metadata, if it did."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _cifar_parquet(config: DataConfig, folder: Path, split: Split) -> Source:
    name = config.dataset
    label = _CIFAR_LABEL[name]
    where: list[str] = []
    images: list[bytes | None] = []
    labels: list[int] = []
    for shard in _shards(folder, split):
        file = _open_parquet(shard)
        image = _image_column(file.schema_arrow)
        if image is None or label not in file.schema_arrow.names:
            raise UserError(f"data.data_dir: {shard} has no column of images or no {label!r}")
        try:
            table = file.read(columns=[image, label])
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(shard, error) from error
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

    pixels, kept, skipped = _decode(read, where, _CIFAR_SIDE, config.skip_corrupt)
    names = _class_names(file.schema_arrow, label) or [str(number) for number in range(classes)]
    return Source(pixels, torch.tensor(labels)[kept], tuple(names), *STATISTICS[name], skipped)


def _shards(folder: Path, split: Split) -> list[Path]:
    """The Parquet files of `split`, in order. Raises `UserError` for a missing one, by the count in their names."""
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(f"data.data_dir: no {split}-*.parquet in {folder}")
    numbered = [match.groups() for file in files if (match := _SHARD.match(file.name))]
    totals = sorted({total for _, total in numbered})
    if len(totals) > 1:
        raise UserError(f"data.data_dir: {folder} mixes {split} files of {' and of '.join(totals)} shards")
    for total in totals:
        present = {int(number) for number, _ in numbered}
        for number in range(int(total)):
            if number not in present:
                missing = f"{split}-{number:05d}-of-{total}.parquet"
                raise UserError(f"data.data_dir: {missing} is missing in {folder}")
    return files


def _cifar_pickles(name: str, root: Path, split: Split, download: bool) -> Source:
    kind = _CIFAR_PICKLES[name]
    try:
        data = kind(root, train=split == "train", download=download)
    except (RuntimeError, OSError) as error:
        if download:
            raise RunError(f"{name} could not be downloaded into {root}: {one_line(error)}") from error
        message = f"data.data_dir: {root / kind.base_folder} is incomplete or corrupt"
        raise UserError(f"{message}; --data.download true repairs it") from error
    pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return Source(pixels, torch.tensor(data.targets), tuple(data.classes), *STATISTICS[name])


def _folder(config: DataConfig, root: Path, split: Split, size: int | None) -> Source:
    """Class folders in `root`/train and in `root`/test, /val or /validation; classes in the order of their names."""
    if size is None:
        raise UserError("data.input_size: None is not valid; a folder's images need the size to be brought to")
    places = _places(root)
    try:
        listing = datasets.ImageFolder(str(places[split]))
    except FileNotFoundError as error:
        raise UserError(f"data.data_dir: {places[split]}: {one_line(error)}") from error
    where = [path for path, _ in listing.samples]

    def read(index: int) -> Image.Image:
        with Image.open(where[index]) as image:
            resized = pil.resize(image.convert("RGB"), [size], InterpolationMode.BICUBIC)
            return cast(Image.Image, pil.center_crop(resized, [size]))

    pixels, kept, skipped = _decode(read, where, size, config.skip_corrupt)
    return Source(pixels, torch.tensor(listing.targets)[kept], tuple(listing.classes), *STATISTICS["folder"], skipped)


def _places(root: Path) -> dict[Split, Path]:
    """Where the splits lie. Raises `UserError` unless there are both and they have the same classes."""
    found = {name: root / name for name in ("train", *_TEST_FOLDERS) if (root / name).is_dir()}
    test = next((found[name] for name in _TEST_FOLDERS if name in found), None)
    if "train" not in found or test is None:
        absent = "train folder" if "train" not in found else "test folder"
        raise UserError(
            f"data.data_dir: {str(root)!r} has no {absent}; expected are train/CLASS/IMAGE and test/CLASS/IMAGE "
            "(val or validation will do for test)"
        )
    places: dict[Split, Path] = {"train": found["train"], "test": test}
    train_names, test_names = ({path.name for path in place.iterdir() if path.is_dir()} for place in places.values())
    if train_names != test_names:
        differing = sorted(train_names ^ test_names)
        shown = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
        raise UserError(f"data.data_dir: {found['train']} and {test} differ in {len(differing)} classes: {shown}")
    return places


def _decode(
    read: Callable[[int], Image.Image], where: Sequence[str], side: int, skip_corrupt: bool
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Every image that `read` gives, in threads: uint8 [n, 3, side, side], their indices [n], the skipped by name."""
    pixels = np.empty((len(where), 3, side, side), dtype=np.uint8)

    def fill(start: int) -> list[tuple[int, str]]:
        failures = []
        for index in range(start, min(start + _DECODE_CHUNK, len(where))):
            try:
                pixels[index] = np.asarray(read(index)).transpose(2, 0, 1)
            except Exception as error:  # a broken file makes Pillow raise almost anything
                reason = "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)
                failures.append((index, f"{where[index]}: {reason}"))
        return failures

    corrupt: dict[int, str] = {}
    with ThreadPoolExecutor() as pool:
        for failures in pool.map(fill, range(0, len(where), _DECODE_CHUNK)):
            corrupt.update(failures)
            if failures and not skip_corrupt:
                pool.shutdown(cancel_futures=True)
                raise UserError(
                    f"data.data_dir: corrupt image {failures[0][1]}; --data.skip_corrupt true leaves such images out"
                )
    kept = torch.tensor([index for index in range(len(where)) if index not in corrupt], dtype=torch.int64)
    if not len(kept):
        reason = next(iter(corrupt.values()), "there are none")
        raise UserError(f"data.data_dir: no image of {len(where)} can be read: {reason}")
    decoded = torch.from_numpy(pixels)
    return decoded[kept] if corrupt else decoded, kept, tuple(corrupt.values())
