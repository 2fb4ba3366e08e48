"""Recipes: configs by name. A YAML file holds the fields that differ from the defaults, or from the recipe `base`.

Each begins with comment lines `# what:`, `# source:`, `# command:` and `# measured:`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from mixstill.config import Config
from mixstill.errors import UserError, unknown
from mixstill.paths import path_of
from mixstill.schema import RawConfig, from_dict, merge, read_yaml

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The shipped recipes."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config of a shipped recipe or of a YAML file, with `overrides` put over it.

    Raises:
        UserError: no such recipe (with the nearest one), or a field that is unknown or not valid.
    """
    return from_dict(_over(_raw(name, ()), overrides or {}))


def _raw(name: str, seen: tuple[str, ...]) -> RawConfig:
    """The recipe's fields over those of its bases."""
    path = _path(name)
    if name in seen:
        raise UserError(f"recipe: {' -> '.join((*seen, name))} goes round in a circle")
    raw = read_yaml(path)
    base = raw.pop("base", None)
    return _over(_raw(str(base), (*seen, name)), raw) if base is not None else raw


def _over(raw: RawConfig, overrides: Mapping[str, Any]) -> RawConfig:
    """`raw` with `overrides` put over it; another model does not take over the arguments of the one before."""
    old, new = raw.get("model"), overrides.get("model")
    if isinstance(old, Mapping) and isinstance(new, Mapping) and new.get("name", old.get("name")) != old.get("name"):
        raw = raw | {"model": {key: value for key, value in old.items() if key != "kwargs"}}
    return merge(raw, overrides)


def _path(name: str) -> Path:
    if name in names():
        return _FOLDER / f"{name}.yaml"
    path = path_of(name, "recipe")
    if path.suffix in (".yaml", ".yml"):
        if path.exists():
            return path
        raise UserError(f"recipe: {name!r}: there is no such file")
    raise unknown("recipe", name, names())


def header(name: str) -> dict[str, str]:
    """The header of a recipe: what, source, command, measured."""
    text = _path(name).read_text(encoding="utf-8")
    found: dict[str, str] = {}
    key = ""
    for line in takewhile(lambda line: line.startswith("#"), text.splitlines()):
        words = line.lstrip("# ").rstrip()
        label, colon, rest = words.partition(":")
        if colon and label in ("what", "source", "command", "measured"):
            key, words = label, rest.strip()
        found[key] = f"{found.get(key, '')} {words}".strip()
    return found
