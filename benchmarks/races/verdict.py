"""What turns come to: seconds per step, images per second, ratios round by round, and whether the losses agree."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_LOOSE, _SHARP, _HALF = 0.05, 5e-4, 0.01
_SAME_BATCH = ("student", "inference")
_OTHER_DRAWS = ("full", "epoch")


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and largest of the rounds, and all of them."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": list(values)}


def contender(found: Mapping[str, Any], images: int) -> dict[str, Any]:
    """One contender's figures; `images` in a step, which in a whole run is the epoch."""
    turns = found["turns"]
    seconds = [turn["seconds"] / turn["steps"] for turn in turns]
    warm = found.get("warm_up")
    return dict(found["about"]) | {
        "warm_up": warm and {key: warm[key] for key in ("seconds", "steps", "losses")},
        "seconds_per_step": summary(seconds),
        "images_per_second": images / statistics.median(seconds),
        "losses": [statistics.fmean(turn["losses"]) for turn in turns if turn["losses"]],
        "profile": found.get("profile"),
        "shares": found.get("shares"),
        "answers": found.get("answers"),
    }


def ratios(contenders: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Each later contender's seconds, round by round, as a multiple of the first one's."""
    first, *others = contenders
    base = contenders[first]["seconds_per_step"]["values"]
    return {
        name: summary([b / a for a, b in zip(base, contenders[name]["seconds_per_step"]["values"], strict=True)])
        for name in others
    }


def tolerance(race: str, precision: str) -> float | None:
    """The largest relative difference of losses that still agree; None where a race compares none.

    Where all see one batch from the same weights, only rounding sets them apart: more of it in 16 bits. Elsewhere the
    views, and the starting weights of tokens and heads, are drawn by each for itself; the means of all rounds count.
    """
    if race in _SAME_BATCH:
        return _HALF if precision == "best" else _SHARP
    return _LOOSE if race in _OTHER_DRAWS else None


def losses_agree(race: str, precision: str, contenders: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Whether the losses of the rounds are alike, each or in the mean; None where a race has none to compare."""
    curves = [entry["losses"] for entry in contenders.values()]
    most = tolerance(race, precision)
    if most is None or not all(curves):
        return None
    if race in _OTHER_DRAWS:
        curves = [[statistics.fmean(curve)] for curve in curves]
    first, *others = curves
    largest = max(abs(b - a) / abs(a) for other in others for a, b in zip(first, other, strict=True))
    return {"agree": largest <= most, "largest_difference": largest, "tolerance": most}
