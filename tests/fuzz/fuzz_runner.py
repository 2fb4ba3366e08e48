"""One case: a command in this process, under a time limit, with all that it says and writes looked at."""

import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from fuzz_cases import KINDS, draws
from fuzz_world import World

from mixstill import cli

LIMIT, PATIENCE = 20, 90  # seconds of its own work, and in all where others work on the machine too
DOCUMENTED = (0, 1, 2)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Hang(BaseException):
    """A command that took too long; nothing catches it."""


@dataclass
class Outcome:
    """What a case came to; `fault` tells what is wrong with that, and is empty where nothing is."""

    number: int
    kind: str
    argv: list[str]
    code: int | None = None
    seconds: float = 0.0
    fault: str = ""
    err: str = ""

    def __str__(self) -> str:
        return (
            f"case {self.number} ({self.kind}): {self.fault}\n  {self.argv!r}\n  exit {self.code}: {self.err[-3000:]}"
        )


@dataclass
class Watch:
    """The paths outside a folder that are opened for writing, made or renamed, by Python's audit events."""

    folder: Path
    active: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        writes = event == "open" and isinstance(args[2], int) and args[2] & _WRITING
        if not writes and event not in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.truncate"):
            return
        path = args[1] if event in ("os.rename", "os.symlink") else args[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (a NUL must not stop it)
        if (
            not f"{text}/".startswith((f"{self.folder}/", f"{os.environ['XDG_STATE_HOME']}/", "/dev/", "/proc/"))
            and "__pycache__" not in text
        ):
            self.seen.append(f"{event} {text}")


_watch = Watch(Path("/"))
_hooked: list[bool] = []


@contextmanager
def watched(folder: Path) -> Iterator[Watch]:
    """The watch over `folder`."""
    if not _hooked:
        sys.addaudithook(_watch)
        _hooked.append(True)
    _watch.folder, _watch.seen, _watch.active = folder, [], True
    try:
        yield _watch
    finally:
        _watch.active = False


@contextmanager
def at_home_in(folder: Path) -> Iterator[None]:
    """Work in `folder`, with its own home and temporary files, and let nothing take longer than `LIMIT`."""

    def stop(*_: object) -> NoReturn:
        raise Hang

    before, place, temporary = dict(os.environ), Path.cwd(), tempfile.tempdir
    (folder / "tmp").mkdir()
    os.environ.update(HOME=str(folder / "home"), TMPDIR=str(folder / "tmp"), HF_HUB_OFFLINE="1")
    tempfile.tempdir = str(folder / "tmp")
    os.chdir(folder)
    timers = ((signal.SIGALRM, signal.ITIMER_REAL, PATIENCE), (signal.SIGPROF, signal.ITIMER_PROF, LIMIT))
    handlers = [signal.signal(number, stop) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, handlers, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
        os.chdir(place)
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = temporary


class Log(logging.Handler):
    """The remarks of libraries that a terminal would show."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@contextmanager
def heard(log: Log) -> Iterator[None]:
    """`log` gets what all loggers tell."""
    logging.getLogger().addHandler(log)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(log)


def run_case(seed: int, number: int, world: World, folder: Path) -> Outcome:
    """Make and run a case in an empty folder."""
    kind, draw = draws(seed, number)
    argv = KINDS[kind](draw, world, folder)
    outcome, whole = Outcome(number, kind, argv), world.files()
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    usual = sys.stdout, sys.stderr
    began = time.monotonic()
    log = Log()
    with at_home_in(folder), watched(folder) as watch, warnings.catch_warnings(record=True) as caught, heard(log):
        warnings.simplefilter("default")
        sys.stdout, sys.stderr = streams
        try:
            outcome.code = cli.main(argv)
        except Hang:
            outcome.fault = f"no end after {LIMIT} s"
        except BaseException as error:  # whatever escapes is a fault
            outcome.fault = f"escaped: {type(error).__name__}: {error}"
        finally:
            sys.stdout, sys.stderr = usual
    outcome.seconds = time.monotonic() - began
    out, outcome.err = (stream.buffer.getvalue().decode(errors="replace") for stream in streams)
    outcome.fault = outcome.fault or _fault(outcome, out, [str(each.message) for each in caught] + log.told)
    if watch.seen:
        outcome.fault = outcome.fault or f"written outside: {watch.seen[:3]}"
    if world.files() != whole:
        outcome.fault = outcome.fault or "a file of the user's was written to"
    return outcome


def _fault(outcome: Outcome, out: str, told: list[str]) -> str:
    """What is wrong with what a command said."""
    code, err = outcome.code, outcome.err
    if "--version" in outcome.argv or "--help" in outcome.argv or "-h" in outcome.argv:
        return ""
    if code not in DOCUMENTED:
        return f"exit code {code}"
    if "Traceback" in err:
        return "a traceback"
    lines = err.splitlines()
    several = len(lines) > 1 and " images cannot be read" in lines[-1]  # a line each, of those that were asked for
    ours = all(line.startswith("mixstill: ") for line in lines)
    if code == 2 and outcome.argv and (not ours or (len(lines) != 1 and not several) or told):
        return f"not one line: {told}"
    if "--json" in outcome.argv and code == 0:
        return _json_fault(out)
    return ""


def _json_fault(out: str) -> str:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} in it")

    try:
        json.loads(out, parse_constant=refuse)
    except ValueError as error:
        return f"no JSON: {error}"
    return ""


def _plain(text: str) -> str:
    """What was said, without the paths and numbers that differ from case to case."""
    return re.sub(r"\d+", "N", re.sub(r"/[^\s':]+", "PATH", text))[:160].strip()


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """The counts over all cases, the slowest and those with a fault."""
    slowest = sorted(outcomes, key=lambda outcome: -outcome.seconds)[:5]
    return {
        "cases": len(outcomes),
        "kinds": dict(Counter(outcome.kind for outcome in outcomes)),
        "exit_codes": {str(code): count for code, count in sorted(Counter(str(o.code) for o in outcomes).items())},
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
        "slowest": [
            {"case": o.number, "kind": o.kind, "seconds": round(o.seconds, 2), "exit": o.code} for o in slowest
        ],
        "failed_runs": dict(Counter(_plain(o.err) for o in outcomes if o.code == 1)),
        "failures": [{"case": o.number, "kind": o.kind, "fault": o.fault} for o in outcomes if o.fault],
    }
