"""RandAugment's policy strings, as timm writes them: `rand-m9-mstd0.5-inc1`.

Cubuk et al., "RandAugment", CVPR Workshops 2020; the strings and sets of operations are those of timm's
`rand_augment_transform`. timm passes over pieces that it does not know; here they are mistakes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_lowercase

from mixstill.errors import UserError, unknown

_FIELD = "views.aa"
_EXAMPLE = "rand-m9-mstd0.5-inc1"
_FULL_SCALE = 10

_GRADED = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
_PLAIN = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness"),
    *("ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
)
_INCREASING = tuple(f"{name}Increasing" if name in _GRADED else name for name in _PLAIN)

# The sets that timm names, by what follows the `t`: each operation with its weight.
_SETS: dict[str, dict[str, float]] = {
    "weights": {
        "Rotate": 3,
        "ShearX": 2,
        "ShearY": 2,
        "TranslateXRel": 1,
        "TranslateYRel": 1,
        "ColorIncreasing": 0.25,
        "SharpnessIncreasing": 0.25,
        "AutoContrast": 0.25,
        **dict.fromkeys(("SolarizeIncreasing", "SolarizeAdd", "ContrastIncreasing", "BrightnessIncreasing"), 0.05),
        **dict.fromkeys(("Equalize", "PosterizeIncreasing", "Invert"), 0.05),
    },
    "3aw": {
        **dict.fromkeys(("SolarizeIncreasing", "Desaturate", "GaussianBlur"), 6),
        "Rotate": 3,
        "ShearX": 2,
        "ShearY": 2,
        **dict.fromkeys(("PosterizeIncreasing", "AutoContrast", "ColorIncreasing", "SharpnessIncreasing"), 1),
        **dict.fromkeys(("ContrastIncreasing", "BrightnessIncreasing", "Equalize", "Invert"), 1),
    },
}
_UNIFORM_SETS = {"3a": ("SolarizeIncreasing", "Desaturate", "GaussianBlur")}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Which operations an image may get, how many, how likely, how strong."""

    ops: tuple[str, ...]
    """timm's names of the operations to choose from."""
    weights: tuple[float, ...] | None
    """How likely each is, summing to 1; with weights no operation comes twice. None: all alike, and again and again."""
    layers: int
    """How many are chosen."""
    probability: float
    """Of applying one that was chosen."""
    magnitude: float
    """Of 10, the full scale."""
    deviation: float
    """Standard deviation of the magnitude; infinite: uniform from 0 to `magnitude`."""
    limit: float
    """Largest magnitude."""


@lru_cache(maxsize=16)
def parse(text: str) -> Policy:
    """timm's policy string, such as `rand-m9-n2-p0.5-mstd0.5-mmax10-inc1-tweights` -> the policy it stands for."""
    family, *pieces = text.split("-")
    if family in ("v0", "v0r", "original", "originalr", "augmix"):
        raise UserError(f"{_FIELD}: {text!r} is not built in; choose RandAugment ({_EXAMPLE}) or three-augment (3a)")
    if family != "rand":
        raise unknown(_FIELD, text, _likely(text))
    values = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "mmax": float(_FULL_SCALE), "inc": 0.0}
    chosen, seen = "", set()
    for piece in pieces:
        key, value = ("t", piece[1:]) if piece.startswith("t") else _split(text, piece)
        if key in seen:
            raise UserError(f"{_FIELD}: {key!r} comes twice in {text!r}")
        seen.add(key)
        if key == "t":
            if value not in (*_SETS, *_UNIFORM_SETS):
                raise unknown(f"{_FIELD} {text!r}", piece, [f"t{name}" for name in (*_SETS, *_UNIFORM_SETS)])
            chosen = value
        else:
            values[key] = _number(text, piece, key, value)
    ops, weights = _operations(chosen, increasing=values["inc"] > 0)
    layers = int(values["n"])
    if weights is not None and layers > len(ops):
        raise UserError(f"{_FIELD}: n{layers} in {text!r} is more than the {len(ops)} operations of t{chosen}")
    return Policy(
        ops=ops,
        weights=weights,
        layers=layers,
        probability=values["p"],
        magnitude=values["m"],
        deviation=math.inf if values["mstd"] > 100 else values["mstd"],
        limit=values["mmax"],
    )


_WHOLE = {"m": "m9", "n": "n2", "mmax": "mmax10", "inc": "inc1"}
_REAL = {"p": "p0.5", "mstd": "mstd0.5"}
_EXAMPLES = _WHOLE | _REAL
_BOUNDS = {"n": (1, 64), "p": (0, 1), "mmax": (1, math.inf)}


def _likely(text: str) -> list[str]:
    """Valid policies that may be meant by one that does not begin with `rand`: the same pieces, if they are valid."""
    family, *pieces = re.split(r"[^a-z0-9.]+", text.lower())
    pieces = [*pieces, "t3a"] if family == "3a" and pieces else pieces
    meant = "-".join(["rand", *pieces])
    try:
        parse(meant)
    except UserError:
        meant = _EXAMPLE
    return [meant, "3a"]


def _split(text: str, piece: str) -> tuple[str, str]:
    """A piece's letters and its number."""
    if piece == "mstdinf":
        return "mstd", "inf"
    value = piece.lstrip(ascii_lowercase)
    key = piece.removesuffix(value) if value else piece
    if key not in _EXAMPLES:
        raise unknown(f"{_FIELD} {text!r}", piece, [_valid(name, value) for name in _EXAMPLES])
    return key, value


def _valid(key: str, value: str) -> str:
    """A valid piece of a key: with this value, if it takes it."""
    piece = f"{key}{value}"
    try:
        _number(piece, piece, key, value)
    except UserError:
        return _EXAMPLES[key]
    return piece


def _number(text: str, piece: str, key: str, value: str) -> float:
    """The number of a piece, of the kind and in the range that its key takes."""
    try:
        number = float(int(value)) if key in _WHOLE else float(value)
    except ValueError:
        kind = "a whole number" if key in _WHOLE else "a number"
        raise UserError(
            f"{_FIELD}: {piece!r} in {text!r} is not valid; {key} takes {kind}, as in {_EXAMPLES[key]}"
        ) from None
    low, high = _BOUNDS.get(key, (0, math.inf))
    if not low <= number <= high:
        bounds = f"in [{low}, {high}]" if high < math.inf else f"{low} or more"
        raise UserError(f"{_FIELD}: {piece!r} in {text!r} is not valid; {key} must be {bounds}")
    return number


def _operations(chosen: str, increasing: bool) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """The operations of a set and, where it weighs them, their probabilities."""
    if chosen in _SETS:
        weights = _SETS[chosen]
        total = sum(weights.values())
        return tuple(weights), tuple(weight / total for weight in weights.values())
    if chosen in _UNIFORM_SETS:
        return _UNIFORM_SETS[chosen], None
    return (_INCREASING if increasing else _PLAIN), None
