"""`mixstill demo [RECIPE]`: teacher, plain student and STD student side by side, over several seeds."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixstill import recipes
from mixstill.commands.choice import recipe_of
from mixstill.commands.train import DEFAULT_RECIPE
from mixstill.config import Config
from mixstill.errors import UserError
from mixstill.files import to_json
from mixstill.overrides import parse
from mixstill.paths import path_of
from mixstill.telling import lossy, showing, tell
from mixstill.unused import refuse_unused

USAGE = """usage: mixstill demo [RECIPE] [--seeds N] [--output DIR] [--FIELD VALUE ...]

For each seed: trains the teachers, the student without them, and the student with them; same data, same steps. Prints
top-1 on the test split after the last epoch. Without RECIPE: scikit-learn's digits, offline, in a minute or two.
What is finished in DIR is kept: call it again after an interruption.

  --seeds N     seeds 0 to N-1 [3]
  --output DIR  where the runs go [runs/demo]
  --json        print the result as one JSON object
"""


def main(argv: list[str]) -> None:
    """Run the comparison, print its table, and leave it as demo.json beside the runs."""
    line = parse(argv, flags=("json",), values=("seeds", "output"))
    options = line.options
    if len(line.words) > 1:
        raise UserError(f"demo: takes one recipe, got {' '.join(line.words)}")
    seeds = range(line.whole("seeds") or 3)
    recipe = recipe_of(line) or DEFAULT_RECIPE
    config = recipes.load(recipe, line.config)
    refuse_unused(config, line.config)
    if "seed" in line.config.get("train", {}):
        raise UserError("demo: takes --seeds N, not one --seed")
    if not config.distill.teachers:
        raise UserError(f"demo: the recipe {recipe!r} has no teachers to compare with; name them by --teachers")
    output = path_of(options.get("output", Path("runs", "demo")), "output")

    from mixstill.files import write_json
    from mixstill.spread import spread
    from mixstill.train.device import command_settings, machine, pick_device

    _check(config, output)
    rows: dict[str, list[float]] = {}
    for seed in seeds:
        with command_settings(config.train):
            found = _one_seed(config, output / f"seed{seed}", seed)
        for name, top1 in found.items():
            rows.setdefault(name, []).append(top1)
    gains = [std - plain for std, plain in zip(rows["STD student"], rows["plain student"], strict=True)]
    result = {
        "recipe": recipe,
        "seeds": list(seeds),
        "top1": {name: spread(values) for name, values in rows.items()},
        "gain": spread(gains),
        "machine": machine(pick_device(config.train.device)),
    }
    write_json(output / "demo.json", result)
    if "json" in options:
        print(to_json(result))
        return
    with showing():
        _print(result, output)


def _check(config: Config, output: Path) -> None:
    """Raises `UserError` for whatever the students could not be trained for, before the first of many runs."""
    from mixstill.teaching import teachers_as_they_stand
    from mixstill.train.build import build, check_config

    check_config(config)  # by the names that were given
    config = replace(config, distill=replace(config.distill, cache=None))
    with tempfile.TemporaryDirectory() as folder:
        build(teachers_as_they_stand(config, output / "seed0" / "std", Path(folder))[0])


def _one_seed(config: Config, folder: Path, seed: int) -> dict[str, float]:
    """Top-1 of the teachers, the plain student and the STD student of one seed."""
    from mixstill.distill.placement import Placement
    from mixstill.teaching import resolve_teachers
    from mixstill.train.run import CONFIG_FILE, saved_summary, train

    seeded = replace(config, train=replace(config.train, seed=seed))
    taught = resolve_teachers(seeded, folder / "std", seed=seed)
    plain = replace(seeded, distill=replace(seeded.distill, teachers=()), mi=replace(seeded.mi, weight=0.0))
    found = {}
    for text in taught.distill.teachers:
        source = Placement.parse(text).teacher
        summary = saved_summary(Path(source))
        if summary is not None:
            found[f"teacher {Path(source).name}"] = float(summary["top1"])
    for name, run, its in (("plain student", folder / "plain", plain), ("STD student", folder / "std", taught)):
        tell(f"seed {seed}: {name}")
        found[name] = float(train(its, run, resume=(run / CONFIG_FILE).exists())["top1"])
    return found


def _print(result: dict[str, Any], output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from mixstill.spread import shown

    seeds = len(result["seeds"])
    table = Table(title=f"{result['recipe']}: top-1 on test after the last epoch, {seeds} seeds")
    single = result["seeds"] if seeds <= 5 else []  # more do not fit on a terminal; demo.json has them all
    for heading in ("", "mean ± std", *(f"seed {seed}" for seed in single)):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in result["top1"].items():
        table.add_row(name, shown(row), *(f"{value:.2f}" for value in row["values"] if single))
    Console(file=lossy(sys.stdout)).print(table)
    gain = result["gain"]
    print(f"STD student minus plain student: {shown(gain, '+')} points (same seeds, steps and data)")
    print(f"The runs are in {output}")
