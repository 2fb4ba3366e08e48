"""One command at a time works in an output directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mixstill.errors import UserError

FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the folder; raises `UserError` where another holds it. Gives the file's descriptor.

    A process that inherits the descriptor holds the folder too, until it ends: so the runs of a command that was killed
    keep the next one out while they write their checkpoints. A system, or a file system, without such locks holds
    nothing.
    """
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT)
    try:
        with suppress(ImportError):
            import fcntl  # not on Windows

            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"output: {str(folder)!r} is being worked in by another command, or by the last runs of one "
                    "that was killed; wait for it"
                ) from None
            except OSError:
                pass  # a file system without locks
        yield descriptor
    finally:
        os.close(descriptor)
