"""An experiment from its plan to its table, which is there, and true, after each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mixstill.data import load_split
from mixstill.errors import one_line
from mixstill.files import write_atomically, write_json
from mixstill.reproduction.curves import draw
from mixstill.reproduction.plan import Plan, at_home, check_places
from mixstill.reproduction.pool import room, train_all
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

    `failed` in the table are the runs that failed, with their last words. Rows that were trained earlier stand in the
    table too. Raises `UserError`, before anything is written, for configs, data or an output that do not fit, and
    `InterruptedRun` on SIGINT and SIGTERM.
    """
    runs = plan.runs(rows, seeds)
    check_places([*runs, *plan.runs(plan.experiment.rows, plan.seeds())])
    for run in runs:
        check_config(run.config)
    config = runs[-1].config
    load_split(config.data, "test", "cpu", student_pixels(config))
    device = pick_device(config.train.device)
    jobs = jobs or room(device, config.train.threads, plan.scale.gigabytes)
    about: dict[str, Any] = {
        "title": plan.experiment.title,
        "scale": plan.name,
        "what": plan.scale.what,
        "command": command,
        "commit": commit(),
        "machine": machine(device),
        "jobs": jobs,
    }
    plan.output.mkdir(parents=True, exist_ok=True)

    def write(failed: dict[str, str]) -> dict[str, Any]:
        table = about | collect(plan, plan.seeds()) | {"failed": failed}
        table["summary"] = sentences(table, published=plan.scale.published)
        write_json(plan.output / TABLE, table)
        write_atomically(plan.output / PAGE, page(table).encode())
        draw(plan, plan.seeds(), plan.output / CURVES)
        return table

    def ended() -> None:
        try:
            write({})
        except Exception as error:  # the table is written again at the end; no run is stopped for it
            say(f"the table was not written: {one_line(error)}")

    return write(train_all([at_home(run) for run in runs], jobs, say, ended))
