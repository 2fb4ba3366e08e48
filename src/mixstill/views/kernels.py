"""Inner functions of the views, which run compiled where that is asked for: a GPU then starts one kernel, not twenty.

Compiled or not, they give the same pixels, but for one level where float32 rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_backend: ContextVar[str | None] = ContextVar("backend", default=None)


@contextmanager
def compiled(backend: str | None = "inductor") -> Iterator[None]:
    """While entered, kernels run compiled by this backend of torch.compile; None: as they are."""
    token = _backend.set(backend)
    try:
        yield
    finally:
        _backend.reset(token)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """A function of tensors [B, ...] without a graph break; it is compiled once for batches of any size.

    Where it cannot be compiled it runs as it is.
    """

    @cache
    def by(backend: str) -> Callable[P, R]:
        return torch.compile(function, fullgraph=True, dynamic=True, backend=backend)

    failed: set[str] = set()

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        backend = _backend.get()
        if backend is None or backend in failed:
            return function(*args, **kwargs)
        try:
            return by(backend)(*args, **kwargs)
        except Exception:  # a compiler fails in many ways; what is wrong with the arguments, the function tells itself
            found = function(*args, **kwargs)
            failed.add(backend)
            return found

    return run
