"""Writing files so that a reader, or a run that was killed, only ever finds a whole one."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mixstill.errors import RunError

_PARTIAL = re.compile(r"\..+\.(\d+)\.partial")


def write_atomically(path: Path, content: bytes | memoryview, keep: Path | None = None) -> None:
    """Put `content` at `path` in one step: a temporary file beside it, synced to disk, then renamed.

    What was at `path` goes to `keep`, where that is given; at each moment one of the two is there, and whole.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # what a killed run leaves, `sweep` takes
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as file:  # follows no link
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Raises as `to_json`."""
    write_atomically(path, (to_json(value, indent=2) + "\n").encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON, which has no NaN and no Infinity. Raises `RunError` naming the first such number."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError as error:
        for name, number in _numbers(value):
            if not math.isfinite(number):
                raise RunError(f"{name or 'output'}: {number} is not finite, and so no answer") from error
        raise


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Dotted name and value of each float in nested values."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        for key, its in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _numbers(its, f"{name}.{key}" if name else str(key))


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder, and from those in it. Only who holds it may."""
    for place in (folder, *(each for each in folder.iterdir() if each.is_dir() and not each.is_symlink())):
        with suppress(OSError):
            for file in place.glob(".*.partial"):
                named = _PARTIAL.fullmatch(file.name)
                if named is not None and not alive(int(named[1])):
                    file.unlink(missing_ok=True)


def alive(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    if os.name == "nt":  # where this would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
