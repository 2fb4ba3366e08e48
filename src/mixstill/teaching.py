"""Teachers that are recipes: their finished run is looked up, or they are trained first."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import timm

from mixstill import recipes
from mixstill.config import Config, differences
from mixstill.distill.placement import Placement
from mixstill.errors import unknown
from mixstill.train.run import CONFIG_FILE, saved_config, saved_summary, train


def resolve_teachers(config: Config, output: Path, *, seed: int | None = None, quiet: bool = False) -> Config:
    """`config` with a run directory in the place of each teacher that is the name of a shipped recipe.

    The teacher is trained on the student's data, device and step limit, by its recipe's seed or by `seed`. A finished
    run of just that config in a folder of the recipe's name beside `output` is taken; else it is trained, or its
    training gone on with, in `output`/teachers. Raises `UserError` for a word that is no recipe, path or model.
    """
    resolved = []
    for text in config.distill.teachers:
        placement = Placement.parse(text)
        if placement.teacher in recipes.names() and not Path(placement.teacher).exists():
            run = _run_of(placement.teacher, _teacher_config(placement.teacher, config, seed), output, quiet)
            text = str(replace(placement, teacher=str(run)))
        elif _unknown_word(placement.teacher):
            raise unknown("distill.teachers", placement.teacher, [*recipes.names(), *timm.list_models()])
        resolved.append(text)
    return replace(config, distill=replace(config.distill, teachers=tuple(resolved)))


def _unknown_word(teacher: str) -> bool:
    """Whether it is a bare word that names neither a path nor a model of timm."""
    return re.fullmatch(r"[\w-]+", teacher) is not None and not (Path(teacher).exists() or timm.is_model(teacher))


def _teacher_config(recipe: str, student: Config, seed: int | None) -> Config:
    config = recipes.load(recipe)
    data = replace(
        config.data,
        data_dir=student.data.data_dir,
        val_fraction=student.data.val_fraction,
        download=student.data.download,
        skip_corrupt=student.data.skip_corrupt,
    )
    options = replace(
        config.train,
        device=student.train.device,
        max_steps=student.train.max_steps,
        seed=config.train.seed if seed is None else seed,
    )
    return replace(config, data=data, train=options)


def _run_of(recipe: str, config: Config, output: Path, quiet: bool) -> Path:
    beside, own = output.parent / recipe, output / "teachers" / recipe
    for run in (beside, own):
        summary = saved_summary(run)
        if summary is not None and summary["complete"] and not differences(saved_config(run), config):
            return run
    train(config, own, resume=(own / CONFIG_FILE).exists(), quiet=quiet)
    return own
