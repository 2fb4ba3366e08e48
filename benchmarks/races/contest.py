"""Contenders in processes of their own, who take turns: while one runs, all the others are stopped.

A contender's whole process group is stopped, the workers of its loader with it, so that nobody reads ahead in the
other's time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from task import Task

_HERE = Path(__file__).parent
_LINES = 15  # of what a program said last


class RaceError(Exception):
    """A contender failed."""


class Worker:
    """One contender's process; it stands still but in its turns."""

    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        self._log = Path(task.path(f"{task.duel}-{name}.log"))
        command = [sys.executable, str(_HERE / f"{task.program}.py"), task.line()]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=environment(task),
            )

    def ready(self) -> dict[str, Any]:
        """Wait until it stands at the start; what it tells of itself."""
        about: dict[str, Any] = self._hear()["ready"]
        self._send(signal.SIGSTOP)
        return about

    def turn(self, **order: Any) -> dict[str, Any]:
        """Let it take a turn; its report."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        self._send(signal.SIGCONT)
        report = self._hear()
        self._send(signal.SIGSTOP)
        print(f"{self.name}: {report['steps']} steps in {report['seconds']:.2f} s", file=sys.stderr, flush=True)
        return report

    def whole(self) -> dict[str, Any]:
        """Let it run from its start to its end; its last report with the seconds that its process took."""
        began = time.perf_counter()
        report = self._hear()
        if self.process.wait():
            raise self._failed()
        return report | {"seconds": time.perf_counter() - began}

    def end(self) -> None:
        """End it and all that it started."""
        self._send(signal.SIGKILL)
        self.process.communicate()

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._failed()
        report: dict[str, Any] = json.loads(line)
        return report

    def _failed(self) -> RaceError:
        said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
        return RaceError("\n".join([f"{self.name} ended without a report; it said last:", *said]))

    def _send(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return


def environment(task: Task) -> dict[str, str]:
    """The variables of a contender: warnings off; in float32 also on CUDA, where that is what the race is about."""
    added = {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
    return os.environ | added | ({} if task.precision == "best" else {"NVIDIA_TF32_OVERRIDE": "0"})


def alternate(
    tasks: Mapping[str, Task], rounds: int, steps: int, warm_up: int, profiled: bool
) -> dict[str, dict[str, Any]]:
    """All contenders, in turns of `steps` steps after one of `warm_up`: what each told, its turns, its profile."""
    workers = {}
    found: dict[str, dict[str, Any]] = {}
    try:
        for name, task in tasks.items():
            workers[name] = Worker(name, task)
        for name, worker in workers.items():
            found[name] = {"about": worker.ready(), "turns": []}
        for name, worker in workers.items():
            found[name]["warm_up"] = worker.turn(steps=warm_up)
        for _ in range(rounds):
            for name, worker in workers.items():
                found[name]["turns"].append(worker.turn(steps=steps))
        for name, worker in workers.items() if profiled else ():
            found[name]["profile"] = worker.turn(steps=1, profile=True)["profile"]
            found[name] |= {key: value for key, value in worker.turn(steps=0).items() if key in ("shares", "answers")}
    finally:
        for worker in workers.values():
            worker.end()
    return found


def whole_runs(tasks: Mapping[str, Task], rounds: int) -> dict[str, dict[str, Any]]:
    """All contenders as whole programs, one after another, `rounds` times."""
    found: dict[str, dict[str, Any]] = {name: {"about": {}, "turns": []} for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            worker = Worker(name, task)
            try:
                report = worker.whole() | {"steps": 1}
            finally:
                worker.end()
            found[name]["about"] = report["about"]
            found[name]["turns"].append(report)
    return found
