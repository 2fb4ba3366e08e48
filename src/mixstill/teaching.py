"""Teachers that are recipes: their finished run is looked up, or they are trained first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import timm

from mixstill import recipes
from mixstill.config import Config
from mixstill.data import load_split, load_splits, measured
from mixstill.distill.classifier import Facts, build_student, save_student
from mixstill.distill.placement import Placement
from mixstill.distill.starting import start
from mixstill.distill.teachers import Teachers
from mixstill.errors import InterruptedRun, UserError, unknown
from mixstill.schema import differences
from mixstill.train.build import check_config, student_pixels
from mixstill.train.device import pick_device
from mixstill.train.run import CONFIG_FILE, complete_summary, saved_config, train


def resolve_teachers(config: Config, output: Path, *, seed: int | None = None, quiet: bool = False) -> Config:
    """`config` with a run directory in the place of each teacher that is the name of a shipped recipe.

    The teacher is trained on the student's data, device and step limit, by its recipe's seed or by `seed`. A finished
    run of just that config in a folder of the recipe's name beside `output` is taken; else it is trained, or its
    training gone on with, in `output`/teachers.

    Raises `UserError` for a word that is no recipe, path or model, and, before any teacher is trained, for whatever
    else the student could not be trained for.
    """
    placements, configs = _named(config, seed)
    runs = {name: _finished(name, its, output, config.model.init_from) for name, its in configs.items()}
    if None in runs.values():
        _check(config, [placement for placement in placements if placement.teacher not in configs])
    for name, its in configs.items():
        runs[name] = runs[name] or _trained(its, output / "teachers" / name, quiet)
    return _taught_by(config, placements, runs)


def teachers_as_they_stand(config: Config, output: Path, folder: Path) -> tuple[Config, dict[str, str]]:
    """`config` as `resolve_teachers` would give it for `output`, but with nothing trained.

    For a recipe without a finished run its model is taken as it would begin, its weights written into `folder`; those
    files are told too, with the recipes that they stand for. Raises `UserError` as `resolve_teachers` does.
    """
    placements, configs = _named(config, None)
    runs = {name: _finished(name, its, output, config.model.init_from) for name, its in configs.items()}
    missing = [name for name, run in runs.items() if run is None]
    if missing:
        size = student_pixels(config)
        data = load_split(config.data, measured(config.data)[-1], "cpu", size)
        facts = Facts.of(data, size)
        runs |= {name: _untrained(name, configs[name], facts, folder) for name in missing}
    return _taught_by(config, placements, runs), {str(runs[name]): name for name in missing}


def _named(config: Config, seed: int | None) -> tuple[list[Placement], dict[str, Config]]:
    """Where the teachers are placed, and the config of each that is a recipe. Raises `UserError` for unknown words."""
    placements = [Placement.parse(text) for text in config.distill.teachers]
    named = {p.teacher for p in placements if p.teacher in recipes.names() and not Path(p.teacher).exists()}
    for placement in placements:
        if placement.teacher not in named and _unknown_word(placement.teacher):
            raise unknown("distill.teachers", placement.teacher, [*recipes.names(), *timm.list_models()])
    return placements, {name: _teacher_config(name, config, seed) for name in sorted(named)}


def _taught_by(config: Config, placements: Sequence[Placement], runs: Mapping[str, Path | None]) -> Config:
    """`config` with a path in the place of each recipe."""
    teachers = tuple(str(replace(p, teacher=_absolute(str(runs.get(p.teacher, p.teacher))))) for p in placements)
    return replace(config, distill=replace(config.distill, teachers=teachers))


def _untrained(name: str, config: Config, facts: Facts, folder: Path) -> Path:
    """A file of the student of a recipe for the data set of `facts`, before its first step."""
    config = replace(config, model=replace(config.model, pretrained=False))
    path = folder.resolve() / f"{name}.safetensors"
    own = replace(facts, input_size=student_pixels(config))
    save_student(path, build_student(config, facts.num_classes), config, own)
    return path


def _check(config: Config, others: Sequence[Placement]) -> None:
    """Raises `UserError` if the student cannot be built, or its data or the `others` of its teachers not be had."""
    check_config(config)
    pick_device(config.train.device)
    size = student_pixels(config)
    data = load_splits(config.data, ["train", *measured(config.data)], "cpu", size)["train"]
    facts = Facts.of(data, size)
    Teachers(others, facts)
    if config.model.init_from is not None:
        start(build_student(config, facts.num_classes), config, facts)


def _absolute(teacher: str) -> str:
    """A path as it is found from any folder; names and ids as they are."""
    return str(Path(teacher).resolve()) if Path(teacher).exists() else teacher


def teachers_of_run(config: Config, saved: Config) -> Config:
    """`config` with the teachers of the saved run that it resumes, where they are the ones that it names.

    So a resumed student keeps the very teachers that it began with, and none is trained for it again.
    """
    named = [Placement.parse(text) for text in config.distill.teachers]
    kept = [Placement.parse(text) for text in saved.distill.teachers]
    same = len(named) == len(kept) and all(map(_same, named, kept))
    return replace(config, distill=replace(config.distill, teachers=saved.distill.teachers)) if same else config


def found_again(saved: Config, run: Path) -> Config:
    """`saved`, of a run that was moved, with the teachers that were trained in it and were moved with it."""

    def found(text: str) -> str:
        placement = Placement.parse(text)
        moved = run / "teachers" / Path(placement.teacher).name
        lost = Path(placement.teacher).is_absolute() and not Path(placement.teacher).exists()
        return str(replace(placement, teacher=str(moved.resolve()))) if lost and moved.is_dir() else text

    teachers = tuple(map(found, saved.distill.teachers))
    return replace(saved, distill=replace(saved.distill, teachers=teachers))


def _same(named: Placement, kept: Placement) -> bool:
    recipe = named.teacher in recipes.names() and Path(kept.teacher).name == named.teacher
    return named.place == kept.place and (recipe or _absolute(named.teacher) == kept.teacher)


def _unknown_word(teacher: str) -> bool:
    """Whether it is a bare word that names neither a path nor a model of timm."""
    return re.fullmatch(r"[\w-]+", teacher) is not None and not (Path(teacher).exists() or timm.is_model(teacher))


def _teacher_config(recipe: str, student: Config, seed: int | None) -> Config:
    config = recipes.load(recipe)
    if config.data.dataset != student.data.dataset:
        raise UserError(
            f"distill.teachers: {recipe!r} is a recipe for {config.data.dataset}, but data.dataset is "
            f"{student.data.dataset!r}; name teachers for that by --teachers SOURCE@PLACE, or none"
        )
    data = replace(
        config.data,
        data_dir=student.data.data_dir,
        val_fraction=student.data.val_fraction,
        download=student.data.download,
        max_corrupt=student.data.max_corrupt,
    )
    options = replace(
        config.train,
        device=student.train.device,
        max_steps=student.train.max_steps,
        seed=config.train.seed if seed is None else seed,
    )
    return replace(config, data=data, train=options)


def _finished(recipe: str, config: Config, output: Path, source: str | None) -> Path | None:
    """The run directory of a finished run of `config`, where there is one: by `output`, or the `source` of weights."""
    students = [output]
    if source is not None:
        students.append(Path(source) if Path(source).is_dir() else Path(source).parent)
    for student in students:
        for run in (student.parent / recipe, student / "teachers" / recipe):
            if complete_summary(run) and not differences(saved_config(run), config):
                return run
    return None


def _trained(config: Config, run: Path, quiet: bool) -> Path:
    try:
        train(config, run, resume=(run / CONFIG_FILE).exists(), quiet=quiet)
    except InterruptedRun as error:
        text = f"the teacher {run.name} {error}; give the same command again to go on"
        raise InterruptedRun(error.signal, text) from error
    return run
