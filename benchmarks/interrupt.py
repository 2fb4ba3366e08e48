"""Interrupt runs at random moments, resume them, and compare each with the run that nothing disturbed.

    python benchmarks/interrupt.py --times 50 --processes 1,2 --output results/interrupt.json

A tiny run on the digits with everything on (two teachers, regulariser, RandAugment, erasing, mixing, drop path, moving
average, two passes per step) is made once undisturbed, and then again and again with interruptions:

    kill    SIGKILL, at once to all processes of a run, or to one of them
    term    SIGTERM, to all or to one
    limit   from some moment on no file may grow beyond a random size (RLIMIT_FSIZE), below that of a checkpoint
    full    from some moment on the disk is full but for a random rest (a tmpfs; left out where none may be mounted)

The moment is random over the whole length of a run, or the sight of a checkpoint's temporary file. After each, the
checkpoint must be absent or whole and nothing may pile up beside it; then the run is resumed, until it ends. One
process must end with the very bits of the undisturbed run; two with its losses, to 1e-6. Processes are forked from
this one, which has imported all; the first and then every --real-th copy is started as users do, with
`python -m mixstill`, or by torchrun, which also starts it again itself. Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from attempt import PATIENCE, Attempt, Ended
from provenance import provenance

from mixstill.config import Config
from mixstill.distill.classifier import Facts, build_student, save_student
from mixstill.schema import from_dict, merge, write_yaml

BATCH = 16
ANY, CHECKPOINT = "any", "at the sight of a checkpoint"  # moments
FILES = {
    "config.yaml",
    "metrics.jsonl",
    "checkpoints/last.pt",
    "checkpoints/previous.pt",
    "weights.safetensors",
    "ema.safetensors",
    "summary.json",
    ".lock",
}
PARTIAL = re.compile(r"\.([^/]+)\.\d+\.partial$")  # what a killed run may leave, until the next one holds the directory
CODES = {"kill": {-9, 137}, "term": {143, -15}, "limit": {1}, "full": {1}}  # of one process


def config(teachers: list[str], processes: int, epochs: int) -> Config:
    """The run that is interrupted."""
    options: dict[str, dict[str, Any]] = {
        "model": {"name": "mixer_digits", "kwargs": {"num_blocks": 2, "embed_dim": 8}, "drop_path": 0.1},
        "data": {"samples_per_class": 5},
        "views": {"pad": 1, "aa": "rand-m9-mstd0.5-inc1", "reprob": 0.25, "mixup": 0.8, "cutmix": 1.0},
        "distill": {"teachers": teachers},
        "mi": {"weight": 0.1, "width": 8, "lr": 0.01},
        "optim": {"lr": 0.01, "warmup_epochs": 1.0},
        "train": {
            "epochs": epochs,
            "batch_size": BATCH,
            "device_batch_size": BATCH // processes // 2,
            "ema_decay": 0.9,
            "ema_warmup": True,
            "device": "cpu",
            "threads": 1,
            "log_interval": 1,
            "eval_interval": 2,
            "checkpoint_interval": 2,
        },
    }
    return from_dict(merge(options, {}))


def make_teachers(folder: Path) -> list[str]:
    """Two small ResNets that were never trained, of different widths."""
    placed = []
    for width, place in ((4, "1/2"), (6, "last")):
        options = {"model": {"name": "cifar_resnet8", "kwargs": {"width": width}}, "data": {"input_size": 8}}
        own = from_dict(merge(options, {}))
        torch.manual_seed(width)
        facts = Facts(10, tuple("0123456789"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 8)
        save_student(folder / f"teacher{width}.safetensors", build_student(own, 10), own, facts)
        placed.append(f"{folder / f'teacher{width}.safetensors'}@{place}")
    return placed


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of 64 MB that is mounted on a new folder while entered; None where that is not allowed."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], capture_output=True)
    if done.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass
class Reference:
    """The undisturbed run of so many processes, its parts of a second, and the start of a process by a user."""

    path: Path
    recipe: Path
    seconds: float
    start: float
    steps: int
    checkpoint: int  # bytes


@dataclass
class Report:
    """What the interruptions of runs of so many processes came to."""

    runs: int = 0
    started_as_users_do: int = 0
    equal_to_the_bit: int = 0
    largest_difference: float = 0.0
    came_too_late: int = 0
    restarted_by_torchrun: int = 0
    had_to_be_killed: int = 0
    temporary_file_left: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    by_moment: Counter[str] = field(default_factory=Counter)
    exit_codes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def interruptions(self) -> int:
        """How many there were."""
        return self.by_kind.total()


class Campaign:
    """Interrupts copies of the undisturbed runs."""

    def __init__(self, folder: Path, disk: Path | None, seed: int, options: argparse.Namespace) -> None:
        self.folder = folder
        self.disk = disk
        self.draw = random.Random(seed)
        self.real: int = options.real
        self.epochs: int = options.epochs
        self.verbose: bool = options.verbose
        self.teachers = make_teachers(folder)

    def reference(self, processes: int) -> Reference:
        """Make the undisturbed run; as a user would, where such starts are to be had."""
        path, recipe = self.folder / f"undisturbed{processes}", self.folder / f"recipe{processes}.yaml"
        write_yaml(config(self.teachers, processes, self.epochs), recipe)
        began = time.monotonic()
        ended = Attempt(["train", str(recipe), "--output", str(path)], processes, real=self.real > 0).end()
        whole = time.monotonic() - began
        if ended.code:
            raise SystemExit(f"the undisturbed run of {processes} processes failed with {ended.code}:\n{ended.said}")
        summary = json.loads((path / "summary.json").read_text())
        checkpoint = (path / "checkpoints" / "last.pt").stat().st_size
        seconds = max(float(summary["seconds"]), 0.5)
        found = Reference(path, recipe, seconds, whole - seconds, summary["steps"], checkpoint)
        print(
            f"{processes} process{'es' * (processes > 1)}: {found.steps} steps in {seconds:.1f} s, "
            f"{found.start:.1f} s to start, a checkpoint of {checkpoint} bytes",
            flush=True,
        )
        return found

    def interrupt(self, processes: int, times: int) -> Report:
        """Interrupt runs of so many processes until there were so many interruptions, each run to its end."""
        report, reference = Report(), self.reference(processes)
        while report.interruptions < times and not report.failures:
            self._copy(processes, reference, report, times)
        return report

    def _copy(self, processes: int, reference: Reference, report: Report, times: int) -> None:
        """One run: interrupted, resumed, perhaps interrupted again, and compared."""
        real = self.real > 0 and report.runs % self.real == 0
        disk = self.disk if report.runs % 2 else None  # the others lie where syncing a file takes its time
        path = (disk or self.folder) / f"copy{processes}-{report.runs}"
        report.runs += 1
        report.started_as_users_do += real
        argv = ["train", str(reference.recipe), "--output", str(path), "--resume"]
        before, ended = 0, None
        while (ended is None or ended.code) and not report.failures:
            again = report.interruptions < times and (ended is None or self.draw.random() < 0.75)
            kind = self.draw.choice([*CODES] if disk else ["kill", "term", "limit"]) if again else "none"
            restarts = 2 if real and processes > 1 and kind == "kill" else 0
            metrics = mark(path / "metrics.jsonl")
            attempt = Attempt(argv, processes, real=real, restarts=restarts)
            moment, struck = "never", False
            if again:
                moment = self._wait(attempt, path, reference, real)
                struck = self._strike(attempt, kind, disk, reference, one=restarts > 0)
            ended = attempt.end()
            if disk is not None:
                (disk / "filler").unlink(missing_ok=True)
            restarted = restarts > 0 and struck and not ended.code
            report.restarted_by_torchrun += restarted
            report.had_to_be_killed += ended.stubborn
            if ended.code or restarted:
                report.by_kind[kind] += 1
                report.by_moment[place(path, reference, metrics) if moment == ANY else moment] += 1
                report.exit_codes[f"{kind} {ended.code}"] += 1
            elif again:
                report.came_too_late += 1
            before = self._check(path, before, ended, kind, processes, report)
            if self.verbose:
                print(f"{path.name} {kind} at {moment}: {ended.code}, step {before}", flush=True)
        if not report.failures:
            self._compare(path, reference, processes, report)
        if report.failures and ended is not None:
            print(ended.said, file=sys.stderr)
        shutil.rmtree(path, ignore_errors=True)

    def _wait(self, attempt: Attempt, path: Path, reference: Reference, real: bool) -> str:
        """Until a random moment; which kind of moment it was."""
        folder = path / "checkpoints"
        length = 0.2 + reference.seconds * (1 - step_of(folder) / reference.steps)
        moment = CHECKPOINT if self.draw.random() < 0.3 else ANY
        delay, wanted = self.draw.random() * (length + reference.start * real), self.draw.randrange(1, 6)
        end = time.monotonic() + (delay if moment == ANY else PATIENCE)
        seen = last = temporary(folder)  # what a killed run has left is no news
        while time.monotonic() < end and not attempt.poll():
            if moment == ANY:
                time.sleep(min(0.001, max(end - time.monotonic(), 0)))
                continue
            seen, last = temporary(folder), seen
            wanted -= bool(seen - last)
            if not wanted:
                break
        return moment

    def _strike(self, attempt: Attempt, kind: str, disk: Path | None, reference: Reference, *, one: bool) -> bool:
        """Interrupt all processes, or one; whether there was any to interrupt."""
        ranks, rest = attempt.ranks(), self.draw.randrange(reference.checkpoint)
        if kind in ("kill", "term"):
            everyone = attempt.everyone() if kind == "kill" else attempt.everyone()[:1] if attempt.torchrun else ranks
            if one or self.draw.random() < 0.5:
                everyone = [self.draw.choice(ranks)] if ranks else []
            return attempt.send(signal.SIGKILL if kind == "kill" else signal.SIGTERM, everyone)
        if kind == "full" and disk is not None:
            fill(disk, rest)
        elif ranks:
            try:
                resource.prlimit(ranks[0], resource.RLIMIT_FSIZE, (rest, rest))
            except ProcessLookupError:
                return False
        return True

    def _check(self, path: Path, before: int, ended: Ended, kind: str, processes: int, report: Report) -> int:
        """What must hold after each attempt; the step of the checkpoint."""
        where, code = f"{path.name} after {kind}", ended.code
        if ended.hung:
            report.failures.append(f"{where}: no end within {PATIENCE:g} s")
        if processes == 1 and code and code not in CODES.get(kind, set()):
            report.failures.append(f"{where}: exit code {code}")
        if processes == 1 and code == 1 and ("Traceback" in ended.said or "mixstill: " not in ended.said):
            report.failures.append(f"{where}: not told in one line")
        found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
        partial = {file for file in found if file.endswith(".partial")}
        stray = {file for file in found - FILES if PARTIAL.sub(r"\1", file) not in FILES}
        if stray or len(partial) > 2:
            report.failures.append(f"{where}: stray files {sorted(stray | partial)}")
        report.temporary_file_left += bool(partial) and code != 0
        try:
            step = step_of(path / "checkpoints")
        except Exception as error:  # whatever the reader says of half a file
            report.failures.append(f"{where}: the checkpoint cannot be read: {error}")
            return before
        if step < before:
            report.failures.append(f"{where}: the checkpoint went back from step {before} to {step}")
        if code == 0 and partial:
            report.failures.append(f"{where}: a complete run kept {sorted(partial)}")
        return step

    def _compare(self, path: Path, reference: Reference, processes: int, report: Report) -> None:
        """The end of the run against that of the undisturbed one."""
        runs = (path, reference.path)
        weights = [safetensors.torch.load_file(run / "weights.safetensors") for run in runs]
        averages = [safetensors.torch.load_file(run / "ema.safetensors") for run in runs]
        saved = [load(run / "checkpoints" / "last.pt") for run in runs]
        heads = [json.loads((run / "summary.json").read_text())["heads"] for run in runs]
        ours, theirs = (lines(run) for run in runs)
        pairs = {"weights": weights, "ema": averages, "checkpoint": saved, "metrics": [ours, theirs], "heads": heads}
        unequal = [name for name, (one, two) in pairs.items() if not same(one, two)]
        difference = distance(ours, theirs)
        report.equal_to_the_bit += not unequal
        report.largest_difference = max(report.largest_difference, difference)
        if processes == 1 and unequal:
            report.failures.append(f"{path.name}: other bits in {', '.join(unequal)}")
        if difference > 1e-6:
            report.failures.append(f"{path.name}: the losses differ by {difference:.1e}")


def mark(file: Path) -> int | None:
    """The time of a file's last change; None where there is none."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def fill(disk: Path, rest: int) -> None:
    """Fill the disk but for `rest` bytes."""
    with (disk / "filler").open("wb") as file:
        free = shutil.disk_usage(disk).free - rest
        try:
            while free > 0:
                free -= file.write(bytes(min(free, 1 << 20)))
        except OSError:
            return


