"""The config as plain values and back: its fields, nested mappings, YAML, and what differs between two."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from mixstill.checks import kind_words
from mixstill.config import Config
from mixstill.digest import digest
from mixstill.errors import UserError, one_line, shown, unknown
from mixstill.files import write_atomically
from mixstill.paths import read_regular
from mixstill.texts import MOST_BYTES, parse_yaml

RawConfig = dict[str, Any]
_LONGEST = 400  # characters of a number

# What a resumed run may change: it does not touch the mathematics of the run. (device_batch_size does for mi alone: the
# mutual information is that of the samples of one pass.)
FREE_ON_RESUME = (
    "data.data_dir",
    "data.download",
    "data.workers",
    "data.max_corrupt",
    "train.device",
    "train.threads",
    "train.device_batch_size",
    "train.tracker",
    "train.max_steps",
    "train.eval_batch_size",
    "train.checkpoint_interval",
)


_SEAL = "# checksum of the lines below (edited by hand? then delete this line): "

# Fields that files of earlier versions have.
REMOVED = ("data.skip_corrupt", "train.micro_batches")


@dataclass(frozen=True)
class Field:
    """One leaf of the config: its dotted name, type, default and help."""

    name: str
    type: Any
    default: Any
    help: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The valid words, where the field takes one of a few."""
        literals = [kind for kind in (self.type, *get_args(self.type)) if get_origin(kind) is Literal]
        return get_args(literals[0]) if literals else ()

    @property
    def many(self) -> bool:
        """Whether the field takes several values."""
        return any(get_origin(kind) is tuple for kind in (self.type, *get_args(self.type)))

    @property
    def number(self) -> bool:
        """Whether the field holds a number, or several."""
        kinds = {kind for outer in (self.type, *get_args(self.type)) for kind in (outer, *get_args(outer))}
        return bool(kinds & {int, float})

    @property
    def optional(self) -> bool:
        """Whether the field may be null."""
        return type(None) in get_args(self.type)


@cache
def fields() -> dict[str, Field]:
    """Every leaf of `Config` by its dotted name, in order."""
    leaves = {}
    for section, kind in get_type_hints(Config).items():
        types = get_type_hints(kind)
        for leaf in dataclasses.fields(kind):
            default = {} if leaf.default is dataclasses.MISSING else leaf.default
            name = f"{section}.{leaf.name}"
            leaves[name] = Field(name, types[leaf.name], default, leaf.metadata["help"])
    return leaves


@cache
def _parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    return parser


