"""`mixstill train [RECIPE] [--a.b value ...] [--output DIR] [--resume]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixstill.commands.choice import recipe_of
from mixstill.config import Config
from mixstill.errors import InterruptedRun, UserError
from mixstill.files import to_json
from mixstill.overrides import CommandLine, help_lines, parse
from mixstill.paths import path_of
from mixstill.telling import showing, tell
from mixstill.unused import refuse_unused

DEFAULT_RECIPE = "digits"
RUNS = Path("runs")

USAGE = """usage: mixstill train [RECIPE] [--init-from RUN] [--FIELD VALUE ...] [--output DIR] [--resume]

RECIPE is a shipped recipe (see `mixstill recipes`) or a YAML file. Without one: the recipe that fits --dataset or
what lies in --data-dir (photos for a folder of photos), or the digits where neither is given.
Teachers that are recipes are taken from a finished run beside the output, or trained first.
With --init-from the weights are those of RUN, resized to --input-size; without a RECIPE, the config is RUN's too.

  --output DIR   the run directory [runs/RECIPE; with --init-from runs/NAME-Npx]
  --resume       go on with the run in DIR, exactly where its checkpoint stands
  --quiet        print nothing but the result, and of damage
  --json         print the summary as JSON

Fields of the config:
""" + "\n".join(help_lines())


def main(argv: list[str]) -> None:
    """Train, or go on with, one run."""
    line = parse(argv, flags=("resume", "quiet", "json"), values=("output",))
    if len(line.words) > 1:
        raise UserError(f"train: takes one recipe, got {' '.join(line.words)}")
    resume, quiet = "resume" in line.options, "quiet" in line.options
    saved = resume and not line.words and "output" in line.options  # tells its config itself
    recipe = None if saved else recipe_of(line)
    path = output_of(line, recipe, resume=resume)

    from mixstill.train.processes import joined

    with joined() as processes:
        summary = _train(line, recipe, path, processes.main, resume=resume, quiet=quiet or not processes.main)
    if not processes.main:
        return
    if "json" in line.options:
        print(to_json(summary))
        return
    with showing():
        print(f"* Acc@1 {summary['top1']:.3f} Acc@5 {summary['top5']:.3f} loss {summary['loss']:.3f}  {path}")


def _train(
    line: CommandLine, recipe: str | None, path: Path, main: bool, *, resume: bool, quiet: bool
) -> dict[str, Any]:
    from mixstill.distill.starting import resumed_config
    from mixstill.stored import ALL, TEACHERS, Stored
    from mixstill.teaching import found_again, resolve_teachers, teachers_of_run
    from mixstill.train.device import command_settings
    from mixstill.train.run import CONFIG_FILE, check_output, saved_config, train

    if resume and (recipe or _source(line)) is not None and not (path / CONFIG_FILE).exists():
        if main:
            tell(f"mixstill: there is no run in {path} to go on with; a new one begins")
        resume = False
    if resume:
        begun = saved_config(path)
        saved = found_again(begun, path)
        named = resumed_config(recipe, line.config, saved)
        refuse_unused(named, line.config)
        config = teachers_of_run(named, saved)
        taken = ALL if recipe is None else TEACHERS if config != named else ()
        if not Stored(path / CONFIG_FILE, begun).own:
            Stored(path / CONFIG_FILE, saved).check(taken, line.config)
    else:
        config = config_of(line, recipe)
        check_output(config, path, resume=False)
    with command_settings(config.train):
        config = config if resume else resolve_teachers(config, path, quiet=quiet)
        try:
            return train(config, path, resume=resume, quiet=quiet)
        except InterruptedRun as error:
            text = f"{error}; go on with: mixstill train --resume --output {path}"
            raise InterruptedRun(error.signal, text) from error


def _source(line: CommandLine) -> str | None:
    """Where the weights to start from lie."""
    found: str | None = line.config.get("model", {}).get("init_from")
    return found


def config_of(line: CommandLine, recipe: str | None) -> Config:
    """The config of a new run by these words."""
    from mixstill.distill.starting import starting_config

    config = starting_config(recipe if _source(line) else recipe or DEFAULT_RECIPE, line.config)
    refuse_unused(config, line.config)
    return config


def output_of(line: CommandLine, recipe: str | None, *, resume: bool = False) -> Path:
    """The directory of a run by these words."""
    if "output" in line.options:
        return path_of(line.options["output"], "output")
    source = _source(line)
    if resume and recipe is None and source is None:
        raise UserError("resume: say which run by --output DIR")
    if source is not None:
        from mixstill.distill.classifier import EMA_FILE, WEIGHTS_FILE

        if Path(source).name in (WEIGHTS_FILE, EMA_FILE):  # a run's own files are called alike in each
            source = str(Path(source).resolve().parent)
    path = RUNS / path_of(recipe or source or DEFAULT_RECIPE, "recipe").resolve().stem
    size = line.config.get("data", {}).get("input_size")
    if source is None or (recipe is not None and size is None and path.resolve() != Path(source).resolve()):
        return path
    return path.with_name(f"{path.name}-tuned" if size is None else f"{path.name}-{size}px")
