"""Drives mixstill: its own loader, teachers, student and optimizer, step by step, or its command line for an epoch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from duels import config
from safetensors.torch import load_file
from session import Session, serve
from task import Task
from their import fixed_batch, start_from

from mixstill import cli
from mixstill.config import Config
from mixstill.schema import write_yaml
from mixstill.train.batch import Part
from mixstill.train.build import Job, build
from mixstill.train.optim import learning_rate
from mixstill.train.trial import time_steps


def run(task: Task, session: Session) -> None:
    """The contender's part, whichever race it is."""
    chosen = config(task)
    if task.race == "epoch":
        recipe = Path(task.path("ours.yaml"))
        write_yaml(replace(chosen, train=replace(chosen.train, compile="auto")), recipe)
        raise SystemExit(
            cli.main(["train", str(recipe), "--output", f"{tempfile.mkdtemp(dir=task.folder)}/run", "--quiet"])
        )
    if chosen.distill.cache is not None:
        ahead(task, chosen)
    job = build(chosen)
    start_from(job.state.student.backbone, load_file(task.path("start", f"{chosen.model.name}.safetensors")))
    job.state.student.train()
    parameters = sum(parameter.numel() for parameter in job.state.student.parameters())
    about = {"parameters": parameters, "settings": {"compile": chosen.train.compile, "amp": task.amp}}
    feed = job.batches.run(0, job.batches.total)
    images, targets = fixed_batch(task, "targets")
    fixed = Part(images, targets, torch.arange(len(images)), len(images), (len(images),), torch.arange(len(images)))
    for steps in session.turns(**about):
        if not steps:
            answers = job.stepper.answers
            session.noted["answers"] = {"replayed": answers.replayed, "asked": answers.asked}
            session.noted["shares"] = time_steps(job, 1).shares
        elif task.race == "views":
            for parts in islice(feed, steps):
                list(parts)
        elif task.race == "teacher":
            for _ in range(steps):
                job.stepper.compiler.begin_step()
                with torch.autocast(task.device, torch.bfloat16, enabled=task.amp):
                    job.stepper.answers.ask(images)
        elif task.race == "student":
            for _ in range(steps):
                step(job, [fixed])
        else:
            for parts in islice(feed, steps):
                step(job, parts)


def ahead(task: Task, chosen: Config) -> None:
    """Store the teachers' answers to the one epoch that the race sees of."""
    recipe = Path(task.path(f"{task.variant}.yaml"))
    write_yaml(replace(chosen, train=replace(chosen.train, epochs=1)), recipe)
    if code := cli.main(["cache", str(recipe)]):
        raise SystemExit(code)


def step(job: Job, parts: Iterable[Part]) -> None:
    """One optimizer step."""
    epoch, index = divmod(job.state.step, job.batches.per_epoch)
    rate = learning_rate(job.config, job.state.step, job.batches.per_epoch, job.batches.size)
    job.stepper.step(job.state, parts, job.batches.passes, epoch=epoch, index=index, rate=rate)


if __name__ == "__main__":
    serve(run)
