"""What a user names on disk: a text as a path, and a file that is opened only if it is a regular one."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from mixstill.errors import UserError, shown

# What is wrong with the path itself, or with the right to use it, rather than with the machine.
OF_THE_PATH = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def path_of(text: str | os.PathLike[str], field: str) -> Path:
    """A user's text as a path, `~` expanded; `field` names the option in a message. Nothing need be there.

    Raises `UserError` for a text that can be no path here: empty, with a NUL or characters that no file name has, too
    long, of a user without a home, a loop of links, in a folder that may not be looked into.
    """
    name = os.fspath(text)
    if not name:
        raise UserError(f"{field}: '' names no file or folder")
    try:
        path = Path(name).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except RuntimeError as error:  # pathlib's, for ~user
        raise UserError(f"{field}: {shown(name)} begins with a user who has no home; give the whole path") from error
    except ValueError as error:  # a NUL, or what cannot be encoded
        raise UserError(f"{field}: {shown(name)} has a character that no path has; name another") from error
    except OSError as error:
        raise UserError(f"{field}: {shown(name)}: {_reason(error)}") from error
    return path


def _reason(error: OSError) -> str:
    return {
        errno.ENAMETOOLONG: "the path is too long; name a shorter one",
        errno.ELOOP: "its links go round in a circle; name the file or folder itself",
        errno.EACCES: "there is no permission to look there; give it, or name another",
    }.get(error.errno or 0, error.strerror or str(error))


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises `OSError` unless there is a regular file: to open a pipe may wait for ever, to open a device do anything.

    For files that a library opens; our own reading goes through `open_regular`.
    """
    _check_kind(Path(path).stat().st_mode, os.fspath(path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """The file at `path`, open for reading bytes. Raises `OSError` for one that cannot be read, or is not regular."""
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_kind(os.fstat(descriptor).st_mode, os.fspath(path))  # it may have been exchanged since
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The content of a regular file. Raises `OSError` as `open_regular`, and for more than `most` bytes."""
    with open_regular(path) as file:
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", os.fspath(path))
    return content


def _check_kind(mode: int, path: str) -> None:
    if not stat.S_ISREG(mode):
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", path)
