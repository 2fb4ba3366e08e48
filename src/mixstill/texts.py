"""YAML and JSON as plain values, within limits that no honest file meets. Whatever is amiss is a `ValueError`."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import yaml
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

MOST_BYTES = 1_000_000
DEEPEST = 50
LARGEST = 2**64
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the loader in C, where PyYAML was built with it


class _Loader(_BASE):  # type: ignore[misc]
    """PyYAML's safe loader; a name given twice and a number beyond `LARGEST` are mistakes."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep=deep)
        if isinstance(node, yaml.MappingNode) and len(mapping) < len(node.value):
            raise ConstructorError(None, None, f"{_twice(node)!r} is given twice", node.start_mark)
        return mapping


def _whole(loader: Any, node: Any) -> int:
    value: int = yaml.SafeLoader.construct_yaml_int(loader, node)
    if abs(value) > LARGEST:
        raise ConstructorError(None, None, "a number is too large", node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def _twice(node: Any) -> str:
    names = [str(key.value) for key, _ in node.value]
    return next((name for place, name in enumerate(names) if name in names[:place]), names[0])


def parse_yaml(text: str | bytes) -> Any:
    """The one document in a YAML text, of at most `MOST_BYTES`, at most `DEEPEST` deep; aliases stand for scalars."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeError) as error:
        raise ValueError(str(error)) from error
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:  # odd values
        raise ValueError(f"it holds a value that cannot be read: {error}") from error


def _check_events(text: str | bytes) -> None:
    """Raises `ValueError` for what would grow while it is built; the events come one by one, and none is kept."""
    depth, scalars = 0, set()
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, ScalarEvent) and event.anchor:
            scalars.add(event.anchor)
        if isinstance(event, CollectionStartEvent):
            scalars.discard(event.anchor)
        if isinstance(event, AliasEvent) and event.anchor not in scalars:
            raise ValueError(
                f"aliases of mappings and lists, such as *{event.anchor}, are not read; write the value out"
            )
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} times")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8, in which every number is finite and at most `LARGEST`."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_integer)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The object that a JSON text is."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds no object, but a {type(value).__name__}")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not finite")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


def _integer(digits: str) -> int:
    if len(digits) > len(str(LARGEST)) + 1:
        raise ValueError("a number is too large")
    return int(digits)