def from_dict(raw: Mapping[str, Any]) -> Config:
    """The config of a nested mapping; text is read as the field's type, `distill.teachers` may be one string.

    Raises `UserError` for an unknown field (with the nearest one), a wrong type or a value out of range.
    """
    merged: RawConfig = {}
    for section, values in raw.items():
        if section not in get_type_hints(Config):
            raise unknown("config", section, {*get_type_hints(Config), *fields()})
        if not isinstance(values, Mapping):
            raise UserError(f"{section}: expected a mapping of fields, got {shown(values)}")
        merged[section] = {name: _checked(f"{section}.{name}", value) for name, value in values.items()}
    # taken round the parser, which imports and calls what a mapping in it names as its class_path
    arguments = merged.get("model", {}).pop("kwargs", {})
    try:
        namespace = _parser().parse_object(merged)
    except (jsonargparse.ArgumentError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(_explain(one_line(error), merged)) from error
    config = Config(**vars(_parser().instantiate(namespace)))
    return dataclasses.replace(config, model=dataclasses.replace(config.model, kwargs=dict(arguments)))


def without_removed(raw: Mapping[str, Any]) -> RawConfig:
    """`raw` without the fields that there were only in earlier versions."""
    return {
        section: {name: value for name, value in values.items() if f"{section}.{name}" not in REMOVED}
        for section, values in raw.items()
    }


def _checked(name: str, value: Any) -> Any:
    """The value of one field as the parser wants it, after the checks that the parser words badly or leaves out."""
    if name not in fields():
        raise unknown("config", name, fields())
    leaf = fields()[name]
    if value is None and not leaf.optional:
        raise UserError(f"{name}: a value is needed, got null")
    if leaf.choices and value is not None and value not in leaf.choices:
        raise unknown(name, value, leaf.choices)
    members = value if isinstance(value, list | tuple) else (value,)
    if leaf.number and any(isinstance(member, str) and len(member) > _LONGEST for member in members):
        raise UserError(f"{name}: {shown(value)} is not valid; it is too long for {kind_words(leaf.type)}")
    if leaf.number and any(isinstance(member, str) and {"&", "*"} & {*member} for member in members):
        raise UserError(f"{name}: {shown(value)} is not valid; it must be {kind_words(leaf.type)}")  # aliases multiply
    if name == "model.kwargs" and not isinstance(value, Mapping):
        raise UserError(f"{name}: expected a mapping of arguments, got {shown(value)}")
    if name == "distill.teachers":
        value = _words(name, value) if isinstance(value, str) else value
        if not isinstance(value, list | tuple):
            raise UserError(f"{name}: expected text or a list of texts, got {shown(value)}")
    return value


def _words(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{name}: {shown(text)} cannot be split into words: {one_line(error)}") from error


def _explain(message: str, raw: RawConfig) -> str:
    """jsonargparse's message with its parser's words taken out."""
    optional = re.search(r'Parser key "(\w+)\.(\w+)": Does not validate against any of the Union', message)
    if optional is not None:
        section, name = optional.groups()
        wanted = kind_words(fields()[f"{section}.{name}"].type)
        return f"{section}.{name}: {shown(raw[section][name])} is not valid; it must be {wanted}"
    for old, new in (('Parser key "', ""), ('": ', ": "), ("<class '", ""), ("'>", ""), ("Expected a ", "expected ")):
        message = message.replace(old, new)
    return message.replace(". Got value: ", ", got ")


def to_dict(config: Config) -> RawConfig:
    """The config as nested plain values, ready for YAML and JSON."""
    raw = dataclasses.asdict(config)
    return {section: {name: _plain(value) for name, value in leaves.items()} for section, leaves in raw.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> RawConfig:
    """`base` with the leaves of `over` put over it, section by section. Neither argument is changed."""
    result = {name: merge(value, {}) if isinstance(value, Mapping) else value for name, value in base.items()}
    for name, value in over.items():
        below = result.get(name)
        nested = isinstance(value, Mapping)
        result[name] = merge(below if isinstance(below, Mapping) else {}, value) if nested else value
    return result


def differences(old: Config, new: Config) -> list[str]:
    """`field: old -> new` for each leaf that differs and that a resumed run may not change.

    A run that began with or without compilation goes on so where `new` leaves it open (`auto`).
    """
    before, after, lines = _binding(old), _binding(new), []
    for dotted, was in before.items():
        left_open = dotted == "train.compile" and after[dotted] == "auto"
        if was != after[dotted] and not left_open:
            lines.append(f"{dotted}: {_leaf(old, dotted)!r} -> {_leaf(new, dotted)!r}")
    return lines


def mathematics(config: Config) -> str:
    """The checksum of all that a resumed run may not change, but for its seed and its compilation.

    What is left at its default does not count, so that new fields leave the checksums of older runs as they are.
    """
    usual = _binding(Config())
    changed = {dotted: value for dotted, value in _binding(config).items() if value != usual[dotted]}
    for dotted in ("train.compile", "train.seed"):
        changed.pop(dotted, None)
    return digest(json.dumps(changed, sort_keys=True))


def _binding(config: Config) -> RawConfig:
    """What a resumed run may not change, by its dotted name.

    Teachers, and weights that were started from, count by their names, wherever they lie. A cache may lie elsewhere,
    but answers that are stored are rounded: a run goes on with a cache, or without, as it began.
    """
    values = {dotted: _leaf(config, dotted) for dotted in fields() if dotted not in FREE_ON_RESUME}
    start = config.model.init_from
    return values | {
        "model.init_from": start and _basename(start),
        "data.crop_pct": config.data.crop,
        "distill.teachers": [_basename(text) for text in config.distill.teachers],
        "distill.cache": config.distill.cache is not None,
    }


def _leaf(config: Config, dotted: str) -> Any:
    section, name = dotted.split(".")
    return _plain(getattr(getattr(config, section), name))


def _basename(text: str) -> str:
    """A teacher, or a path, without the folders that it lies in: `a/b@2/3` -> `b@2/3`."""
    path, at, place = text.rpartition("@")
    return f"{Path(path).name}{at}{place}" if at else Path(text).name


def read_yaml(path: Path) -> RawConfig:
    """The mapping in a YAML file. Raises `UserError` if it cannot be read, is damaged, or holds no mapping."""
    try:
        content = read_regular(path, MOST_BYTES)
        first, _, rest = content.decode(errors="replace").partition("\n")
        if first.startswith(_SEAL) and first != _SEAL + digest(rest):
            raise UserError(
                f"{path}: damaged, or edited by hand: it does not fit the checksum in its first line; take a copy of "
                "it, or, if you edited it, delete that line"
            )
        raw = parse_yaml(content)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {one_line(error)}") from error
    if not isinstance(raw, Mapping):
        raise UserError(f"{path}: expected a mapping of config sections, got {type(raw).__name__}")
    return dict(raw)


def write_yaml(config: Config, path: Path) -> None:
    """Write the whole resolved config with its checksum, atomically."""
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_atomically(path, f"{_SEAL}{digest(text)}\n{text}".encode())
