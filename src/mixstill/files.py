"""Writing files so that a reader, or a run that was killed, only ever finds a whole one."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

_PARTIAL = re.compile(r"\..+\.(\d+)\.partial")


def write_atomically(path: Path, content: bytes | memoryview, keep: Path | None = None) -> None:
    """Put `content` at `path` in one step: a temporary file beside it, synced to disk, then renamed.

    What was at `path` goes to `keep`, where that is given; at each moment one of the two is there, and whole.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # what a killed run leaves, `sweep` takes
    try:
        with partial.open("wb") as file:
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
    """Write `value` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder, and from those in it. Only who holds it may."""
    for place in (folder, *(each for each in folder.iterdir() if each.is_dir())):
        with suppress(OSError):
            for file in place.glob(".*.partial"):
                named = _PARTIAL.fullmatch(file.name)
                if named is None or not alive(int(named[1])):
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
