"""A run is a directory: made from a config, trained, resumed, and closed with weights and a summary."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mixstill.config import Config
from mixstill.data import load_splits
from mixstill.data.loading import SplitName
from mixstill.distill.classifier import EMA_FILE, WEIGHTS_FILE, Facts, build_student, save_student
from mixstill.distill.objective import Objective
from mixstill.distill.student import Student
from mixstill.distill.teachers import Teachers
from mixstill.errors import RunError, UserError, one_line
from mixstill.files import write_json
from mixstill.models.create import create_backbone, pixels
from mixstill.schema import differences, from_dict, read_yaml, to_dict, write_yaml
from mixstill.train.batch import Batches
from mixstill.train.device import machine, pick_device
from mixstill.train.evaluate import Score, evaluate, main_head, plain
from mixstill.train.loop import fit
from mixstill.train.progress import Display
from mixstill.train.state import State
from mixstill.train.step import Stepper

CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT = Path("checkpoints", "last.pt")


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
        summary = json.loads(file.read_text(encoding="utf-8"))
        if not {"complete", "top1", "top5", "loss"} <= summary.keys():
            raise ValueError("it is no summary of a run")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read: {one_line(error)}") from error
    return cast(dict[str, Any], summary)


def check_output(config: Config, path: Path, resume: bool) -> None:
    """Raises `UserError` unless `config` may be trained in `path`: a new run in a free place, an old one unchanged."""
    if path.exists() and not path.is_dir():
        raise UserError(f"output: {str(path)!r} is not a directory")
    if not resume and ((path / CONFIG_FILE).exists() or (path / CHECKPOINT).exists()):
        raise UserError(f"output: {str(path)!r} already holds a run; go on with --resume, or choose another --output")
    if resume:
        changed = differences(saved_config(path), config)
        if changed:
            raise UserError(f"resume: the config is not the one of {str(path)!r}: {'; '.join(changed)}")


def train(config: Config, path: Path, *, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train the run of `config` in the directory `path` to its end, and return its summary.

    Args:
        config: the resolved config.
        path: the run directory; it is made once all that the run needs was found.
        resume: go on from the checkpoint of the run in `path`. A run that is complete only gives its summary.
        quiet: print nothing.

    Raises:
        UserError: a directory that holds a run already, a config that is not the resumed run's, or a teacher, data
            set or model that cannot be had or does not fit.
        RunError: a loss that is not finite.
        InterruptedRun: SIGINT or SIGTERM, after a checkpoint.
    """
    check_output(config, path, resume)
    before = saved_summary(path) if resume else None
    if before is not None and before["complete"]:
        return before
    with _threads(config.train.threads):
        return _train(config, path, Display(path.name, quiet=quiet), resume)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """`count` CPU threads while entered; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(config: Config, path: Path, display: Display, resume: bool) -> dict[str, Any]:
    device = pick_device(config.train.device)
    began = time.monotonic()

    # build
    size = student_pixels(config)
    measured: list[SplitName] = ["val", "test"] if config.data.val_fraction else ["test"]
    splits = load_splits(config.data, ["train", *measured], device, size)
    data = splits["train"]
    facts = Facts(len(data.classes), data.classes, data.mean, data.std, size)
    student = build_student(config, facts.num_classes).to(device)
    teachers = Teachers(student.placements, facts).to(device)
    objective = Objective(
        config.distill, config.train.smoothing, teachers.module_names, teachers.module_teacher, teachers.names
    )
    state = State.start(config, student)
    batches = Batches(data, config, size)

    check_forward(student, config, size)
    check_pairs(config, state, min(len(data), config.train.batch_size))

    # begin, or resume
    (path / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    write_yaml(config, path / CONFIG_FILE)
    checkpoint = path / CHECKPOINT
    if resume and checkpoint.exists():
        state.restore(checkpoint)
        display.say(f"resumed at step {state.step} of {batches.total}")

    def score(model: nn.Module, split: SplitName) -> dict[str, Score]:
        return evaluate(
            model,
            splits[split],
            mean=facts.mean,
            std=facts.std,
            input_size=size,
            batch_size=config.train.eval_batch_size,
            amp=config.train.amp,
        )

    # train
    skipped = [name for split in splits.values() if split is not splits.get("val") for name in split.skipped]
    if skipped:
        display.say(f"left out {len(skipped)} corrupt images: {', '.join(skipped[:5])}{', ...' * (len(skipped) > 5)}")
    display.say(f"{len(data)} training images, {batches.per_epoch} steps per epoch, on {device}")
    final = fit(
        state,
        batches,
        Stepper(config, teachers, objective),
        lambda: score(student, measured[0]),
        path / METRICS_FILE,
        checkpoint,
        display,
    )

    # close
    scores = {split: final if final and split == measured[0] else score(student, split) for split in measured}
    if not math.isfinite(main_head(scores["test"]).loss):
        raise RunError(f"step {state.step}: the loss on test is {main_head(scores['test']).loss}")
    save_student(path / WEIGHTS_FILE, student, config, facts)
    if state.ema is not None:
        save_student(path / EMA_FILE, state.ema.module, config, facts)
    summary = {
        "complete": state.step == batches.total,
        "step": state.step,
        "steps": batches.total,
        "epochs": config.train.epochs,
        **asdict(main_head(scores["test"])),
        "split": "test",
        "heads": {split: plain(found) for split, found in scores.items()},
        "ema": None if state.ema is None else {split: plain(score(state.ema.module, split)) for split in measured},
        "parameters": count_parameters(student),
        "backbone_parameters": count_parameters(student.backbone),
        "teachers": dict(zip(teachers.module_names, config.distill.teachers, strict=True)),
        "skipped": skipped,
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(device),
        "config": to_dict(config),
    }
    write_json(path / SUMMARY_FILE, summary)
    display.say(f"{'done' if summary['complete'] else 'stopped'} at step {state.step}: {main_head(scores['test'])}")
    return summary


@torch.no_grad()
def check_forward(student: Student, config: Config, size: int) -> None:
    """Raises `UserError` if the student does not give logits [B,K] for images of `size` pixels."""
    parameter = next(student.parameters())
    try:
        logits = student.eval()(parameter.new_zeros(2, 3, size, size)).logits
        if logits.shape != (2, student.num_classes):
            raise ValueError(f"its class head gives the shape {list(logits.shape)}")
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        text = one_line(error, 160)
        raise UserError(f"model: {config.model.name!r} cannot be trained on {size} pixels in RGB: {text}") from error


def check_pairs(config: Config, state: State, batch: int) -> None:
    """Raises `UserError` if the regulariser would get a sample without another one to pair it with."""
    parts = 1 if config.mi.every == "epoch" else config.train.micro_batches
    if state.information is not None and batch // parts < 2:
        raise UserError(
            f"mi.weight: the regulariser needs 2 samples or more at once, but a batch of {batch} in {parts} parts "
            "has fewer; raise train.batch_size or lower train.micro_batches"
        )


def count_parameters(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def student_pixels(config: Config) -> int:
    """Pixels per side of what the student sees."""
    if config.data.input_size is not None:
        return config.data.input_size
    with torch.device("meta"):
        return pixels(create_backbone(config.model.name, 1, kwargs=config.model.kwargs))
