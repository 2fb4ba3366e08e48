"""What a config out of a file may name. A file may be a stranger's: what it holds is data, and no instruction.

A *stored* config lies in the metadata of weights, in a run directory or in a timm folder; a *typed* one was named on
this command line, or is a recipe that was. Only a typed one may reach the net, run or import code, read weights by
path or write to a place of its own. The table `RULES` says so field by field; docs/security.md says why.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixstill import typed
from mixstill.checks import MOST_CLASSES, check_arguments
from mixstill.config import Config
from mixstill.errors import UserError, one_line, shown
from mixstill.paths import check_regular, read_regular
from mixstill.schema import to_dict
from mixstill.telling import tell
from mixstill.texts import MOST_BYTES, parse_object

_HUBS = ("hfds", "hfids", "tfds")  # a local folder of theirs may name addresses, too
_TORCH = ("image_folder", "cifar10", "cifar100")  # others of torchvision unpack archives, or read by ways of their own
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*:(?!:)")  # `a.tar::b.tar` are two shards, `train[:9]` is a slice
_READING = re.compile(r"^pretrained|^checkpoint_path$|^cache_dir$|^(file|url)$|_(file|url)$|^hf_|^class_path$")


def _remote(value: str) -> bool:
    """Whether it is an address, or a command, where a path is expected: a colon before the first slash."""
    return ":" in value.partition("/")[0]


def _reaching(dataset: str) -> bool:
    """Whether a data set asks a hub, or does more than read files."""
    scheme, _, name = dataset.partition("/")
    return scheme in _HUBS or (scheme == "torch" and name.lower() not in _TORCH)


def _astray(value: str) -> bool:
    """Whether the name of a split holds a scheme or leaves the folder of its data set."""
    plain = re.sub(r"\{\d+\.\.\d+\}", "0", value)  # other braces may expand to anything
    astray = plain.startswith(("/", "~")) or ".." in plain.split("/") or "{" in plain
    return astray or _SCHEME.search(plain) is not None


def _dangerous(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments of a model by which timm would read, fetch or import something, at any depth."""
    for name, value in arguments.items():
        if not isinstance(name, str) or _READING.search(name.rpartition(".")[2]):
            yield str(name), value
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", what) for inner, what in _dangerous(value))
        elif isinstance(value, list | tuple):
            yield from _dangerous({f"{name}.{index}": inner for index, inner in enumerate(value)})
        elif isinstance(value, str) and (":" in value or "/" in value or value.startswith("~")):
            yield name, value


def model_and_source(text: str) -> tuple[str | None, str]:
    """`MODEL=FILE` taken apart; what is of another form is a source without a model."""
    found = re.fullmatch(r"([\w.]+)=(.+)", text)
    return (None, text) if found is None else (found[1], found[2])


def _place_of(teacher: str) -> str:
    """The path in `SOURCE@PLACE` or `MODEL=FILE@PLACE`."""
    return model_and_source(teacher.rpartition("@")[0] or teacher)[1]


def _foreign(teacher: str) -> bool:
    """Whether a teacher is other than a path on this machine: fetched by its name, or a function to call."""
    source = _place_of(teacher)
    return _remote(source) or ".py:" in source or _real(source) is None


@dataclass(frozen=True)
class Rule:
    """When a field of a stored config is refused, what it would do, and the option that says it instead."""

    refuses: Callable[[Any], object]
    does: str
    option: str


_DATASET = "--dataset NAME --data-dir DIR"
RULES: dict[str, Rule] = {
    "model.name": Rule(lambda value: ":" in value, "which is not in the registry of timm", "--model NAME"),
    "model.pretrained": Rule(bool, "which fetches weights", "--pretrained true"),
    "model.init_from": Rule(_remote, "which is no path on this machine", "--init-from RUN"),
    "data.dataset": Rule(_reaching, "which asks a hub, or unpacks what it finds", _DATASET),
    "data.data_dir": Rule(lambda value: _remote(value) or _real(value) is None, "which is no path here", _DATASET),
    "data.train_split": Rule(_astray, "which leaves the data set's folder", "--train-split SPLIT"),
    "data.test_split": Rule(_astray, "which leaves the data set's folder", "--val-split SPLIT"),
    "data.input_key": Rule(_SCHEME.search, "which is no name of a column", "--input-key NAME"),
    "data.target_key": Rule(_SCHEME.search, "which is no name of a column", "--target-key NAME"),
    "data.download": Rule(bool, "which fetches the data", "--data.download true"),
    "distill.cache": Rule(bool, "which is written to", "--cache DIR"),
    "train.tracker": Rule(bool, "which starts another program", "--tracker NAME, or --tracker none"),
}
_TEACHERS, _ARGUMENTS = "distill.teachers", "model.kwargs"
ALL = (*RULES, _ARGUMENTS, _TEACHERS)
DATA = tuple(name for name in RULES if name.startswith("data."))
BACKBONE = ("model.name", _ARGUMENTS)  # what a student of known weights is built by
TEACHERS = (_TEACHERS,)
_PATHS = {"data.data_dir": "--data-dir", "model.init_from": "--init-from"}


