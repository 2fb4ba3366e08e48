"""What a table says, in sentences: each part of the method against the spread, each row against what was published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixstill.spread import shown

ROW_TOLERANCE, TEACHER_TOLERANCE = 0.5, 0.7  # points of top-1


def sentences(table: Mapping[str, Any], *, published: bool) -> list[str]:
    """One line for each part, and, where the scale is the published one, for each published figure."""
    lines = [f"{part['what']} ({' - '.join(part['rows'])}): {worth(part['difference'])}" for part in table["parts"]]
    if not published:
        return [*lines, "The published figures are of the full scale, so these are not held against them."]
    lines += [against(entry["name"], entry["top1"], entry, TEACHER_TOLERANCE) for entry in table["teachers"]]
    lines += [against(entry["name"], entry["top1"]["mean"], entry, ROW_TOLERANCE) for entry in table["rows"]]
    return [line for line in lines if line]


def worth(difference: Mapping[str, Any]) -> str:
    """A difference of top-1 in points, and whether it is more than its own standard deviation over the seeds."""
    mean, deviation = difference["mean"], difference["std"]
    count = len(difference["values"])
    text = f"{shown(dict(difference), '+')} points over {count} seed{'s' * (count > 1)}"
    if deviation is None:
        return f"{text}, so without a spread to hold it against"
    if abs(mean) <= deviation:
        return f"{text}: within the spread"
    return f"{text}: {'a gain' if mean > 0 else 'a loss'} beyond the spread"


def against(name: str, top1: float, entry: Mapping[str, Any], tolerance: float) -> str:
    """How a figure stands to the published one; empty where there is none."""
    if entry["published"] is None:
        return ""
    printed = entry["published"]["top1"]
    distance = top1 - printed
    words = "above" if distance > tolerance else "below" if distance < -tolerance else "agrees with"
    limit = f"within {tolerance}" if words == "agrees with" else f"by more than {tolerance}"
    return f"{name}: {top1:.2f} {words} the published {printed:.2f} ({distance:+.2f}, {limit})"
