"""`mixstill check [RECIPE] [--a.b value ...]`: what a run will be, and whether it can be, before it begins."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mixstill.commands.choice import recipe_of
from mixstill.commands.train import config_of, output_of
from mixstill.errors import UserError, many
from mixstill.files import to_json
from mixstill.overrides import CommandLine, parse
from mixstill.paths import path_of

if TYPE_CHECKING:
    from mixstill.distill.teachers import Teacher
    from mixstill.train.build import Job
    from mixstill.train.processes import Processes
    from mixstill.train.trial import Steps

USAGE = """usage: mixstill check [RECIPE] [--FIELD VALUE ...] [--output DIR] [--steps N] [--json]

Before a long run, with this run's own pipeline: the student, each teacher's accuracy, the loss as an equation, time,
memory and disk. A teacher at chance is an error that names the likely cause. Nothing is trained or written.

  --output DIR   where the run would lie [runs/RECIPE]
  --steps N      time N training steps [as many as fit into 15 seconds, 30 at most]
  --json         one JSON object: student, data, teachers, loss, time, memory, disk, warnings

Fields of the config: as `mixstill train` takes them.
"""
SAMPLES = 1000  # held-out images for each teacher; 4 of each class where that is more
_LABEL = 10  # columns


def main(argv: list[str]) -> None:
    """Check one run, and print what it will be."""
    line = parse(argv, flags=("json",), values=("output", "steps"))
    if len(line.words) > 1:
        raise UserError(f"check: takes one recipe, got {' '.join(line.words)}")
    count = line.whole("steps")

    from mixstill.train.processes import joined

    with joined() as processes, tempfile.TemporaryDirectory() as folder:
        report = Report(loud=processes.main and "json" not in line.options)
        _check(line, count, processes, report, Path(folder))
    if processes.main and "json" in line.options:
        print(to_json(report.about | {"warnings": report.warnings}))


class Report:
    """The findings, by section; each is printed as soon as it is there, where the report is `loud`."""

    def __init__(self, loud: bool) -> None:
        self.loud = loud
        self.about: dict[str, Any] = {}
        self.warnings: list[str] = []

    def add(self, section: str, about: Any, lines: list[str]) -> None:
        """What was found in a section, for a program and for people."""
        self.about[section] = about
        for number, line in enumerate(lines if self.loud else ()):
            print(f"{'' if number else section:<{_LABEL}}{line}", flush=True)

    def warn(self, text: str) -> None:
        """What may be amiss."""
        self.warnings.append(text)
        if self.loud:
            print(f"{'warning':<{_LABEL}}{text}", flush=True)


def _check(line: CommandLine, count: int | None, processes: Processes, report: Report, folder: Path) -> None:
    from mixstill.teaching import teachers_as_they_stand
    from mixstill.train.build import build
    from mixstill.train.device import command_settings
    from mixstill.train.run import check_output
    from mixstill.train.trial import checkpoint_cost, time_steps

    recipe = recipe_of(line)
    config, output = config_of(line, recipe), output_of(line, recipe)
    try:
        check_output(config, output, resume=False)
    except UserError as error:
        report.warn(str(error))
    config, untrained = teachers_as_they_stand(config, output, folder)
    opened = config
    if untrained and config.distill.cache is not None:
        report.warn("distill.cache: it is not looked into, as what it holds depends on the teachers' weights")
        opened = replace(config, distill=replace(config.distill, cache=None))
    with command_settings(config.train):
        began = time.monotonic()
        job = replace(build(opened, processes), config=config)
        start = time.monotonic() - began
        _student(job, report)
        _data(job, report)
        _teachers(job, untrained, report)
        _loss(job, report)
        steps = time_steps(job, count)
        checkpoint, saving = checkpoint_cost(job)
        _time(job, start, steps, saving, report)
        _memory(job, report)
        _disk(job, checkpoint, output, report)


def _student(job: Job, report: Report) -> None:
    from mixstill.distill.sizes import count_parameters

    student, config = job.state.student, job.config
    whole, backbone = count_parameters(student), count_parameters(student.backbone)
    depth, lines = len(student.layout.shapes), []
    modules: list[dict[str, Any]] = []
    for m, (name, block) in enumerate(zip(job.teachers.module_names, student.blocks, strict=True)):
        if block is None:
            modules.append({"name": name, "block": None, "head": student.placements[m].place})
            lines.append(f"{name}: at the backbone's own {student.placements[m].place} head")
            continue
        channels, patches = student.token_shapes[m]
        modules.append({"name": name, "block": block, "blocks": depth, "channels": channels, "patches": patches})
        lines.append(f"{name}: after block {block + 1} of {depth}, tokens C = {channels}, N = {patches}")
    about = {
        "model": config.model.name,
        "input_size": job.facts.input_size,
        "parameters": whole,
        "backbone_parameters": backbone,
        "modules": modules,
    }
    count = len(student.token_modules)
    without = f", {backbone:,} without its {many(count, 'module')}" if count else ""
    first = f"{config.model.name} at {job.facts.input_size} pixels: {whole:,} parameters{without}"
    report.add("student", about, [first, *lines])


def _data(job: Job, report: Report) -> None:
    batches, config = job.batches, job.config
    about = {
        "dataset": config.data.dataset,
        "images": {name: len(split) or None for name, split in job.splits.items()},
        "classes": job.facts.num_classes,
        "batch_size": batches.size,
        "steps_per_epoch": batches.per_epoch,
        "epochs": config.train.epochs,
        "steps": batches.total,
        "processes": batches.processes.count,
        "passes": batches.passes,
    }
    images = ", ".join(f"{len(split)} {name}" for name, split in job.splits.items() if len(split))
    unsized = "".join(f"; {_unsized(name)}" for name, split in job.splits.items() if not len(split))
    epochs, split = many(config.train.epochs, "epoch"), batches.about()
    lines = [
        f"{config.data.dataset}: {images} images of {job.facts.num_classes} classes{unsized}",
        f"batches of {batches.size}, {batches.per_epoch} steps per epoch, {batches.total} in {epochs}",
        *(text for text in split if not text.startswith("warning: ")),
    ]
    report.add("data", about, lines)
    for text in split:
        if text.startswith("warning: "):
            report.warn(text.removeprefix("warning: "))


def _teachers(job: Job, untrained: dict[str, str], report: Report) -> None:
    from mixstill.distill.diagnosis import misorder, told
    from mixstill.train.trial import examiner

    teachers = job.teachers
    sources = list(dict.fromkeys(placement.teacher for placement in job.state.student.placements))
    exam = examiner(job, max(SAMPLES, 4 * job.facts.num_classes)) if set(sources) - set(untrained) else None
    about, lines, amiss = [], [], []
    for name, source, member in zip(teachers.names, sources, teachers.members, strict=True):
        teacher = cast("Teacher", member)
        fed = {"input_size": teacher.input_size, "mean": teacher.own[0], "std": teacher.own[1]}
        how = f"{teacher.input_size} pixels, mean {_channels(teacher.own[0])}, std {_channels(teacher.own[1])}"
        if exam is None or source in untrained:
            about.append({"name": name, "trained": False, **fed})
            first = f"mixstill train trains it first (its own time: mixstill check {untrained[source]})"
            lines += [f"{name}: not trained yet: {first}", f"  {how}"]
            continue
        found, (differing, names) = exam.diagnose(teacher), _class_names(teacher)
        accuracy = found.accuracy
        figures = {"top1": 100 * accuracy.top1, "n": accuracy.n, "chance": 100 * accuracy.chance}
        about.append({"name": name, "trained": True, **figures, **fed, "differing_class": differing})
        lines.append(f"{name}: {accuracy} {job.measured[0]} images right, {100 * accuracy.chance:.1f} % by chance")
        lines.append(f"  {how}; {names}")
        if found.ordered is not None:
            amiss.append(misorder(name, accuracy, found.ordered))
        elif accuracy.at_chance:
            amiss.append(told(name, teacher, found))
        elif found.cause is not None:
            report.warn(told(name, teacher, found))
    report.add("teachers", about, lines or ["none"])
    if amiss:
        raise UserError(f"distill.teachers: {'; '.join(amiss)}")


def _class_names(teacher: Teacher) -> tuple[str | None, str]:
    """The first class that a teacher names otherwise than the data, and how its names compare, in words."""
    if teacher.facts.classes is None:
        return None, "it does not name its classes"
    return teacher.differing, teacher.names_told or "class names fit"


def _loss(job: Job, report: Report) -> None:
    from mixstill.distill.equation import equation

    teachers = job.teachers
    lines = equation(job.config, teachers.module_names, [teachers.names[t] for t in teachers.module_teacher])
    report.add("loss", {"equation": lines[0], "where": lines[1:]}, lines)


def _time(job: Job, start: float, steps: Steps, saving: float, report: Report) -> None:
    from mixstill.train.forecast import Costs, forecast
    from mixstill.train.trial import answers_size, answers_there, time_epoch_regulariser, time_evaluation

    batches, images = job.batches, [len(job.splits[name]) for name in job.measured]
    costs = Costs(start, steps.mean, time_epoch_regulariser(job), time_evaluation(job), saving)
    ahead = forecast(job.config.train, batches.per_epoch, images, job.state.ema is not None, costs)
    rate, interval = batches.size / steps.mean, job.config.train.eval_interval
    often = "in each" if interval == 1 else f"every {interval} epochs"
    about = {
        **asdict(costs),
        "step_median": steps.median,
        "steps_timed": steps.count,
        "images_per_second": rate,
        "shares": steps.shares,
        **asdict(ahead),
    }
    shares = ", ".join(f"{piece} {100 * share:.0f} %" for piece, share in steps.shares.items())
    report.add(
        "time",
        about,
        [
            f"{_seconds(steps.mean)} a step (median {_seconds(steps.median)}, of {steps.count}), {rate:.0f} images/s",
            f"of a step: {shares}",
            f"{_seconds(ahead.epoch)} an epoch, an evaluation of {_seconds(costs.evaluation)} {often} included",
            f"{_seconds(ahead.total)} in all: {ahead.steps} steps, {many(ahead.evaluations, 'evaluation')}, "
            f"{many(ahead.checkpoints, 'checkpoint')}",
        ],
    )
    for name, count in zip(job.measured, images, strict=True):
        if not count:
            report.warn(f"{_unsized(name)}: evaluating it is forecast from what was timed, and may take longer")
    there = answers_there(job)
    if 0 < there < answers_size(job):
        share = f"{100 * there / answers_size(job):.0f} % of the answers"
        report.warn(f"distill.cache: it holds {share}; the time is that of the first steps, be they there or not")


def _memory(job: Job, report: Report) -> None:
    from mixstill.train.trial import peak_memory

    peak, there = peak_memory(job.device)
    where = f"on {job.device}" if job.device.type == "cuda" else "in this process, workers not counted"
    report.add("memory", {"peak": peak, "there": there}, [f"{_bytes(peak)} of {_bytes(there)} at most, {where}"])


def _disk(job: Job, checkpoint: int, output: Path, report: Report) -> None:
    from mixstill.train.trial import answers_size, answers_there, free_space, weights_size

    weights, answers, there, free = weights_size(job), answers_size(job), answers_there(job), free_space(output)
    needed, root = 3 * checkpoint + weights, job.config.distill.cache
    about = {"checkpoint": checkpoint, "files": needed, "free": free, "answers": answers, "answers_there": there}
    lines = [
        f"{_bytes(needed)} in {str(output)!r}: checkpoints of {_bytes(checkpoint)}, two and one being written, and "
        f"{_bytes(weights)} of weights",
        f"{_bytes(free)} are free there",
    ]
    if answers and root is None:
        lines.append(f"the teachers' answers would take {_bytes(answers)} in a cache (--cache DIR)")
    elif answers and root is not None:
        about["cache_free"] = free_space(path_of(root, "distill.cache"))
        lines.append(
            f"{_bytes(answers)} of teachers' answers in {root!r}, {_bytes(there)} of them already; "
            f"{_bytes(about['cache_free'])} are free there"
        )
    report.add("disk", about, lines)
    if needed > free:
        raise UserError(f"output: {str(output)!r} needs {_bytes(needed)}, but only {_bytes(free)} are free there")
    if answers - there > about.get("cache_free", math.inf):
        text = f"distill.cache: {root!r} needs {_bytes(answers - there)} more, but only {_bytes(about['cache_free'])}"
        raise UserError(f"{text} are free there; --distill.cache_top_k keeps fewer classes")


def _unsized(split: str) -> str:
    return f"size of {split} not known"


def _channels(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in values)


def _seconds(value: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * length:
            return f"{value / length:.1f} {unit}"
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"
