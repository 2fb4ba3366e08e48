"""What every field of a config must hold, by its annotation and its interval: from a file and in Python alike."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import cache
from types import NoneType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from mixstill.errors import UserError, shown

MOST_CLASSES = 2**20
MOST_PIXELS = 8192  # per side
_OF_MACHINES = 1000  # an upper bound from here on is none of mathematics
_MOST = 2**20  # of a whole number among a backbone's arguments: a width
_MOST_BLOCKS = 500  # of those together that say how often something is built
_REPEATS = re.compile(r"depth|block|layer|stage|repeat")
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "none"}


@dataclasses.dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`, each end excluded where it is `open`."""

    low: float
    high: float
    text: str
    open: tuple[bool, bool]

    @classmethod
    def parse(cls, text: str) -> Interval:
        """`[0, 1)` as the numbers from 0 to 1, without 1."""
        ends = (end.partition("**") for end in text[1:-1].split(","))
        low, high = (float(base) ** float(power or 1) for base, _, power in ends)
        return cls(low, high, text, (text[0] == "(", text[-1] == ")"))

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open[0] else value >= self.low
        return above and (value < self.high if self.open[1] else value <= self.high)

    def rule(self, values: Iterable[float]) -> str:
        """What they must be that are not in it; a bound that only machines set is not told to one who is below it."""
        if self.high < _OF_MACHINES or (self.high < math.inf and self.open[1]):
            return f"in {self.text}"
        if any(value > self.high for value in values):
            return f"{self.high:,.0f} at most"
        return "positive" if self.open[0] or self.low == 1 else "0 or more"


def check_fields(config: Any, section: str = "") -> None:
    """Raises `UserError` unless each field of a dataclass is of its type, finite, and within its interval.

    The interval is the field's metadata `within`, for each member of a tuple; a field `{...}` holds plain values.
    """
    hints = _hints(cast(Hashable, type(config)))
    for leaf in dataclasses.fields(config):
        name = f"{section}.{leaf.name}" if section else leaf.name
        value, kind = getattr(config, leaf.name), hints[leaf.name]
        members = value if isinstance(value, tuple | list) else (value,)
        if not all(_finite(member, kind) for member in members):
            raise _invalid(name, value, "finite")
        if not _fits(value, kind):
            raise _invalid(name, value, "a tuple of " * isinstance(value, list) + kind_words(kind))
        if "within" in leaf.metadata:
            _check_interval(name, value, leaf.metadata["within"])
        for member in members:
            if isinstance(member, str):
                _check_text(name, member)
        if isinstance(value, dict):
            check_arguments(name, value)


def _finite(value: object, kind: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or kind is int or abs(value) < 2**1023  # beyond, it is no float


def _check_interval(name: str, value: Any, interval: Interval) -> None:
    many = isinstance(value, tuple)
    numbers = value if many else [] if value is None else [value]
    if not all(number in interval for number in numbers):
        raise _invalid(name, value, interval.rule(numbers) + " each" * many)


def _invalid(name: str, value: object, rule: str) -> UserError:
    return UserError(f"{name}: {shown(value)} is not valid; it must be {rule}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, tuple) and Ellipsis in inner else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is dict:
        return isinstance(value, dict)
    if inner:  # a union
        return any(_fits(value, one) for one in inner)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def kind_words(kind: Any) -> str:
    """The type of a field in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        many = "texts" if inner[0] is str else "numbers"
        return many if Ellipsis in inner else f"{len(inner)} {many}"
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is dict:
        return "a mapping"
    if inner:
        return " or ".join(kind_words(one) for one in inner)
    if dataclasses.is_dataclass(kind):
        return f"a {cast(type, kind).__name__}(...); mixstill.schema.from_dict makes a config of mappings"
    return _WORDS[kind]


def check_arguments(name: str, arguments: Mapping[Any, Any]) -> None:
    """Raises `UserError` unless the arguments of a backbone are plain values, and build nothing beyond all machines."""
    repeats = 0
    for key, value in _leaves(name, arguments, 0):
        if isinstance(value, str):
            _check_text(key, value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise _invalid(key, value, "finite")
        elif value is not None and not isinstance(value, int | float):
            raise UserError(f"{key}: a {type(value).__name__} is not valid; it must be a number, text, list or mapping")
        elif isinstance(value, int | float) and abs(value) > _MOST:
            raise _invalid(key, value, f"{_MOST} at most")
        elif isinstance(value, int) and _REPEATS.search(key.removeprefix(name)):
            repeats += value
    if repeats > _MOST_BLOCKS:
        raise UserError(f"{name}: {repeats} blocks in all are not valid; it must be {_MOST_BLOCKS} at most")


def _leaves(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The values in lists and mappings, with their dotted names."""
    if depth > 10:
        raise UserError(f"{name}: it is nested too deep")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UserError(f"{name}: {shown(key)} is not valid; the name of an argument must be text")
            _check_text(name, key)
            yield from _leaves(f"{name}.{key}", inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(name, inner, depth + 1)
    else:
        yield name, value


def _check_text(name: str, text: str) -> None:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise _invalid(name, text, "text in UTF-8 without NUL")


def expansions(text: str) -> int:
    """How many names the braces of a shell in `text` stand for, as `{000..127}` for 128; an upper bound."""
    count = 1
    for inside in re.findall(r"\{([^{}]*)\}", text):
        ends = re.fullmatch(r"(\d+)\.\.(\d+)(?:\.\.-?\d+)?", inside)
        count *= abs(int(ends[2]) - int(ends[1])) + 1 if ends else inside.count(",") + 1
        if count > 2**62:
            break
    return count