def load(path: Path) -> dict[str, Any]:
    """A whole checkpoint; raises where it is not one."""
    with warnings.catch_warnings(action="ignore"):
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if not found.keys() >= {"step", "student", "optimizer", "ema", "information", "statistics_optimizer"}:
        raise ValueError(f"it holds only {sorted(found)}")
    return found


def temporary(folder: Path) -> set[str]:
    """The temporary files of checkpoints."""
    return {file.name for file in folder.glob(".last.pt.*.partial")}


def step_of(folder: Path) -> int:
    """The steps that the last of a run's checkpoints holds; all are read as a whole. 0 where there is none."""
    steps = [int(load(file)["step"]) for name in ("previous.pt", "last.pt") if (file := folder / name).exists()]
    if steps != sorted(steps):
        raise ValueError(f"the steps of the previous and the last one are {steps}")
    return max(steps, default=0)


def place(path: Path, reference: Reference, before: int | None) -> str:
    """Where an attempt ended, by the metrics: their file is written anew when the loop begins."""
    if mark(path / "metrics.jsonl") == before:
        return "while loading"
    try:
        steps = [line["step"] for line in lines(path)]
    except json.JSONDecodeError:
        return "while a line was written"
    return "after the last step" if steps and steps[-1] == reference.steps else "among the steps"


