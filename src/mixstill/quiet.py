"""What is set for a whole process while something runs, in any number of threads: the last to leave puts it back.

`warnings.catch_warnings` and the level of a logger are saved and put back: where two threads are in such a context at
once, the one that leaves last would put back what the other had set.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any

Make = Callable[..., AbstractContextManager[Any]]

_CHANGING = Lock()
_open: dict[tuple[Any, ...], tuple[AbstractContextManager[Any], int]] = {}  # what is set, and how many are in it


@contextmanager
def _shared(make: Make, *args: str | int) -> Iterator[None]:
    """Within `make(*args)`, which the first to come enters and the last to go leaves."""
    key = (make, *args)
    with _CHANGING:
        entered, count = _open.get(key, (None, 0))
        if entered is None:
            entered = make(*args)
            entered.__enter__()
        _open[key] = entered, count + 1
    try:
        yield
    finally:
        with _CHANGING:
            count = _open[key][1] - 1
            _open[key] = entered, count
            if not count:
                del _open[key]
                entered.__exit__(None, None, None)


def no_warnings() -> AbstractContextManager[None]:
    """Python's warnings are left unsaid."""
    return _shared(_unwarned)


def only_errors(logger: str, least: int = logging.ERROR) -> AbstractContextManager[None]:
    """The logger of this name tells of errors alone, or of what is `least` as grave."""
    return _shared(_levelled, logger, least)


def environment(name: str, value: str) -> AbstractContextManager[None]:
    """The environment variable `name` has this value."""
    return _shared(_variable, name, value)


def _unwarned() -> AbstractContextManager[Any]:
    return warnings.catch_warnings(action="ignore")


@contextmanager
def _levelled(logger: str, least: int) -> Iterator[None]:
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(least)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
