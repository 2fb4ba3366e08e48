"""How long a run took over all processes that worked on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixstill.errors import UserError, one_line
from mixstill.paths import check_regular, read_regular


def note(run: Path, seconds: float) -> None:
    """Add what one process took, in a file beside the run."""
    if _file(run).exists():
        check_regular(_file(run))
    with _file(run).open("a", encoding="utf-8") as file:
        file.write(f"{seconds:.1f}\n")


def minutes(run: Path, summary: Mapping[str, Any]) -> float:
    """The minutes of all processes; of the last one where none was noted."""
    file = _file(run)
    try:
        noted = sum(map(float, read_regular(file).split())) if file.exists() else 0.0
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {one_line(error)}; take it away") from error
    return round((noted or float(summary["seconds"])) / 60, 1)


def _file(run: Path) -> Path:
    return run.with_suffix(".seconds")
