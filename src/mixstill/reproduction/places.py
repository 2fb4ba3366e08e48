"""What may lie in the place of a run: nothing, or that run as it began, its teachers where they lay then or now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mixstill.distill.placement import Placement
from mixstill.errors import UserError
from mixstill.reproduction.plan import Run
from mixstill.schema import write_yaml
from mixstill.train.run import CONFIG_FILE, check_output, saved_config


def check_places(runs: Iterable[Run]) -> None:
    """Raises `UserError` where a place holds another run than the one that belongs there."""
    for run in runs:
        if (run.path / CONFIG_FILE).exists():
            try:
                check_output(_as_begun(run).config, run.path, resume=True)
            except UserError as error:
                raise UserError(f"output: {run.name} was run otherwise: {error}; choose another --output") from error


def at_home(run: Run) -> Run:
    """The run with its teachers where they lay when it began; it is told their new place if they were moved with it."""
    begun = _as_begun(run)
    if all(Path(Placement.parse(text).teacher).exists() for text in begun.config.distill.teachers) or begun is run:
        return begun
    saved, teachers = saved_config(run.path), run.config.distill.teachers
    write_yaml(replace(saved, distill=replace(saved.distill, teachers=teachers)), run.path / CONFIG_FILE)
    return run


def _as_begun(run: Run) -> Run:
    """The run with its teachers where they lay when it began, if they are called the same."""
    if not (run.path / CONFIG_FILE).exists():
        return run
    saved, config = saved_config(run.path).distill.teachers, run.config
    same = [_named(text) for text in saved] == [_named(text) for text in config.distill.teachers]
    return replace(run, config=replace(config, distill=replace(config.distill, teachers=saved))) if same else run


def _named(text: str) -> tuple[str, str]:
    placement = Placement.parse(text)
    return Path(placement.teacher).name, placement.place