def lines(run: Path) -> list[dict[str, Any]]:
    """The metrics without the speed, which no two runs share."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in found]


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def distance(one: Any, other: Any) -> float:
    """The largest relative difference of two nested values' numbers; infinite where their forms differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((distance(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(distance, one, other), default=0.0)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) / max(abs(one), abs(other), 1e-3)
    return 0.0 if one == other else math.inf


def main() -> int:
    """Run the campaign; 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--times", type=int, default=50, help="interruptions in all, shared by the numbers of processes"
    )
    parser.add_argument(
        "--processes", default="1,2", help="numbers of processes, as 1,2 (a fifth is for those above 1)"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default: a new one, which is printed")
    parser.add_argument("--real", type=int, default=5, help="every so many-th run starts as users do; 0: none")
    parser.add_argument("--epochs", type=int, default=10, help="length of the run: 3 steps each")
    parser.add_argument("--output", type=Path, help="JSON of what was found")
    parser.add_argument("--verbose", action="store_true", help="a line for each interruption")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    counts = [int(text) for text in options.processes.split(",")]
    several = sum(count > 1 for count in counts)
    reports = {}
    with (
        tempfile.TemporaryDirectory(prefix="mixstill-interrupt-") as folder,
        small_disk(Path(folder) / "disk") as disk,
    ):
        campaign = Campaign(Path(folder), disk, seed, options)
        for count in counts:
            share = options.times - several * max(options.times // 5, 1) * (1 in counts) if count == 1 else 0
            reports[count] = campaign.interrupt(count, share or max(options.times // (5 if 1 in counts else 1), 1))
    failures = [failure for report in reports.values() for failure in report.failures]
    result = {
        **provenance(torch.device("cpu"), options.output),
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "full_disk": "a tmpfs of 64 MB" if disk else "left out: no tmpfs may be mounted here",
        "interruptions": sum(report.interruptions for report in reports.values()),
        "all_equal": not failures,
        "processes": {
            str(count): vars(report) | {"interruptions": report.interruptions} for count, report in reports.items()
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
