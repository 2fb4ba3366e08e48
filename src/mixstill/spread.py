"""Mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for one value) and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def shown(found: dict[str, Any] | None, sign: str = "") -> str:
    """`70.12 ± 0.30`, or the mean alone for one value; with the sign `+`, as a difference. A dash for nothing."""
    if found is None:
        return "-"
    mean = f"{found['mean']:{sign}.2f}"
    return mean if found["std"] is None else f"{mean} ± {found['std']:.2f}"
