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
    lines = [f"{part['what']} ({' - '.join(part['rows'])}): {worth(part['difference'])}" for part in table["parts"]]
    if table["missing"]:
        lines.append(f"Not trained: {', '.join(table['missing'])}.")
    if not published:
        return [*lines, "The published figures are of the full scale, so these are not held against them."]
    lines += [against(entry["name"], entry["top1"], entry, TEACHER_TOLERANCE) for entry in table["teachers"]]
    lines += [against(entry["name"], entry["top1"]["mean"], entry, ROW_TOLERANCE) for entry in table["rows"]]
    return [line for line in lines if line]


def worth(difference: Mapping[str, Any]) -> str:
    """A difference of top-1 in points, and whether the 95 % interval of its mean leaves 0 out.

    The interval is Student's, for the mean of as many differences as there are seeds: mean ± t(0.975, n-1) std/sqrt(n).
    It tells of the seeds, not of the choice of the test images. The spread is that of these differences alone: what a
    seed does to some rows it does not do to others, so many rows of few seeds do not stand for many seeds.
    """
    mean, deviation, values = difference["mean"], difference["std"], difference["values"]
    count = len(values)
    text = f"{shown(dict(difference), '+')} points over {many(count, 'seed')}"
    if deviation is None:
        return f"{text}, so without a spread to hold it against"
    reach = float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    words = "not told apart from 0" if abs(mean) <= reach else "a gain" if mean > 0 else "a loss"
    each = ", more in each" if min(values) > 0 else ", less in each" if max(values) < 0 else ""
    return f"{text}{each}; 95 % interval {mean - reach:+.2f} to {mean + reach:+.2f}: {words}"


def against(name: str, top1: float, entry: Mapping[str, Any], tolerance: float) -> str:
    """How a figure stands to the published one; empty where there is none."""
    if entry["published"] is None:
        return ""
    printed = entry["published"]["top1"]
    distance = top1 - printed
    words = "above" if distance > tolerance else "below" if distance < -tolerance else "agrees with"
    limit = f"within {tolerance}" if words == "agrees with" else f"by more than {tolerance}"
    return f"{name}: {top1:.2f} {words} the published {printed:.2f} ({distance:+.2f}, {limit})"
