"""How long a run took over all processes that worked on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def note(run: Path, seconds: float) -> None:
    """Add what one process took, in a file beside the run."""
    with _file(run).open("a", encoding="utf-8") as file:
        file.write(f"{seconds:.1f}\n")


def minutes(run: Path, summary: Mapping[str, Any]) -> float:
    """The minutes of all processes; of the last one where none was noted."""
    file = _file(run)
    lines = file.read_text(encoding="utf-8").split() if file.exists() else []
    return round((sum(map(float, lines)) or float(summary["seconds"])) / 60, 1)


def _file(run: Path) -> Path:
    return run.with_suffix(".seconds")
