"""How much top-1 varies from run to run, by all rows of a table together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Noise = dict[str, Any]


def residual(top1: Mapping[str, Mapping[int, float]]) -> Noise | None:
    """The standard deviation that is left when each row and each seed has a mean of its own; None where nothing is.

    The residual of a two-way analysis of variance without interaction, by least squares, so rows may lack seeds:
    top1[row, seed] = a[row] + b[seed] + residual. It takes rows to vary alike. A few seeds of many rows tell it much
    better than those of two rows: with R rows that all have S seeds, `df` is (R - 1) (S - 1).

    Args:
        top1: row -> seed -> top-1.
    """
    rows, seeds = sorted(top1), sorted({seed for scores in top1.values() for seed in scores})
    values = [(rows.index(row), seeds.index(seed), value) for row in rows for seed, value in top1[row].items()]
    design = np.zeros((len(values), len(rows) + len(seeds)))
    for line, (row, seed, _) in enumerate(values):
        design[line, row] = design[line, len(rows) + seed] = 1
    y = np.array([value for *_, value in values])
    df = len(values) - int(np.linalg.matrix_rank(design)) if values else 0
    if df == 0:
        return None
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return {"std": math.sqrt(float(left @ left) / df), "df": df, "rows": rows}
