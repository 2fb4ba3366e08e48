"""All that a run is made of, from its config: built and checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from mixstill import rng
from mixstill.config import CompileMode, Config
from mixstill.data import SplitName, cut, load_splits, measured
from mixstill.data.split import Split
from mixstill.distill.classifier import Facts, build_student, sketch_student
from mixstill.distill.objective import Objective
from mixstill.distill.starting import start
from mixstill.distill.student import Student
from mixstill.distill.teachers import Teachers
from mixstill.errors import UserError, many, one_line
from mixstill.models.create import create_backbone, pixels
from mixstill.train.answers import Answers
from mixstill.train.batch import Batches
from mixstill.train.compiling import choose
from mixstill.train.device import host_memory, pick_device
from mixstill.train.evaluate import Score, evaluate
from mixstill.train.keys import open_caches
from mixstill.train.optim import build_optimizer
from mixstill.train.processes import ALONE, Processes
from mixstill.train.state import State
from mixstill.train.step import Stepper
from mixstill.train.tracker import check_tracker
from mixstill.views import check as check_views

_BYTES, _BYTES_TRAINED = 4, 16  # per parameter: the weight; with its gradient and AdamW's two moments


@dataclass(frozen=True, eq=False)
class Job:
    """A run before its first step; `measured` are the splits that it is evaluated on, the first in each evaluation.

    The last of them is the one that its result is of: test, or val where the data have no test part.
    `started` tells what the student has of the weights of `model.init_from`.
    """

    config: Config
    device: torch.device
    facts: Facts
    splits: Mapping[SplitName, Split]
    measured: Sequence[SplitName]
    teachers: Teachers
    state: State
    batches: Batches
    stepper: Stepper
    started: Sequence[str] = ()

    def unmeasured(self) -> list[str]:
        """A line where there is no test part to measure on."""
        if "test" in self.measured:
            return []
        count, share = many(len(self.splits["val"]), "image"), self.config.data.val_fraction
        return [f"measured on val: {count}, {share} of each class of train, as the data have no test part"]

    def score(self, model: nn.Module, split: SplitName) -> dict[str, Score]:
        """The score of every head of `model` on one of the splits; raises as `evaluate`."""
        return evaluate(
            model,
            self.splits[split],
            mean=self.facts.mean,
            std=self.facts.std,
            input_size=self.facts.input_size,
            batch_size=self.config.train.eval_batch_size,
            amp=self.config.train.amp,
            processes=self.stepper.processes,
            place=f"step {self.state.step}, {split}",
        )


def check_config(config: Config) -> None:
    """Raises `UserError` for what can be found wrong without data and weights, which costs next to nothing."""
    check_views(config.views)
    check_tracker(config.train.tracker)
    student = sketch_student(config)
    check_room(student, config)
    build_optimizer(config.optim, student)
    if config.train.grad_checkpointing:
        checkpoint_gradients(student.backbone, config.model.name)


def check_room(student: Student, config: Config) -> None:
    """Raises `UserError` where the weights, made on the CPU, or their training there, exceed the machine's memory."""
    there, trained = host_memory(), pick_device(config.train.device).type == "cpu"
    count = sum(math.prod(parameter.shape) for parameter in student.parameters())
    needed = count * (_BYTES_TRAINED if trained else _BYTES)
    if needed > there:
        raise UserError(
            f"model: {config.model.name!r} with {config.model.kwargs} has {count:,} parameters and needs "
            f"{needed / 1e9:,.0f} GB; this machine has {there / 1e9:,.0f} GB"
        )


def build(
    config: Config, processes: Processes = ALONE, *, resumed: bool = False, begun: CompileMode | None = None
) -> Job:
    """The run of a resolved config. One that is `resumed` needs no weights to start from (`model.init_from`).

    `begun` tells whether it was compiled before.

    Raises `UserError` for a device, data set, model or teacher that cannot be had or does not fit the others.
    """
    check_config(config)
    device, size = pick_device(config.train.device), student_pixels(config)
    config = replace(config, data=cut(config.data))
    names = measured(config.data)
    splits = load_splits(config.data, ["train", *names], device, size, views=config.views, seed=config.train.seed)
    data = splits["train"]
    facts = Facts.of(data, size)
    student = build_student(config, facts.num_classes)
    started = [] if resumed else start(student, config, facts)
    student.to(device)
    teachers = Teachers(student.placements, facts).to(device)
    check_forward(student, config, size)
    if config.train.grad_checkpointing:
        checkpoint_gradients(student.backbone, config.model.name)
    if config.train.sync_bn and device.type != "cuda":
        raise UserError(f"train.sync_bn: True is not valid on {device}; PyTorch has it for CUDA only")
    if config.train.sync_bn and processes.count > 1:
        student.backbone = cast(Any, nn.SyncBatchNorm).convert_sync_batchnorm(student.backbone)
    batches = Batches(data, config, size, processes)
    about = f"{len(data)} images of {len(data.classes)} classes"
    state = State.start(config, student, about, batches.total, teachers.digest())
    check_parts(batches, state)
    batches, stepper = make_stepper(config, device, facts, teachers, batches, begun)
    return Job(config, device, facts, splits, names, teachers, state, batches, stepper, started)


def make_stepper(
    config: Config,
    device: torch.device,
    facts: Facts,
    teachers: Teachers,
    batches: Batches,
    begun: CompileMode | None = None,
) -> tuple[Batches, Stepper]:
    """The batches and the stepper of a run, compiled and with caches where it is to have them.

    Raises `UserError` for caches that hold something else, and for a compilation that cannot be.
    """
    compiler = choose(config, device, batches, begun)
    batches = replace(batches, compiled=compiler.mode != "never" and device.type == "cuda")
    caches = open_caches(config, teachers, batches, facts)  # by the weights as they were loaded
    if config.train.amp:
        teachers.round_weights()
    objective = Objective(
        config.distill, config.train.smoothing, teachers.module_names, teachers.module_teacher, teachers.names
    )
    answers = Answers(teachers, batches, caches, compiler.of(teachers))
    return batches, Stepper(config, teachers, objective, batches.processes, answers, compiler)


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


def check_parts(batches: Batches, state: State) -> None:
    """Raises `UserError` if a batch has too few samples for its processes, or for the regulariser's pairs."""
    count = batches.processes.count
    if batches.size < 2 * count and count > 1:
        raise UserError(f"train.batch_size: {batches.size} samples are too few for {count} processes; give 2 to each")
    if state.information is not None and batches.size < 2:
        raise UserError(f"mi.weight: the regulariser needs 2 samples or more in a batch, got {batches.size}")


def checkpoint_gradients(backbone: nn.Module, name: str) -> None:
    """Have the backbone compute activations again in the backward pass. Raises `UserError` if it cannot."""
    try:
        cast(Any, backbone).set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise UserError(f"train.grad_checkpointing: {name!r} does not support it; leave it out") from error


@rng.borrowed()
def student_pixels(config: Config) -> int:
    """Pixels per side of what the student sees."""
    if config.data.input_size is not None:
        return config.data.input_size
    with torch.device("meta"):
        return pixels(create_backbone(config.model.name, 1, kwargs=config.model.kwargs))
