import ctypes
import subprocess
import sys

import pytest

from mixstill.train import memory

FAULTS = """
import resource, torch
from mixstill.train.memory import keep_freed_memory

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(1 << 24)  # 64 MiB: glibc gives such a block back as soon as it is freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(2)
before = faults(5)
assert keep_freed_memory()
faults(2)
print(before, faults(5))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_freed_memory_is_used_again() -> None:
    before, after = map(int, subprocess.check_output([sys.executable, "-c", FAULTS], text=True).split())
    assert before > 50_000  # five times 16,384 pages, unless the pages are large
    assert after < before / 100


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()
