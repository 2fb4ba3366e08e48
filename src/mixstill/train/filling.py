"""Filling the caches of a run ahead: each batch is put to the teachers, and no student is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from mixstill.errors import InterruptedRun, UserError
from mixstill.train.build import Job
from mixstill.train.progress import Display
from mixstill.train.signals import StopSignal


def fill(job: Job, display: Display) -> int:
    """Store the answers to all steps of the run that its caches lack, and tell how many steps those were.

    A record that is damaged is made anew.

    Raises:
        UserError: a cache that holds other answers, or that cannot be written to.
        RunError: an answer that is not finite.
        OSError: the disk is full, or cannot be written to.
        InterruptedRun: SIGINT, SIGTERM or SIGHUP, after what was asked for was stored.
    """
    answers, batches, processes = job.stepper.answers, job.batches, job.stepper.processes
    answers.begin(0, batches.last, display.say, strict=True)
    missing = _missing(job)
    for cache, its in zip(answers.caches, missing, strict=True):
        if its.any() and not cache.writable:
            raise UserError(f"distill.cache: {str(cache.folder)!r} cannot be written to")
    lacking = torch.nonzero(missing.any(dim=0)).squeeze(1).tolist()
    done = 0
    with StopSignal(patient=processes.count > 1) as stop, display.running(0, len(lacking)):
        for first, end in _stretches(lacking):
            for step, parts in enumerate(batches.run(first, end), first):
                before = answers.asked
                for number, part in enumerate(parts):
                    with torch.autocast(part.images.device.type, torch.bfloat16, enabled=job.config.train.amp):
                        answers(part, *divmod(step, batches.per_epoch), number)
                done += 1
                display.advance((answers.asked - before) * batches.size)
                if done % job.config.train.log_interval == 0 or done == len(lacking):
                    display.status(done, len(lacking), f"{display.rate():.0f} answers/s")
                stopped = processes.largest(stop.number or 0)
                if stopped:
                    answers.flush()
                    processes.wait()
                    raise InterruptedRun(stopped, f"stopped after {done} of {len(lacking)} steps")
    answers.flush()
    processes.wait()
    return done


def _missing(job: Job) -> Tensor:
    """Of which steps each cache has no whole record, bool [T, steps]; the same in every process."""
    batches, caches = job.batches, job.stepper.answers.caches
    missing = torch.zeros(len(caches), batches.last, dtype=torch.int64)
    for t, cache in enumerate(caches):
        for step in range(batches.last):
            missing[t, step] = cache.load(*divmod(step, batches.per_epoch)) is None
    return job.stepper.processes.sum(missing) > 0


def _stretches(steps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending steps as ranges: the first of each, and the one after its last."""
    breaks = [n for n, (one, other) in enumerate(pairwise(steps), 1) if other > one + 1]
    for first, end in pairwise([0, *breaks, len(steps)] if steps else ()):
        yield steps[first], steps[end - 1] + 1
