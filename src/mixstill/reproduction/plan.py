"""The runs of an experiment: every row and seed with its config and place, and the teachers before them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from pathlib import Path
from typing import Any

from mixstill import recipes
from mixstill.config import Config
from mixstill.distill.placement import Placement
from mixstill.errors import UserError, unknown
from mixstill.paths import path_of
from mixstill.reproduction.rows import ABLATIONS, MAIN, Experiment, Row, Scale
from mixstill.schema import FREE_ON_RESUME, RawConfig, merge, to_dict

FOLDERS = ("data.data_dir", "distill.cache")  # fields that are paths of this machine
_SHARED = ("data", "train")  # sections whose fields, given on the command line, hold for the teachers too
_FIXED = {"model.init_from", "data.dataset", "data.val_fraction", "train.seed", "train.max_steps"}  # of the experiment
_NO_MATTER = {*FREE_ON_RESUME, "train.amp", "train.compile", "train.eval_interval", "train.log_interval"}


@dataclass(frozen=True)
class Run:
    """One run directory; it may begin when the runs in `needs` are finished."""

    name: str
    config: Config
    path: Path
    needs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Where the runs of an experiment lie, and what they are.

    name: of the scale.
    overrides: config fields from the command line; those of the data and the loop hold for the teachers too, and what
        sets a row apart goes over them.
    """

    experiment: Experiment
    name: str
    output: Path
    overrides: RawConfig

    @property
    def scale(self) -> Scale:
        """The size at which all is run."""
        return self.experiment.scales[self.name]

    def check(self) -> None:
        """Raises `UserError` for a field on the command line that could make rows alike, or the experiment another."""
        given = set(self.given())
        for name in sorted(given & self.settled() if given else ()):
            raise UserError(f"{name}: cannot be given to reproduce; its rows settle it")

    def settled(self) -> set[str]:
        """The fields, by their dotted names, in which rows differ, and those that are the experiment's."""
        rows = [row for row in self.experiment.rows if row.head_of is None]
        bare = replace(self, overrides={})
        configs = [to_dict(bare._student(row, seed=0)) for row in rows]
        first = configs[0]
        apart = {
            f"{section}.{name}"
            for section, values in first.items()
            for name in values
            if any(config[section][name] != values[name] for config in configs)
        }
        return apart | _FIXED

    def as_published(self) -> bool:
        """Whether runs are of the published size, and nothing on the command line changes what is trained."""
        return self.scale.published and set(self.given()) <= _NO_MATTER

    def given(self) -> dict[str, Any]:
        """The fields on the command line by their dotted names, without the paths of this machine."""
        flat = {
            f"{section}.{name}": value for section, values in self.overrides.items() for name, value in values.items()
        }
        return {name: value for name, value in flat.items() if name not in FOLDERS}

    def teachers(self) -> list[Run]:
        """The teachers, each trained once for all rows and seeds."""
        return [self._teacher(name) for name in self.scale.teachers]

    def run_of(self, row: Row, seed: int) -> Run:
        """The run of a row; a row that is another's at a different head has that one's."""
        if row.head_of is not None:
            return self.run_of(next(other for other in self.experiment.rows if other.name == row.head_of), seed)
        config = self._student(row, seed)
        names = [Placement.parse(text).teacher for text in config.distill.teachers]
        paths = {name: self._place_of_teacher(name).resolve() for name in names}
        placed = [
            replace(Placement.parse(text), teacher=str(paths[name]))
            for text, name in zip(config.distill.teachers, names, strict=True)
        ]
        cache = self._cache(seed) if placed else None
        distill = replace(config.distill, teachers=tuple(map(str, placed)), cache=cache)
        mi = replace(config.mi, weight=config.mi.weight if any(not each.at_head for each in placed) else 0.0)
        config = replace(config, distill=distill, mi=mi)
        return Run(f"{row.name}, seed {seed}", config, self.place(row, seed), tuple(paths.values()))

    def place(self, row: Row, seed: int) -> Path:
        """Where the run of a row lies."""
        return self.output / f"seed{seed}" / (row.head_of or row.name)

    def runs(self, rows: Iterable[Row], seeds: Sequence[int]) -> list[Run]:
        """The runs of these rows, in order of importance, behind the teachers that they need."""
        found = {run.path: run for row in rows for run in (self.run_of(row, seed) for seed in seeds)}
        needed = {path for run in found.values() for path in run.needs}
        return [run for run in self.teachers() if run.path.resolve() in needed] + list(found.values())

    def seeds(self) -> list[int]:
        """The seeds that there are runs of."""
        names = [path.name.removeprefix("seed") for path in self.output.glob("seed*") if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def _teacher(self, name: str) -> Run:
        recipe = self.scale.teachers[name].recipe
        given = {section: dict(self.overrides.get(section, {})) for section in _SHARED}
        return Run(
            f"teacher {recipe}",
            recipes.load(recipe, merge(self.scale.teacher, given)),
            self._place_of_teacher(name),
        )

    def _cache(self, seed: int) -> str | None:
        """Where the teachers' answers to the views of a seed are stored; None where they are not to be."""
        folder = self.overrides.get("distill", {}).get("cache", self.output / "cache")
        return None if folder is None else str(path_of(folder, "distill.cache").resolve() / f"seed{seed}")

    def _place_of_teacher(self, name: str) -> Path:
        return self.output / "teachers" / self.scale.teachers[name].recipe

    def _student(self, row: Row, seed: int) -> Config:
        name = _model_of(row.recipe)
        model = {"model": {"name": self.scale.models.get(name, name)}}
        layers: list[RawConfig] = [self.scale.student, self.overrides, row.overrides, {"train": {"seed": seed}}]
        return recipes.load(row.recipe, reduce(merge, layers, model))


@cache
def _model_of(recipe: str) -> str:
    return recipes.load(recipe).model.name


def chosen(experiment: Experiment, words: Sequence[str]) -> list[Row]:
    """The rows that the words name: rows, groups, `main` or `ablations`; all for none. In the experiment's order."""
    names = {row.name for row in experiment.rows}
    groups = {row.group for row in experiment.rows}
    for word in words:
        if word not in names | groups | {ABLATIONS}:
            raise unknown("--rows", word, names | groups | {ABLATIONS})
    return [
        row
        for row in experiment.rows
        if not words or {row.name, row.group, MAIN if row.group == MAIN else ABLATIONS} & set(words)
    ]