@dataclass(frozen=True)
class Stored:
    """A config with the file that it was found in."""

    file: Path
    config: Config

    @property
    def own(self) -> bool:
        """Whether this user named the same before, when he began a run."""
        return typed.known(_named(self.config))

    def check(self, names: Collection[str], said: Mapping[str, Any] | None = None) -> None:
        """Raises `UserError` where a field of `names` asks for more than data may; what leaves this folder is told.

        `said` are the fields that the user has named on this command line, nested; they are his, and not looked at.
        """
        if self.own:
            return
        told, faults = [], list[str]()
        for name, value in _named(self.config).items():
            section, _, leaf = name.partition(".")
            over = (said or {}).get(section, {})
            if name not in names or not value or (leaf in over and name != _ARGUMENTS):
                continue
            if name == _ARGUMENTS:
                faults += _of_arguments({key: what for key, what in value.items() if key not in over.get(leaf, {})})
            elif name == _TEACHERS:
                faults += _of_teachers(value)
                told += [(_place_of(teacher), "a teacher", "--teachers") for teacher in value]
            elif RULES[name].refuses(value):
                faults.append(_refused(name, value, RULES[name].does, f"say it yourself by {RULES[name].option}"))
            elif name in _PATHS:
                told.append((value, "data" if name == "data.data_dir" else "weights", _PATHS[name]))
        if faults:
            raise UserError(f"{self.file}: its config says {'; and '.join(faults)}")
        for path, what, option in told:
            if _outside(path) and os.environ.get("RANK", "0") == "0":
                tell(f"mixstill: {what} from {path!r}, as {self.file} says; {option} names another")

    def check_links(self, folder: Path) -> None:
        """Raises `UserError` for a link by which what is written into `folder` would land elsewhere.

        One's own run may hold links, where it was begun or gone on with before: not a folder of the same config.
        """
        if typed.known(_place(self.config, folder)):
            return
        root = folder.resolve()
        for path in filter(Path.is_symlink, folder.rglob("*")):
            goal = _real(str(path))
            if goal is None or not goal.is_relative_to(root):
                to = str(path.readlink())
                raise UserError(f"resume: {str(path)!r} is a link to {to!r}; put what it names in its place")


def _of_arguments(arguments: Mapping[str, Any]) -> list[str]:
    does = "which is no plain argument of a model"
    return [
        _refused(f"{_ARGUMENTS}.{name}", value, does, f"only --model.kwargs.{name} of mixstill train may say it")
        for name, value in _dangerous(arguments)
    ]


def _of_teachers(teachers: Collection[str]) -> list[str]:
    does, remedy = "which is no path on this machine", "say it yourself by --teachers SOURCE@PLACE"
    return [_refused(_TEACHERS, teacher, does, remedy) for teacher in teachers if _foreign(teacher)]


def _refused(name: str, value: Any, does: str, remedy: str) -> str:
    return f"{name}: {shown(value, 120)}, {does}; {remedy}"


def remember(config: Config, folder: Path | None = None) -> None:
    """Note that this user named what `config` names, so that his own run may say it when it is read again.

    And that he trains it in `folder`, where that is given.
    """
    typed.remember(_named(config))
    if folder is not None:
        typed.remember(_place(config, folder))


def _place(config: Config, folder: Path) -> dict[str, Any]:
    """What `config` names, with the folder of its run."""
    return _named(config) | {"folder": str(folder.resolve())}


def _named(config: Config) -> dict[str, Any]:
    """The fields that the rules are about."""
    raw = to_dict(config)
    return {name: raw[name.partition(".")[0]][name.partition(".")[2]] for name in ALL}


def _real(path: str) -> Path | None:
    """What a path leads to; None where there is nothing, or no way."""
    try:
        return Path(path).expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None


def _outside(path: str) -> bool:
    goal = _real(path)
    return goal is None or not goal.is_relative_to(Path.cwd())


def check_timm_folder(folder: Path) -> None:
    """Raises `UserError` where a folder of timm's, which opens its files itself, asks for more than a model.

    So it does where its config.json names other weights, or a file in it is none that can be read to its end.
    """
    file = folder / "config.json"
    if not file.exists():
        return  # which timm tells
    try:
        for each in folder.iterdir():
            if not each.is_dir():
                check_regular(each)
        told = parse_object(read_regular(file, MOST_BYTES))
        inner = told.get("pretrained_cfg", told)
        architecture, arguments = told["architecture"], told.get("model_args") or {}
        if not all(isinstance(value, dict) for value in (inner, arguments)) or not isinstance(architecture, str):
            raise TypeError("it describes no model")
        check_arguments("model_args", arguments)
        classes = told.get("num_classes", 1)
        if not isinstance(classes, int) or not 0 <= classes <= MOST_CLASSES:
            raise ValueError(f"num_classes {shown(classes)} is not a whole number up to {MOST_CLASSES}")
    except (OSError, ValueError, AttributeError, KeyError, TypeError, UserError) as error:
        why = error.strerror if isinstance(error, OSError) else one_line(error)
        raise UserError(f"{file}: cannot be read as timm's: {why}") from error
    found = [("architecture", architecture)] if not re.fullmatch(r"[\w.]+", architecture) else []
    found += [(f"model_args.{name}", value) for name, value in _dangerous(arguments)]
    sources = ("url", "file", "hf_hub_id", "hf_hub_filename", "state_dict")
    found += [(f"pretrained_cfg.{name}", inner[name]) for name in sources if inner.get(name)]
    for name, value in found:
        raise UserError(
            f"{file}: it says {name}: {shown(value, 120)}, which a file may not; name its weights with --model NAME"
        )
