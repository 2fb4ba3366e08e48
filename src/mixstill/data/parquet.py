"""The hub's Parquet files on disk: which columns hold images and labels, and their rows as encoded images.

Shapes: N rows.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from mixstill.config import DataConfig
from mixstill.data.factory import Listing, listing
from mixstill.data.images import FORMATS, Part
from mixstill.errors import UserError, one_line
from mixstill.paths import check_regular
from mixstill.texts import parse_json

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_SHARD = re.compile(r".*?(\d+)-of-(\d+)")


class Rows:
    """Encoded images in memory, one after another, which workers share; a `Photos`."""

    def __init__(self, images: Sequence[bytes | None], labels: Tensor, files: Sequence[tuple[str, int]]) -> None:
        there = [image or b"" for image in images]
        self._ends = np.cumsum([0, *map(len, there)])
        self._content = torch.frombuffer(bytearray(b"".join(there) or b" "), dtype=torch.uint8)
        self._labels, self._files = labels.numpy(), list(files)

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return torch.tensor(self._labels)

    def __len__(self) -> int:
        return len(self._labels)

    def open(self, index: int) -> tuple[Image.Image, int]:
        """See `Photos`."""
        start, end = self._ends[index : index + 2]
        content = io.BytesIO(self._content[start:end].numpy().tobytes())
        return Image.open(content, formats=FORMATS), int(self._labels[index])

    def name(self, index: int) -> str:
        """The file and the row in it."""
        for file, rows in self._files:
            if index < rows:
                return f"{file} row {index}"
            index -= rows
        raise IndexError(index)


def list_rows(config: DataConfig, shards: dict[Part, list[Path]], part: Part) -> Listing:
    """The images of a part in Parquet files, with the classes of all parts.

    Labels are class numbers, named by the metadata that the hub's `datasets` leaves, or words: then the words of the
    train part are the classes, in their order. The encoded images are held in memory.

    Raises `UserError` for files that cannot be read, columns that are not there, and words that train has not.
    """
    first = shards[part][0]
    schema = open_parquet(first).schema_arrow
    image, label = _image_of(config, first, schema), _label_of(config, first, schema)
    known: Sequence[str] | None = class_names(schema, label)
    values = {its: _column(files, label) for its, files in shards.items()}
    mine, train = values[part], values.get("train", values[part])
    for kind in (str, int):
        if isinstance(mine[0] if mine else None, kind) and not all(isinstance(value, kind) for value in mine):
            odd = next(row for row, value in enumerate(mine) if not isinstance(value, kind))
            raise UserError(f"data.target_key: {label!r} holds {mine[0]!r}, but {mine[odd]!r} in row {odd} of {part}")
    if mine and isinstance(mine[0], str):
        known = sorted({value for value in train if isinstance(value, str)})
        mine = numbered(mine, known, f"data.target_key: {label!r} of {first}")
    elif mine and not isinstance(mine[0], int):
        raise UserError(f"data.target_key: {label!r} of {first} holds {mine[0]!r}; labels are class numbers or words")
    elif known is None and config.num_classes is None:
        highest = max((value for column in values.values() for value in column if isinstance(value, int)), default=-1)
        known = [str(number) for number in range(highest + 1)]
    images = [row for file in shards[part] for row in _column([file], image, "bytes")]
    rows = [(str(file), open_parquet(file).metadata.num_rows) for file in shards[part]]
    return listing(config, Rows(images, torch.tensor(mine, dtype=torch.int64), rows), known)


def numbered(words: Iterable[Any], classes: Sequence[str], where: str) -> list[int]:
    """Number of each word in `classes`. Raises `UserError` for one that is not there."""
    numbers = {name: number for number, name in enumerate(classes)}
    found = []
    for word in words:
        if word not in numbers:
            raise UserError(f"{where} holds {word!r}, which is no class of train: {', '.join(classes[:5])} and so on")
        found.append(numbers[word])
    return found


def shards_of(root: Path, names: Sequence[str]) -> list[Path]:
    """The Parquet files `NAME-*.parquet` of the first of `names` that there is, at most two folders down.

    No files where there are none. Raises `UserError` for a missing shard, by the count in their names.
    """
    for name in names:
        folders = holding(root, f"{name}-*.parquet", f"{name}.parquet")
        if folders:
            return shards(folders[0], name)
    return []


def holding(root: Path, *patterns: str) -> list[Path]:
    """The folders that hold a file like one of `patterns`, `root` itself first, at most two folders down."""
    depths = [
        {file.parent for pattern in patterns for file in root.glob(down + pattern)} for down in ("", "*/", "*/*/")
    ]
    return [folder for folders in depths for folder in sorted(folders)]


def shards(folder: Path, name: str) -> list[Path]:
    """The Parquet files of a split, in order. Raises `UserError` for a missing one, by the count in their names."""
    files = sorted([*folder.glob(f"{name}-*.parquet"), *folder.glob(f"{name}.parquet")])
    if not files:
        raise UserError(f"data.data_dir: no {name}-*.parquet in {folder}")
    numbers = [match.groups() for file in files if (match := _SHARD.match(file.name.removeprefix(name)))]
    totals = sorted({total for _, total in numbers})
    if len(totals) > 1:
        raise UserError(f"data.data_dir: {folder} mixes {name} files of {' and of '.join(totals)} shards")
    for total in totals:
        present = {int(number) for number, _ in numbers}
        for number in range(int(total)):
            if number not in present:
                missing = f"{name}-{number:05d}-of-{total}.parquet"
                raise UserError(f"data.data_dir: {missing} is missing in {folder}")
    return files


def open_parquet(file: Path) -> Any:
    """The Parquet file. Raises `UserError` for one that cannot be read."""
    try:
        check_regular(file)
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: BaseException) -> UserError:
    """What there is to say of a file that cannot be read."""
    return UserError(f"data.data_dir: {file} cannot be read as Parquet: {one_line(error)}")


def image_column(schema: Any, names: Sequence[str] = IMAGE_COLUMNS) -> str | None:
    """The first of the columns `names` that holds encoded images: a struct with the field `bytes`."""
    return next((name for name in names if name in schema.names and _holds_bytes(schema.field(name).type)), None)


def class_names(schema: Any, label: str) -> list[str] | None:
    """The class names that the hub's `datasets` leaves in a Parquet file's metadata, if it did."""
    try:
        features = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _holds_bytes(kind: Any) -> bool:
    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _image_of(config: DataConfig, file: Path, schema: Any) -> str:
    named = (config.input_key,) if config.input_key else (*IMAGE_COLUMNS, *schema.names)
    found = image_column(schema, named)
    if found is None:
        raise UserError(
            f"data.input_key: {config.input_key!r} is not valid; {file} has the columns {', '.join(schema.names)}, and "
            "encoded images lie in a struct with the field 'bytes'"
        )
    return found


def _label_of(config: DataConfig, file: Path, schema: Any) -> str:
    named = (config.target_key,) if config.target_key else LABEL_COLUMNS
    found = next((name for name in named if name in schema.names), None)
    if found is None:
        others = ", ".join(schema.names)
        raise UserError(f"data.target_key: {config.target_key!r} is not valid; {file} has the columns {others}")
    return found


def _column(files: Sequence[Path], name: str, inner: str | None = None) -> list[Any]:
    """The values of a column, or of a field in it."""
    values: list[Any] = []
    for file in files:
        opened = open_parquet(file)
        if name not in opened.schema_arrow.names:
            raise UserError(f"data.data_dir: {file} has no column {name!r}, as others of its data set have")
        try:
            column = opened.read(columns=[name])[name].combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise unreadable(file, error) from error
        values += (column if inner is None else column.field(inner)).to_pylist()
    return values
