"""What stands beside a measured figure: the command, the commit and the machine."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from mixstill.train.device import machine


def head() -> str:
    """The commit that is checked out."""
    return subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def provenance(device: torch.device, *places: Path | None) -> dict[str, Any]:
    """Command, commit and machine; `places` in the command are of this machine, and stand as DIR."""
    hidden = {str(place) for place in places if place is not None}
    return {
        "command": shlex.join("DIR" if word in hidden else word for word in ["python", *sys.argv]),
        "commit": head(),
        "machine": machine(device) | {"processor": processor()},
    }


def processor() -> str:
    """The processor's name where the system tells it, and its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    cores = sum(line.startswith("processor") for line in lines)
    return f"{', '.join(sorted(names)) or platform.processor()}, {cores} cores"
