"""The rows of an experiment: what each trains and changes, what was published, and which rows to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mixstill.schema import RawConfig

Group = Literal["main", "teachers", "places", "tokens", "weights", "regulariser", "kind", "head", "deit"]
MAIN, ABLATIONS = "main", "ablations"


@dataclass(frozen=True)
class Published:
    """Top-1 and top-5 in percent as printed in `source`; None where it does not print one."""

    top1: float
    top5: float | None
    source: str


@dataclass(frozen=True)
class Row:
    """One line of the table.

    recipe, overrides: the config of its run; the scale comes on top.
    head_of: the row whose run it is, at another inference head; it is not trained.
    """

    name: str
    what: str
    group: Group
    recipe: str = ""
    overrides: RawConfig = field(default_factory=dict)
    published: Published | None = None
    head_of: str | None = None
    head: Literal["class", "distill"] | None = None


@dataclass(frozen=True)
class Teacher:
    """A teacher of the experiment: its recipe, and its published figure."""

    recipe: str
    published: Published | None = None


@dataclass(frozen=True)
class Part:
    """What a part of the method is worth: the top-1 of the row `with_it` minus that of `without`."""

    what: str
    with_it: str
    without: str


@dataclass(frozen=True)
class Scale:
    """The size at which all rows are run.

    models: the student that stands for each of the full size.
    teachers: the teachers' recipes, by those that the rows name.
    student, teacher: config fields that replace those of every recipe.
    gigabytes: GPU memory that one run takes at most.
    published: whether it is the size of the published figures.
    """

    what: str
    models: Mapping[str, str]
    teachers: Mapping[str, Teacher]
    student: RawConfig
    teacher: RawConfig
    gigabytes: float
    published: bool = False


@dataclass(frozen=True)
class Experiment:
    """Rows in order of importance, their comparisons, and the scales; `plain` is the row without distillation."""

    title: str
    plain: str
    rows: tuple[Row, ...]
    parts: tuple[Part, ...]
    scales: Mapping[str, Scale]
