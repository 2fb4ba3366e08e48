"""`mixstill cache [RECIPE] --cache DIR [--a.b value ...]`: the teachers' answers to a run's views, stored ahead."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mixstill.commands.choice import recipe_of
from mixstill.commands.train import config_of, output_of
from mixstill.errors import InterruptedRun, UserError
from mixstill.files import to_json
from mixstill.overrides import CommandLine, parse
from mixstill.paths import path_of
from mixstill.telling import showing

if TYPE_CHECKING:
    from mixstill.train.processes import Processes

USAGE = """usage: mixstill cache [RECIPE] --cache DIR [--FIELD VALUE ...] [--output DIR]

Asks the teachers of a run for their answers to all its views, and stores them in DIR; no student is trained. What is
there is kept, so the same command goes on after an interruption. A run of the same recipe, views, seed and batch with
--cache DIR then asks no teacher. Teachers that are recipes are found or trained as `mixstill train` does.

  --output DIR   where the run would lie: teachers are looked for beside it, and trained in it [runs/RECIPE]
  --quiet        print nothing but the result
  --json         print the result as one JSON object

Fields of the config: as `mixstill train` takes them.
"""


def main(argv: list[str]) -> None:
    """Fill the caches of one run."""
    line = parse(argv, flags=("quiet", "json"), values=("output",))
    if len(line.words) > 1:
        raise UserError(f"cache: takes one recipe, got {' '.join(line.words)}")

    from mixstill.train.processes import joined

    with joined() as processes:
        found = _fill(line, processes)
    if not processes.main:
        return
    if "json" in line.options:
        print(to_json(found))
        return
    names = ", ".join(found["teachers"])
    with showing():
        print(
            f"{found['cache']}: {found['steps']} steps of {names}, {found['bytes'] / 1e6:.1f} MB, {found['stored']} new"
        )


def _fill(line: CommandLine, processes: Processes) -> dict[str, Any]:
    from mixstill.teaching import resolve_teachers
    from mixstill.train.build import build
    from mixstill.train.device import command_settings, machine
    from mixstill.train.filling import fill
    from mixstill.train.progress import Display
    from mixstill.train.trial import answers_size

    recipe = recipe_of(line)
    config, quiet = config_of(line, recipe), "quiet" in line.options or not processes.main
    folder = config.distill.cache
    if folder is None:
        raise UserError("distill.cache: None is not valid; say where the answers go by --cache DIR")
    if not config.distill.teachers:
        raise UserError("distill.teachers: none are given, so there is nothing to store")
    with command_settings(config.train):
        config, began = resolve_teachers(config, output_of(line, recipe), quiet=quiet), time.monotonic()
        job, display = build(config, processes), Display("cache", quiet=quiet)
        try:
            stored = fill(job, display)
        except InterruptedRun as error:
            raise InterruptedRun(error.signal, f"{error}; give the same command again to go on") from error
        return {
            "cache": str(path_of(folder, "distill.cache")),
            "teachers": job.teachers.names,
            "steps": job.batches.last,
            "stored": stored,
            "bytes": answers_size(job),
            "seconds": round(time.monotonic() - began, 1),
            "machine": machine(job.device),
        }
