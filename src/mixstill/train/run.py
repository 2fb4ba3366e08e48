"""A run is a directory: made from a config, trained, resumed, and closed with weights and a summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from mixstill.config import Config
from mixstill.distill.classifier import EMA_FILE, WEIGHTS_FILE, save_student
from mixstill.distill.sizes import count_parameters
from mixstill.errors import UserError, one_line
from mixstill.files import write_json
from mixstill.lock import holder, locked
from mixstill.paths import path_of, read_regular
from mixstill.schema import differences, from_dict, read_yaml, to_dict, write_yaml
from mixstill.stored import Stored, remember
from mixstill.texts import parse_object
from mixstill.train.build import build
from mixstill.train.checkpoints import LAST, Checkpoints
from mixstill.train.device import machine
from mixstill.train.evaluate import main_head, plain
from mixstill.train.journal import Journal
from mixstill.train.loop import fit
from mixstill.train.processes import Processes, joined
from mixstill.train.progress import Display
from mixstill.train.source import commit
from mixstill.train.tracker import Backend, open_tracker
from mixstill.train.trial import examine_teachers

CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
CHECKPOINT = Path(CHECKPOINTS, LAST)
_RESULTS = (METRICS_FILE, SUMMARY_FILE, WEIGHTS_FILE, EMA_FILE)  # there is a checkpoint before any of them


def saved_config(path: Path) -> Config:
    """The config of the run in `path`. Raises `UserError` if there is none."""
    if not (path / CONFIG_FILE).exists():
        raise UserError(f"resume: {str(path)!r} holds no run (no {CONFIG_FILE})")
    return from_dict(read_yaml(path / CONFIG_FILE))


def saved_summary(path: Path) -> dict[str, Any] | None:
    """What the run in `path` came to; None where it has not ended."""
    file = path / SUMMARY_FILE
    if not file.exists():
        return None
    try:
        summary = parse_object(read_regular(file))
        if not {"complete", "top1", "top5", "loss"} <= summary.keys():
            raise ValueError("it is no summary of a run")
        odd = next((name for name in ("top1", "top5", "loss") if type(summary[name]) not in (int, float)), None)
        if odd is not None or type(summary["complete"]) is not bool:
            raise ValueError(f"its {odd or 'complete'} is no {'number' if odd else 'true or false'}")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {one_line(error)}") from error
    return summary


def complete_summary(path: Path) -> dict[str, Any] | None:
    """What the run in `path` came to; None unless it was trained to its end."""
    summary = saved_summary(path)
    return summary if summary is not None and summary["complete"] else None


def check_output(config: Config, path: Path, resume: bool) -> None:
    """Raises `UserError` unless `config` may be trained in `path`: a new run in a free place, an old one unchanged."""
    if path.exists() and not path.is_dir():
        raise UserError(f"output: {str(path)!r} is not a directory; choose another --output")
    if not resume:
        found = [name for name in (CONFIG_FILE, CHECKPOINTS, *_RESULTS) if (path / name).exists()]
        held = holder(path) if found else None
        if held is not None:
            raise UserError(f"output: {str(path)!r} is being worked in by {held}")
        if CONFIG_FILE in found:
            raise UserError(
                f"output: {str(path)!r} already holds a run; go on with --resume, or choose another --output"
            )
        if found:
            raise UserError(
                f"output: {str(path)!r} already holds {found[0]} of a run, but no {CONFIG_FILE} to go on by; choose "
                "another --output"
            )
        return
    saved = saved_config(path)
    Stored(path / CONFIG_FILE, saved).check_links(path)
    changed = differences(saved, config)
    if changed:
        raise UserError(f"resume: the config is not the one of {str(path)!r}: {'; '.join(changed)}")
    kept = [name for name in _RESULTS if (path / name).exists() and (path / name).stat().st_size]
    if kept and not Checkpoints(path / CHECKPOINTS).there and complete_summary(path) is None:
        raise UserError(
            f"resume: {str(path)!r} holds {kept[0]}, but no checkpoint ({CHECKPOINT}) to go on from; put it back, or "
            "begin anew with another --output"
        )


def _hold(path: Path, processes: Processes, held: ExitStack, check: Callable[[], None]) -> None:
    """Lock the run directory while `held` lasts, and look into it again; all processes are refused alike."""
    refused = set()
    if processes.main:
        try:
            held.enter_context(locked(path))
            check()  # another process may have been here
        except UserError as error:
            refused.add(str(error))
    for text in processes.union(refused):
        raise UserError(text)


def train(
    config: Config, path: Path, *, resume: bool = False, quiet: bool = False, tracker: Backend | None = None
) -> dict[str, Any]:
    """Train the run of `config` in the directory `path` to its end, and return its summary.

    The process is left as it was, its global generators among it. `train.threads` is for the command line to set
    (`train.device.command_settings`); a program calls `torch.set_num_threads` itself. Two runs in two threads give what
    they give one after the other.

    Args:
        config: the resolved config.
        path: the run directory; it is made once all that the run needs was found.
        resume: go on from the checkpoint of the run in `path`. A run that is complete only gives its summary.
        quiet: print nothing, but of damage.
        tracker: shows the metrics beside metrics.jsonl, in the place of the config's `train.tracker`.

    Raises:
        UserError: a directory that holds a run already, or that another process works in, a config that is not the
            resumed run's, a checkpoint that is damaged like the one before it, or a teacher, data set or model that
            cannot be had or does not fit.
        RunError: a loss that is not finite.
        InterruptedRun: SIGINT, SIGTERM or SIGHUP, after a checkpoint.
    """
    check_output(config, path, resume)
    before = complete_summary(path) if resume else None
    if before is not None:
        return before
    with joined() as processes, ExitStack() as held:
        hold = partial(_hold, path, processes, held, partial(check_output, config, path, resume))
        if resume:
            hold()
        display = Display(path.name, quiet=quiet or not processes.main)
        return _train(config, path, display, resume, processes, tracker, hold)


def _located(config: Config) -> Config:
    """`config` with the cache as it is found from any folder."""
    path = config.distill.cache
    full = None if path is None else str(path_of(path, "distill.cache").resolve())
    return replace(config, distill=replace(config.distill, cache=full))


def _train(
    config: Config,
    path: Path,
    display: Display,
    resume: bool,
    processes: Processes,
    tracker: Backend | None,
    hold: Callable[[], None],
) -> dict[str, Any]:
    began, code = time.monotonic(), commit()
    checkpoints = Checkpoints(path / CHECKPOINTS, processes)
    again, resume = resume, resume and checkpoints.there
    begun = saved_config(path).train.compile if resume else None
    job = build(config, processes, resumed=resume, begun=begun)
    config = replace(config, train=replace(config.train, compile=job.stepper.compiler.mode))
    config = _located(replace(config, data=job.config.data))
    state, batches = job.state, job.batches

    # examine
    said = [] if resume else examine_teachers(job)

    # begin, or resume
    processes.wait()  # until everyone has looked into the directory
    if not again:
        if processes.main:
            path.mkdir(parents=True, exist_ok=True)
        hold()
    if resume:
        checkpoints.restore(state, display.warn if processes.main else lambda _: None)
        display.say(f"resumed at step {state.step} of {batches.total}")
    if processes.main:
        write_yaml(config, path / CONFIG_FILE)
        remember(config, path)
    if not resume:
        checkpoints.save(state)  # so there is one wherever there are metrics

    # train
    for line in [*job.started, *job.unmeasured(), *batches.about(), *said]:
        display.say(line)
    display.say(f"{len(batches.data)} training images, {batches.per_epoch} steps per epoch, on {job.device}")
    job.stepper.compiler.begin(display.say)
    answers = job.stepper.answers
    answers.begin(state.step, batches.last, display.say)
    tracked = (tracker or config.train.tracker) if processes.main else None
    with open_tracker(tracked, path, to_dict(config), step=state.step, say=display.say) as opened:
        journal = Journal(path / METRICS_FILE, state.step, processes, opened)
        score = partial(job.score, state.student, job.measured[0])
        final = fit(state, batches, job.stepper, score, journal, checkpoints, display)

    # close
    known = {} if final is None else {job.measured[0]: final}
    scores = {split: known.get(split) or job.score(state.student, split) for split in job.measured}
    last = job.measured[-1]
    result = main_head(scores[last])
    averaged = None
    if state.ema is not None:
        averaged = {split: plain(job.score(state.ema.module, split)) for split in job.measured}
    corrupt = processes.union({name for split in job.splits.values() for name in split.corrupt})
    if corrupt:
        display.say(f"left out {len(corrupt)} corrupt images: {', '.join(corrupt[:5])}{', ...' * (len(corrupt) > 5)}")
    summary = {
        "complete": state.step == batches.total,
        "step": state.step,
        "steps": batches.total,
        "epochs": config.train.epochs,
        **asdict(result),
        "split": last,
        "heads": {split: plain(found) for split, found in scores.items()},
        "ema": averaged,
        "parameters": count_parameters(state.student),
        "backbone_parameters": count_parameters(state.student.backbone),
        "teachers": dict(zip(job.teachers.module_names, config.distill.teachers, strict=True)),
        "corrupt": corrupt,
        "answers": {"replayed": answers.replayed, "asked": answers.asked} if answers.caches else None,
        "seconds": round(time.monotonic() - began, 1),
        "processes": processes.count,
        "machine": machine(job.device),
        "commit": code,
        "config": to_dict(config),
    }
    if processes.main:
        save_student(path / WEIGHTS_FILE, state.student, config, job.facts)
        if state.ema is not None:
            save_student(path / EMA_FILE, state.ema.module, config, job.facts)
        write_json(path / SUMMARY_FILE, summary)
    processes.wait()
    display.say(f"{'done' if summary['complete'] else 'stopped'} at step {state.step}: {result}")
    return summary
