"""Drives DeiT's main.py, from its checkout: hard distillation to a token, or plain."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from session import Session, serve
from task import Task
from their import start_from, surroundings, taken_over
from timm.data import transforms
from torch import Tensor, nn

import mixstill  # noqa: F401  (registers the students and teachers)


def run(task: Task, session: Session) -> None:
    """The script as it is run, with the words of `words`."""
    surroundings(task, session)
    cast(Any, transforms)._pil_interp = transforms.str_to_pil_interp
    session.shims.append("timm.data.transforms._pil_interp: the name that timm 0.4 had for str_to_pil_interp")
    session.shims.append("import mixstill: the student's and the teacher's sizes have names in timm's registry")
    session.shims.append("model: the race's starting weights; in training it tells its two heads apart")
    sys.path.insert(0, task.checkout)
    engine: Any = import_module("engine")
    engine.train_one_epoch = taken_over(engine.train_one_epoch, task, session, start=starter(task), teach=teach)
    sys.argv = ["main.py", *words(task)]
    runpy.run_path(str(Path(task.checkout, "main.py")), run_name="__main__")


def student(task: Task) -> str:
    """The name of the model that it trains."""
    return task.student if task.race == "student" else task.token_student


def words(task: Task) -> list[str]:
    """The script's command line."""
    given = ["--data-set", "CIFAR", "--data-path", task.path("pickles"), "--num_workers", str(task.workers)]
    given += ["--model", student(task), "--input-size", "32", "--drop-path", "0"]
    given += [] if task.race == "epoch" else ["--no-model-ema"]  # without one, its checkpoint cannot be written
    given += ["--batch-size", str(task.batch_size), "--lr", "5e-4", "--warmup-epochs", "0"]
    given += ["--epochs", "1" if task.race == "epoch" else "300", "--device", task.device]
    given += ["--output_dir", task.path("deit")]
    if task.race != "student":
        given += ["--distillation-type", "hard", "--teacher-model", task.teachers[1]]
        given += ["--teacher-path", task.path("teachers", f"{task.teachers[1]}.pth")]
    return given + (["--no-pin-mem"] if task.device == "cpu" else [])


def starter(task: Task) -> Callable[[nn.Module], None]:
    """Puts the student's weights into the program's model."""
    weights = load_file(task.path("start", f"{student(task)}.safetensors"))

    def start(model: nn.Module) -> None:
        if task.race != "epoch":
            start_from(model, weights)
        if task.race != "student":
            cast(Any, model).set_distilled_training(True)

    return start


def teach(given: dict[str, Any]) -> Callable[[Tensor], Any]:
    """Its teacher on a batch."""

    @torch.no_grad()
    def answers(images: Tensor) -> Any:
        return given["criterion"].teacher_model(images)

    return answers


if __name__ == "__main__":
    serve(run)
