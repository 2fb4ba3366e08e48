"""Experiment trackers beside metrics.jsonl: offline, inside the run directory, and never able to stop a run.

A tool is reached through the adapters of `accelerate.tracking`. All calls of one tracker come from one thread of its
own, in order: MLflow and SQLite bind what they open to a thread, and a call that hangs holds up nobody but itself.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from queue import Full, Queue
from typing import Any, Protocol, Self

from mixstill.errors import UserError, one_line, unknown
from mixstill.telling import tell

TOOLS = ("tensorboard", "mlflow", "wandb", "trackio")
START_SECONDS, LOG_SECONDS, FINISH_SECONDS = 120.0, 30.0, 30.0
_BACKLOG = 1000  # lines that a slow tool may lie behind before the run waits for it


class Backend(Protocol):
    """What shows the metrics of a run. Any of its calls may raise, or hang: the run goes on without it."""

    def start(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        """Begin to show the run in the directory `run`, or go on with it after its first `step` steps."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Show these values, which belong to `step`."""

    def finish(self) -> None:
        """Hand over what is still held back, and close."""


class Tracker:
    """Hands metrics to a backend; what goes wrong there is told once, in one line, and ends the tracking alone.

    Without a backend it does nothing. As a context manager it finishes when it is left, however that is.
    """

    def __init__(self, name: str, backend: Backend | None, say: Callable[[str], None]) -> None:
        self.name = name
        self.on = backend is not None
        self._backend = backend
        self._say = say
        self._telling = threading.Lock()
        self._calls: Queue[tuple[Callable[[], None], threading.Event]] = Queue(_BACKLOG)
        if backend is not None:
            threading.Thread(target=self._work, name=f"mixstill-{name}", daemon=True).start()

    def start(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        """Open the tool, and wait for it."""
        self._call(lambda backend: backend.start(run, config, step), START_SECONDS, wait=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Show these values; returns at once unless the tool lies far behind."""
        kept = dict(values)
        self._call(lambda backend: backend.log(kept, step), LOG_SECONDS)

    def finish(self) -> None:
        """Close the tool, and wait for it. A second call does nothing."""
        self._call(lambda backend: backend.finish(), FINISH_SECONDS, wait=True)
        self.on = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def _call(self, call: Callable[[Backend], None], seconds: float, *, wait: bool = False) -> None:
        backend, done = self._backend, threading.Event()
        if not self.on or backend is None:
            return
        try:
            self._calls.put((lambda: call(backend), done), timeout=seconds)
        except Full:
            self._lose(f"no answer within {seconds:g} s")
            return
        if wait:
            with redirect_stdout(io.StringIO()):  # standard output is the run's own: a tool's greetings stay out
                answered = done.wait(seconds)
            if not answered:
                self._lose(f"no answer within {seconds:g} s")

    def _work(self) -> None:
        while True:
            call, done = self._calls.get()
            try:
                if self.on:
                    call()
            except BaseException as error:  # a tool may even try to exit
                self._lose(f"{type(error).__name__}: {one_line(error, 200)}")
            done.set()

    def _lose(self, why: str) -> None:
        with self._telling:
            if self.on:
                self.on = False
                self._say(f"tracker {self.name}: lost, the run goes on without it: {why}")


def open_tracker(
    tracker: str | Backend | None,
    run: Path,
    config: Mapping[str, Any],
    *,
    step: int = 0,
    say: Callable[[str], None] | None = None,
) -> Tracker:
    """Begin to track the run in the directory `run`, or go on with it; only one process of a run may.

    Args:
        tracker: one of `TOOLS`, a backend of your own, or None for a tracker that does nothing.
        run: the run directory; a tool keeps all that it writes in `tracking/` there.
        config: the run's config as nested plain values.
        step: the steps that the run has done already.
        say: tells the user one line; standard error by default.

    Raises:
        UserError: a tool that there is not, or that is not installed.
    """
    say = say or (lambda text: tell(f"mixstill: {text}"))
    backend: Backend | None
    if isinstance(tracker, str):
        check_tracker(tracker)
        from mixstill.train.tools import Tool

        name, backend = tracker, Tool(tracker)
    else:
        name, backend = type(tracker).__name__, tracker
    opened = Tracker(name, backend, say)
    opened.start(run, config, step)
    return opened


def check_tracker(name: str | None) -> None:
    """Raises `UserError` unless the tool `name` can be used: cheap, for the time before a run begins."""
    if name is None:
        return
    if name not in TOOLS:
        raise unknown("train.tracker", name, TOOLS)
    missing = [package for package in ("accelerate", name) if not _installed(package)]
    if missing:
        extra = "" if name == "tensorboard" else f" {name}"
        raise UserError(
            f"train.tracker: {name!r} needs {' and '.join(missing)}; run: pip install 'mixstill[track]'{extra}"
        )


def _installed(package: str) -> bool:
    found = find_spec(package)
    return found is not None and found.origin is not None  # a folder of that name in the working directory has none


def scalars(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line of metrics.jsonl under flat names, as `eval/class/top1`; without `step`."""
    flat: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            flat |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and prefix + name != "step":
            flat[prefix + name] = float(value)
    return flat
