"""Which device a run is on, and what machine that is."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mixstill.config import TrainConfig
from mixstill.errors import UserError
from mixstill.train.memory import keep_freed_memory
from mixstill.version import __version__

COMPILED = "TORCHINDUCTOR_CACHE_DIR"


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device; under torchrun, `auto` and `cuda` are this process's own GPU.

    Raises `UserError` if there is no such device.
    """
    name = "cuda" if name == "auto" and torch.cuda.is_available() else name
    if name == "auto":
        return torch.device("cpu")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"train.device: unknown device {name!r}; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"train.device: {name!r} is not there; this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the hardware itself computes in bfloat16: nearly all GPUs do, few CPUs."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def host_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def command_settings(options: TrainConfig) -> Iterator[None]:
    """What a command sets for its whole process while entered, and a library leaves to the program that calls it.

    The CPU threads of `train.threads`; on a CPU that freed memory stays (`train.memory`); and that compiled code is
    kept in a folder that later commands find, unless `TORCHINDUCTOR_CACHE_DIR` names another.

    Raises `UserError` if there is no such device.
    """
    if pick_device(options.device).type == "cpu":
        keep_freed_memory()
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    os.environ.setdefault(COMPILED, str(home / "mixstill" / "compiled"))
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {"mixstill": __version__} | {name: metadata.version(name) for name in ("torch", "timm")},
    }
