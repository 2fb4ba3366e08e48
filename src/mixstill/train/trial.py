"""A run tried out before it begins: what its steps, evaluations, memory and files cost, on its own data pipeline.

What was stepped is thrown away, and nothing is written.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from mixstill.data import Batch, Split
from mixstill.digest import DIGITS
from mixstill.distill.cache import record_bytes
from mixstill.distill.diagnosis import Examiner, held_out, misorder
from mixstill.distill.teachers import Teacher
from mixstill.errors import RunError, UserError
from mixstill.train.answers import Answers
from mixstill.train.batch import Part
from mixstill.train.build import Job
from mixstill.train.device import host_memory
from mixstill.train.keys import form_of
from mixstill.train.optim import learning_rate

WARM_UP = 3  # steps that are not measured: memory is found, kernels are chosen, workers fill their queues
MOST, LEAST = 30, 5  # steps that are measured
SECONDS = 15.0  # after which no further step is
PIECES = ("data", "teachers", "student", "optimizer")
_DISSECTED = 3  # steps in which each piece is waited for
_EVAL_SECONDS = 5.0
SAMPLES = 512  # held-out images that each teacher answers before a run; 2 of each class where that is more
_CPU_BATCH = 64  # a CPU takes as long for each image in larger batches


@dataclass(frozen=True)
class Steps:
    """What steps took, in seconds: the mean and the median of `count` of them; and each piece's share of a step."""

    count: int
    mean: float
    median: float
    shares: dict[str, float]


def examiner(job: Job, samples: int) -> Examiner:
    """Examines the teachers of a run on `samples` or more of the images that it is evaluated on."""
    return Examiner(held_out(job.splits[job.measured[0]], samples), job.facts, job.config.train.amp)


def examine_teachers(job: Job, seconds: float = 20.0) -> list[str]:
    """What is to be said of the teachers, a line each: class names, and accuracy at chance on held-out images.

    The job is left as it is. Each teacher answers 512 images or more, all where there are fewer, or as many as
    `seconds` allow.

    Raises `UserError`, in every process, for a teacher whose classes are in another order than the data's.
    """
    if not job.teachers.members:
        return []
    processes, lines, faults = job.stepper.processes, [], set()
    exam = examiner(job, max(SAMPLES, 2 * job.facts.num_classes)) if processes.main else None
    for name, member in zip(job.teachers.names, job.teachers.members, strict=True):
        teacher = cast(Teacher, member)
        if teacher.names_told is not None:
            lines.append(f"teacher {name}: {teacher.names_told}")
        if exam is None:
            continue
        found, ordered = exam.misordered(teacher, seconds)
        if ordered is not None:
            faults.add(misorder(name, found, ordered))
        elif found.at_chance:
            lines.append(f"warning: teacher {name} is at chance: {found} samples; mixstill check tells why")
    amiss = processes.union(faults)
    if amiss:
        raise UserError(f"distill.teachers: {'; '.join(amiss)}")
    return lines


def time_steps(job: Job, count: int | None = None, seconds: float = SECONDS) -> Steps:
    """Train real steps, and time them: `count`, or as many as `seconds` allow, after a warm-up.

    The pieces are timed in further steps, since waiting for each of them keeps a GPU from working ahead.
    Raises `RunError` where the loss is not finite.
    """
    most, processes = count or MOST, job.stepper.processes
    feed = job.batches.run(0, WARM_UP + most + _DISSECTED)
    job.state.student.train()
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.device)  # what examined the teachers is not part of the run
    for parts in islice(feed, WARM_UP):
        _step(job, parts)
    stamps = [_now(job)]
    for parts in islice(feed, most):
        terms = _step(job, parts)
        stamps.append(time.perf_counter())
        late = count is None and len(stamps) > LEAST and stamps[-1] - stamps[0] > seconds
        if processes.largest(late):
            break
    stamps[-1] = _now(job)
    loss = float(processes.sum(terms["total"]))
    if not math.isfinite(loss):
        raise RunError(f"step {job.state.step}: the loss is {loss}; a lower --lr or --clip-grad 1 may help")
    taken = [after - before for before, after in pairwise(stamps)]
    return Steps(len(taken), sum(taken) / len(taken), median(taken), _shares(job, feed))


def _step(job: Job, parts: Iterable[Part]) -> dict[str, Tensor]:
    state, per_epoch = job.state, job.batches.per_epoch
    epoch, index = divmod(state.step, per_epoch)
    rate = learning_rate(job.config, state.step, per_epoch, job.batches.size)
    return job.stepper.step(state, parts, job.batches.passes, epoch=epoch, index=index, rate=rate)


