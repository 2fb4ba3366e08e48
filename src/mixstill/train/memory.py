"""Memory that tensors on a CPU free stays with the process."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_NEVER = -1


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed for the next tensor; whether it was told (elsewhere there is no way).

    By itself it gives large blocks back to the system and asks for them again in the next step, which hands out each
    page anew, filled with zeros: hundreds of thousands of page faults per step, a quarter of its time. The process
    stays as large as it once was.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
