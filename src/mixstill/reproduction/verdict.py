"""What a table says, in sentences: parts of the method against the spread of seeds, rows against published figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy.stats import t

from mixstill.errors import many
from mixstill.spread import shown

ROW_TOLERANCE, TEACHER_TOLERANCE = 0.5, 0.7  # points of top-1


def sentences(table: Mapping[str, Any], *, published: bool) -> list[str]:
    """One line for each part, one for the rows that are missing, and, at the published scale, one for each figure."""
    noise = table["noise"]
    lines = []
    for part in table["parts"]:
        pooled = noise if noise is not None and set(part["rows"]) <= set(noise["rows"]) else None
        lines.append(f"{part['what']} ({' - '.join(part['rows'])}): {worth(part['difference'], pooled)}")
    if noise is not None:
        lines.append(
            f"Beyond what seeds have in common, runs of one distilled row vary by {noise['std']:.2f} points (standard "
            f"deviation over all such rows, {many(noise['df'], 'degree')} of freedom). The intervals between them are "
            "of that, those against the plain student and between heads of one run of their own differences."
        )
    if table["missing"]:
        lines.append(f"Not trained: {', '.join(table['missing'])}.")
    if not published:
        return [*lines, "The published figures are of the full scale, so these are not held against them."]
    lines += [against(entry["name"], entry["top1"], entry, TEACHER_TOLERANCE) for entry in table["teachers"]]
    lines += [against(entry["name"], entry["top1"]["mean"], entry, ROW_TOLERANCE) for entry in table["rows"]]
    return [line for line in lines if line]


def worth(difference: Mapping[str, Any], noise: Mapping[str, Any] | None = None) -> str:
    """A difference of top-1 in points, and whether the 95 % interval of its mean leaves 0 out.

    The interval is Student's, for the mean of n differences, one for each seed: mean ± t(0.975, df) std / sqrt(n). With
    `noise`, how much single runs vary, std is sqrt(2) of its, and df its own; else both are of these differences,
    n - 1. It tells of the seeds, not of the choice of the test images.
    """
    mean, deviation, count = difference["mean"], difference["std"], len(difference["values"])
    df = count - 1
    text = f"{shown(dict(difference), '+')} points over {many(count, 'seed')}"
    if noise is not None:
        deviation, df = math.sqrt(2) * noise["std"], noise["df"]
    if deviation is None:
        return f"{text}, so without a spread to hold it against"
    reach = float(t.ppf(0.975, df)) * deviation / math.sqrt(count)
    words = "not told apart from 0" if abs(mean) <= reach else "a gain" if mean > 0 else "a loss"
    return f"{text}, 95 % interval {mean - reach:+.2f} to {mean + reach:+.2f}: {words}"


def against(name: str, top1: float, entry: Mapping[str, Any], tolerance: float) -> str:
    """How a figure stands to the published one; empty where there is none."""
    if entry["published"] is None:
        return ""
    printed = entry["published"]["top1"]
    distance = top1 - printed
    words = "above" if distance > tolerance else "below" if distance < -tolerance else "agrees with"
    limit = f"within {tolerance}" if words == "agrees with" else f"by more than {tolerance}"
    return f"{name}: {top1:.2f} {words} the published {printed:.2f} ({distance:+.2f}, {limit})"