def _shares(job: Job, feed: Iterator[Iterator[Part]]) -> dict[str, float]:
    """Each piece's share of a few steps."""
    spent = dict.fromkeys(PIECES, 0.0)
    since = _now(job)

    def lap(piece: str) -> None:
        """What passed since the last lap was for `piece`."""
        nonlocal since
        now = _now(job)
        spent[piece] += now - since
        since = now

    def watched(parts: Iterator[Part]) -> Iterator[Part]:
        for part in parts:
            lap("data")
            yield part
            lap("student")

    answers = job.stepper.answers

    def watched_answers(*part: Any) -> Tensor | None:
        lap("student")
        found = answers(*part)
        lap("teachers")
        return found

    job.stepper.answers = cast(Answers, watched_answers)
    hook = job.state.optimizer.register_step_pre_hook(lambda *_: lap("student"))
    for parts in islice(feed, _DISSECTED):
        _step(job, watched(parts))
        lap("optimizer")
    hook.remove()
    job.stepper.answers = answers
    return {piece: time_ / sum(spent.values()) for piece, time_ in spent.items()}


def time_epoch_regulariser(job: Job) -> float:
    """Seconds of what is done once per epoch for the regulariser."""
    began = _now(job)
    job.stepper.regularise_epoch(job.state, job.batches, 0)
    return _now(job) - began


class _Paced:
    """The first batches of a split in evaluation, with the time at which each was done with."""

    def __init__(self, split: Split, job: Job) -> None:
        self.split, self.job = split, job
        self.done: list[tuple[float, int]] = []

    def eval_batches(self, batch_size: int, rank: int = 0, count: int = 1) -> Iterator[Batch]:
        began = _now(self.job)
        for batch in self.split.eval_batches(batch_size, rank, count):
            yield batch
            self.done.append((_now(self.job) - began, len(batch[1])))
            if len(self.done) > 1 and self.done[-1][0] > _EVAL_SECONDS:
                return


def time_evaluation(job: Job) -> float:
    """Seconds to evaluate the student on the first of the measured splits, worked out from a few batches.

    Where the split does not tell its size (its length is 0), the seconds that those batches took.
    """
    name, options = job.measured[0], job.config.train
    paced = _Paced(job.splits[name], job)
    size = options.eval_batch_size if job.device.type == "cuda" else min(_CPU_BATCH, options.eval_batch_size)
    config = replace(job.config, train=replace(options, eval_batch_size=size))
    replace(job, config=config, splits={name: cast(Split, paced)}).score(job.state.student, name)
    (first, warm), (last, _) = paced.done[0], paced.done[-1]  # the first bears what is paid only once
    if not len(job.splits[name]):
        return last
    more = sum(images for _, images in paced.done[1:])
    left = len(job.splits[name]) / job.stepper.processes.count - warm
    return first if not more else first + (last - first) / more * left


class _Counter:
    """A file that only counts what is written to it."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, content: Any) -> int:
        self.bytes += len(content)
        return len(content)

    def flush(self) -> None:
        pass


def checkpoint_cost(job: Job) -> tuple[int, float]:
    """Bytes of a checkpoint, and the seconds to put it together."""
    began, file = _now(job), _Counter()
    torch.save(job.state.content(), cast(Any, file))
    return file.bytes + DIGITS, _now(job) - began


def weights_size(job: Job) -> int:
    """Bytes of the weights that are left at the end, the moving average with them."""
    models = [job.state.student, *([] if job.state.ema is None else [job.state.ema.module])]
    return sum(value.numel() * value.element_size() for model in models for value in model.state_dict().values())


def answers_size(job: Job) -> int:
    """Bytes that a cache of the teachers' answers to all steps takes; 0 without teachers."""
    if not len(job.teachers.members):
        return 0
    batches, form = job.batches, form_of(job.config, job.facts.num_classes)
    return len(job.teachers.members) * batches.last * record_bytes(batches.size, form.classes, form.top_k)


def answers_there(job: Job) -> int:
    """Bytes of them that are in the cache already."""
    answers, last = job.stepper.answers, job.batches.last
    return sum(len(answers.there(t, 0, last)) * cache.record for t, cache in enumerate(answers.caches))


def free_space(path: Path) -> int:
    """Bytes that are free where `path` lies or would lie."""
    there = path.resolve()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def peak_memory(device: torch.device) -> tuple[int, int]:
    """Bytes that this process held at most so far, and those that there are: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, host_memory()


def _now(job: Job) -> float:
    """The time once the device has done all that it was asked for."""
    if job.device.type == "cuda":
        torch.cuda.synchronize(job.device)
    return time.perf_counter()
