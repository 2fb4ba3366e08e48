"""Drives timm's train.py, from its checkout: with one teacher (`kd`), or plain."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from session import Session, serve
from task import Task
from their import surroundings, taken_over
from torch import Tensor

import mixstill  # noqa: F401  (registers Mixer-S/4 for 32 pixels: timm's own class in a size that timm has no name for)


def run(task: Task, session: Session) -> None:
    """The script's main, with the words of `words`."""
    surroundings(task, session)
    session.shims.append("import mixstill: the student's and the teacher's sizes have names in timm's registry")
    sys.path.insert(0, task.checkout)
    sys.argv = ["train.py", *words(task)]
    script: Any = import_module("train")
    script.train_one_epoch = taken_over(script.train_one_epoch, task, session, start=lambda model: None, teach=teach)
    script.main()


def words(task: Task) -> list[str]:
    """The script's command line."""
    given = ["--data-dir", task.path("pickles"), "--dataset", "torch/cifar100", "--num-classes", "100"]
    given += ["--model", task.student]
    if task.race != "epoch":
        given += ["--initial-checkpoint", task.path("start", f"{task.student}.safetensors")]
    given += ["-b", str(task.batch_size), "-j", str(task.workers), "--device", task.device]
    given += ["--aa", "rand-m9-mstd0.5-inc1", "--reprob", "0.25", "--mixup", "0.8", "--cutmix", "1.0"]
    given += ["--train-interpolation", "bicubic", "--smoothing", "0.1", "--drop-path", "0"]
    given += ["--opt", "adamw", "--weight-decay", "0.05", "--lr", str(5e-4 * task.batch_size / 512)]
    given += ["--warmup-epochs", "0", "--epochs", "1" if task.race == "epoch" else "300"]
    given += ["--output", task.path("timm"), "--experiment", f"{task.variant}-{task.precision}"]
    if task.variant == "kd" and task.race != "student":
        given += ["--kd-model-name", f"local-dir:{task.path('teachers', task.teachers[1])}"]
        given += ["--kd-temperature", "3.0", "--task-loss-weight", "0.9"]
    given += ["--torchcompile"] if task.compiled and task.race != "epoch" else []  # it would not pay there
    given += ["--channels-last"] if task.precision == "best" else []
    given += ["--amp", "--amp-dtype", "bfloat16"] if task.amp else []
    return given + (["--pin-mem"] if task.device == "cuda" else [])


def teach(given: dict[str, Any]) -> Callable[[Tensor], Any]:
    """Its teacher on a batch, as its task asks it."""
    task = given["task"]

    @torch.no_grad()
    def answers(images: Tensor) -> Any:
        with given["amp_autocast"]():
            return task.teacher(task.teacher.normalize_input(images, task.student_mean, task.student_std))

    return answers


if __name__ == "__main__":
    serve(run)
