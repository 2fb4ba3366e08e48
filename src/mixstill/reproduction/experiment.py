"""An experiment from its plan to its table, which is there, and true, after each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mixstill.data import load_splits, measured
from mixstill.errors import UserError, one_line
from mixstill.files import write_atomically, write_json
from mixstill.lock import locked
from mixstill.reproduction.curves import draw
from mixstill.reproduction.places import at_home, check_places
from mixstill.reproduction.plan import Plan, Run
from mixstill.reproduction.pool import finished, room, train_all
from mixstill.reproduction.rows import Row
from mixstill.reproduction.table import collect, page
from mixstill.reproduction.verdict import sentences
from mixstill.train.build import check_config, student_pixels
from mixstill.train.device import machine, pick_device
from mixstill.train.source import commit

TABLE, PAGE, CURVES = "table.json", "table.md", "curves.svg"


def reproduce(
    plan: Plan, rows: Sequence[Row], seeds: Sequence[int], *, jobs: int | None, command: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train what is not finished, `jobs` runs at a time, and return the table; table, page and curves are written.

    `failed` in the table are the runs that failed, with their last words; `command` (here without rows and seeds),
    `commit`, `machine` and `jobs` are of this call. Rows that were trained earlier stand in the table too; each row has
    its own.

    Raises `UserError`, before anything is written, for configs, data or an output that do not fit, and
    `InterruptedRun` on SIGINT, SIGTERM and SIGHUP.
    """
    plan.check()
    runs = plan.runs(rows, seeds)
    device = _check(plan, runs)
    jobs = jobs or room(device, runs[-1].config.train.threads, plan.scale.gigabytes)
    about: dict[str, Any] = {
        "title": plan.experiment.title,
        "scale": plan.name,
        "what": plan.scale.what,
        "settings": {"student": plan.scale.student, "teacher": plan.scale.teacher, "all": plan.given()},
        "command": _called(plan, command, rows, seeds),
        "commit": commit(),
        "machine": machine(device),
        "jobs": jobs,
    }
    plan.output.mkdir(parents=True, exist_ok=True)

    def write(failed: dict[str, str]) -> dict[str, Any]:
        table = about | collect(plan, plan.seeds(), command) | {"failed": failed}
        table["summary"] = sentences(table, published=plan.as_published())
        write_json(plan.output / TABLE, table)
        write_atomically(plan.output / PAGE, page(table).encode())
        draw(plan, plan.seeds(), plan.output / CURVES)
        return table

    def ended(failed: dict[str, str]) -> None:
        try:
            write(failed)
        except Exception as error:  # the table is written again at the end; no run is stopped for it
            say(f"the table was not written: {one_line(error)}")

    with locked(plan.output) as held:
        runs = [run if finished(run.path) else at_home(run) for run in runs]
        return write(train_all(runs, jobs, say, ended, inherited=[held]))


def _called(plan: Plan, command: str, rows: Sequence[Row], seeds: Sequence[int]) -> str:
    named = "" if len(rows) == len(plan.experiment.rows) else f" --rows {','.join(row.name for row in rows)}"
    return f"{command}{named} --seeds {len(seeds)}"


def _check(plan: Plan, runs: Sequence[Run]) -> torch.device:
    """The device of the runs. Raises `UserError` for what can be found wrong before the first one."""
    if plan.output.exists() and not plan.output.is_dir():
        raise UserError(f"output: {str(plan.output)!r} is not a directory")
    places = [(row, seed) for row in plan.experiment.rows for seed in plan.seeds() if plan.place(row, seed).exists()]
    check_places([*runs, *plan.teachers(), *(plan.run_of(row, seed) for row, seed in places)])
    for run in runs:
        check_config(run.config)
    config = runs[-1].config
    if not all(finished(run.path) for run in runs):
        load_splits(config.data, ["train", *measured(config.data)], "cpu", student_pixels(config))
    return pick_device(config.train.device)
