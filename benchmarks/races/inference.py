"""The class head of a student whose modules were taken off, or timm's own model with the same weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import timm
import torch
from duels import config
from safetensors.torch import load_file
from session import Session, serve
from task import Task
from their import fixed_batch, start_from
from torch import nn
from torch.nn.functional import cross_entropy

from mixstill.distill.classifier import Facts, build_student, load_classifier, save_student
from mixstill.distill.strip import strip
from mixstill.normalisation import CIFAR100
from mixstill.train.memory import keep_freed_memory


def run(task: Task, session: Session) -> None:
    """Forward passes of the fixed batch; as the loss stands the cross-entropy with its targets."""
    keep_freed_memory()  # as `mixstill eval` does; else chance gives one of the two more page faults than the other
    model = (stripped(task) if task.variant == "stripped" else own(task)).to(task.device).eval()
    images, targets = fixed_batch(task)
    called = torch.compile(model) if task.compiled else model
    for steps in session.turns(parameters=sum(p.numel() for p in model.parameters())):
        for _ in range(steps):
            with torch.inference_mode(), torch.autocast(task.device, torch.bfloat16, enabled=task.amp):
                session.losses.append(cross_entropy(called(images), targets))


def own(task: Task) -> nn.Module:
    """timm's model."""
    model = timm.create_model(task.student, num_classes=100)
    start_from(model, load_file(task.path("start", f"{task.student}.safetensors")))
    return model


def stripped(task: Task) -> nn.Module:
    """The student with its modules, written, read and stripped, as timm loads what is left."""
    chosen = config(task)
    student = build_student(chosen, 100)
    start_from(student.backbone, load_file(task.path("start", f"{task.student}.safetensors")))
    folder = Path(tempfile.mkdtemp(dir=task.folder))
    save_student(folder / "student.safetensors", student, chosen, Facts(100, None, *CIFAR100, 32))
    strip(load_classifier(str(folder / "student.safetensors")), folder / "plain")
    return timm.create_model(f"local-dir:{folder / 'plain'}", pretrained=True)


if __name__ == "__main__":
    serve(run)
