"""What is told to people, which stops nobody: a closed pipe, a dead terminal and a full disk lose it, and no more."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

# Controls but tab and line feed, and changes of direction.
_OBEYED = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")


class _Lossy:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text if that can be."""
        with suppress(OSError, ValueError):  # a ValueError: the stream is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written if that can be."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lossy(stream: IO[str]) -> IO[str]:
    """The stream without what cannot be written to it."""
    return cast(IO[str], _Lossy(stream))


def plain(text: str) -> str:
    """`text` with an escape in the place of each character that a terminal would obey rather than show."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def deceives(text: str) -> bool:
    """Whether a terminal would obey a character of a name rather than show it."""
    return plain(text) != text or "\n" in text or "\t" in text


def tell(text: str) -> None:
    """One line on standard error."""
    if sys.stderr is not None:  # else it would be printed on standard output
        print(plain(text), file=lossy(sys.stderr), flush=True)


@contextmanager
def showing() -> Iterator[None]:
    """Around what only shows a result that is saved already: where standard output is lost, that is no failure."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        drop(sys.stdout)


def drop(stream: Any) -> None:
    """Send what a stream holds, and all to come, nowhere: else Python tries again at its end, and exits with 120."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_streams() -> None:
    """Open those of the standard streams that are closed, nowhere: else the next file takes a number, and its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
