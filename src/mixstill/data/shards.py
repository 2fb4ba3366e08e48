"""What is checked of the shards of an iterable data set before a run begins: that they exist, and go round."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mixstill.config import DataConfig
from mixstill.data.images import Part
from mixstill.errors import RunError, UserError, many, nearest, one_line
from mixstill.paths import check_regular


def check_shards(config: DataConfig, part: Part, reader: Any, world: int) -> None:
    """Raises `UserError` where shards on this machine are missing, or too few for the workers of `world` processes."""
    if hasattr(reader, "split_info"):
        _check_exist(config, part, reader)
    elif hasattr(reader, "builder") and not getattr(reader, "download", True):
        _check_count(config, part, reader, world)


def _check_exist(config: DataConfig, part: Part, reader: Any) -> None:
    """Of webdataset's shards, those that lie in folders. What a folder's own list names must lie in it."""
    listed = _split(config, part) in reader.info.get("splits", {})
    for name in reader.split_info.filenames:
        if listed and (":" in name or name.startswith("/") or ".." in name.split("/")):
            raise UserError(f"data.data_dir: the info.json in {reader.root!r} names {name!r}, which is not in there")
        if urlsplit(name).scheme or urlsplit(reader.root).scheme:
            continue
        shard = Path(reader.root, name)
        if shard.exists():
            try:
                check_regular(shard)  # webdataset would wait for a pipe
            except OSError as error:
                raise UserError(f"{_field(part)}: {_split(config, part)!r}: {shard}: {error.strerror}") from error
            continue
        near = nearest(shard.name, sorted(path.name for path in shard.parent.glob("*.tar")))
        hint = f"did you mean {near!r}?" if near else "there is none like it"
        raise UserError(f"{_field(part)}: {_split(config, part)!r}: no shard {str(shard)!r}; {hint}")


def _check_count(config: DataConfig, part: Part, reader: Any, world: int) -> None:
    """Of the hub's streams; only training needs a shard for each worker."""
    try:
        shards = getattr(reader.builder.as_streaming_dataset(split=reader.split), "num_shards", None)
    except ConnectionError as error:
        raise RunError(f"data.dataset: {config.dataset!r} could not be fetched: {one_line(error)}") from error
    except Exception as error:  # the builders raise almost anything
        text = one_line(error, 200)
        raise UserError(
            f"{_field(part)}: {_split(config, part)!r} of {config.dataset!r} cannot be opened: {text}"
        ) from error
    if part != "train" or not shards:
        return
    most = shards // world if shards % world == 0 else shards  # where they go not round, every process reads all
    if config.workers > max(1, most):
        raise UserError(
            f"data.workers: {config.workers} is not valid; {config.dataset!r} has {many(shards, 'shard')} "
            f"for {many(world, 'process')}: at most {most}"
        )


def _field(part: Part) -> str:
    return "data.train_split" if part == "train" else "data.test_split"


def _split(config: DataConfig, part: Part) -> str:
    return config.train_split if part == "train" else config.test_split
