"""`mixstill reproduce EXPERIMENT`: the table of a published experiment, trained again."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from mixstill.errors import RunError, UserError, many, unknown
from mixstill.files import to_json
from mixstill.overrides import parse
from mixstill.paths import path_of
from mixstill.schema import RawConfig
from mixstill.telling import lossy, showing, tell

EXPERIMENTS = ("cifar100",)

USAGE = """usage: mixstill reproduce cifar100 --data-dir DIR [--rows ROW,...] [--seeds N] [--scale full|micro]
                          [--output DIR] [--jobs N] [--FIELD VALUE ...]

Trains the teachers, then every row of the table, most important first, and writes table.json, table.md and curves.svg
after each run. What is finished in the output is left alone, and what was begun is gone on with: after an interruption
give the same command again.

  --rows ROW,...  rows or groups of rows: main, ablations, tokens, teachers, ... [all]
  --seeds N       seeds 0 to N-1 of the students; the teachers are trained once [1]
  --scale SCALE   full: the published sizes and epochs; micro: small ones, for two CPU cores [full]
  --output DIR    [runs/reproduce-cifar100-SCALE]
  --jobs N        runs at a time [as many as there is room for]
  --json          print the table as one JSON object

Fields of the config hold for every row; those of data and train for the teachers too. The teachers' answers are stored
in OUTPUT/cache for all rows of a seed, 10 MB per epoch and teacher (--cache DIR: elsewhere; --cache null: not at all).
"""


def main(argv: list[str]) -> None:
    """Train what is not there yet, and print the table."""
    line = parse(argv, flags=("json",), values=("rows", "seeds", "scale", "output", "jobs"))
    name = line.words[0] if len(line.words) == 1 else None
    if name is None:
        got = " ".join(line.words) or "none"
        raise UserError(f"reproduce: takes one experiment ({', '.join(EXPERIMENTS)}), got {got}")
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    rows = line.options.get("rows", "").replace(",", " ").split()
    if "rows" in line.options and not rows:
        raise UserError("--rows: names no row; leave it out for all of them")

    from mixstill.reproduction.cifar100 import CIFAR100
    from mixstill.reproduction.experiment import reproduce
    from mixstill.reproduction.plan import Plan, chosen

    scale = line.options.get("scale", "full")
    if scale not in CIFAR100.scales:
        raise unknown("--scale", scale, CIFAR100.scales)
    output = path_of(line.options.get("output", Path("runs", f"reproduce-{name}-{scale}")), "output")
    table = reproduce(
        Plan(CIFAR100, scale, output, line.config),
        chosen(CIFAR100, rows),
        range(line.whole("seeds") or 1),
        jobs=line.whole("jobs"),
        command=shlex.join(["mixstill", "reproduce", name, "--scale", scale, *_fields(line.config)]),
        say=tell,
    )
    if "json" in line.options:
        print(to_json(table))
    else:
        with showing():
            _print(table, output)
    if table["failed"]:
        raise RunError(
            f"{many(len(table['failed']), 'run')} failed: {', '.join(table['failed'])}; the table lacks them"
        )


def _fields(config: RawConfig) -> list[str]:
    """The fields as words of a command; folders of this machine, and the output, stand as DIR."""
    from mixstill.reproduction.plan import FOLDERS

    words = []
    for section, values in config.items():
        for field, value in values.items():
            name = f"{section}.{field}"
            words += [f"--{name}", *(["DIR"] if name in FOLDERS and value is not None else _words(value))]
    return [*words, "--output", "DIR"]


def _words(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(each) for each in value] or ["none"]
    return [value if isinstance(value, str) else json.dumps(value)]


def _print(table: dict[str, Any], output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from mixstill.spread import shown

    grid = Table(title=f"{table['title']}, {table['scale']}: on test after the last epoch")
    for heading in ("row", "top-1", "top-5", "minus plain", "seeds"):
        grid.add_column(heading, justify="left" if heading == "row" else "right", no_wrap=True)
    for row in table["rows"]:
        grid.add_row(
            row["name"], shown(row["top1"]), shown(row["top5"]), shown(row["gain"], "+"), str(len(row["seeds"]))
        )
    Console(file=lossy(sys.stdout)).print(grid)
    for line in table["summary"]:
        print(line)
    print(f"The table, its page and its curves are in {output}")
