"""One command at a time works in an output directory."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mixstill.errors import UserError
from mixstill.files import alive, sweep
from mixstill.paths import read_regular

FILE = ".lock"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor a pipe that is waited for


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the folder, and clear it of what killed writers left. Gives the file's descriptor.

    A process that inherits the descriptor holds the folder too, until it ends: so the runs of a command that was killed
    keep the next one out while they write their checkpoints. A system, or a file system, without such locks holds
    nothing.

    Raises:
        UserError: another process holds it, which is named.
        OSError: no file can be made in the folder.
    """
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
            raise UserError(f"output: {str(folder / FILE)!r} is no file of its own; take it away")
        if not _take(descriptor):
            raise UserError(f"output: {str(folder)!r} is being worked in by {_holder(folder)}")
        with suppress(OSError):  # a full disk; the name is only for the message
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        sweep(folder)
        yield descriptor
    finally:
        os.close(descriptor)


def holder(folder: Path) -> str | None:
    """Who holds the folder at this moment, in words; None where nobody does."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDWR | _NO_LINK)
    except OSError:
        return None
    try:
        return None if _take(descriptor) else _holder(folder)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        import fcntl  # not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass  # a system, or a file system, without locks
    return True


def _holder(folder: Path) -> str:
    try:
        process, host = read_regular(folder / FILE).decode().split()
        ended = host == socket.gethostname() and not alive(int(process))
    except (OSError, ValueError):
        return "another process; wait for it"
    if ended:
        return f"what process {process} on {host} started before it ended; wait for that"
    return f"process {process} on {host}; wait for it, or end it"
