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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task import Task

_HERE = Path(__file__).parent
_LINES = 15  # of what a program said last


class RaceError(Exception):
    """A contender failed."""


@dataclass(frozen=True)
class Length:
    """How long a race is: `starts` of new processes, `rounds` of turns in each, `steps` in a turn, after `warm_up`."""

    starts: int
    rounds: int
    steps: int
    warm_up: int

    @property
    def taken(self) -> int:
        """The steps that one process takes, its profile with them."""
        return self.warm_up + self.rounds * self.steps + 1


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


def alternate(tasks: Mapping[str, Task], length: Length, profiled: bool) -> dict[str, dict[str, Any]]:
    """All contenders in turns, in new processes at each start: what each told, its turns, its profile.

    One and the same program can be a fifth slower in one process than in another, for as long as the process lasts; so
    figures come from several starts.
    """
    found: dict[str, dict[str, Any]] = {name: {"turns": [], "warm_up": None} for name in tasks}
    for start in range(length.starts):
        workers: dict[str, Worker] = {}
        try:
            for name, task in tasks.items():
                workers[name] = Worker(name, task)
                found[name]["about"] = workers[name].ready()
            for name, worker in workers.items():
                warm_up = worker.turn(steps=length.warm_up)
                found[name]["warm_up"] = found[name]["warm_up"] or warm_up  # the first compiles
            for _ in range(length.rounds):
                for name, worker in workers.items():
                    found[name]["turns"].append(worker.turn(steps=length.steps))
            if profiled and start == length.starts - 1:
                for name, worker in workers.items():
                    found[name] |= profile(worker)
        finally:
            for worker in workers.values():
                worker.end()
    return found


def profile(worker: Worker) -> dict[str, Any]:
    """The operators of a step, and what else the contender has to tell."""
    operators = worker.turn(steps=1, profile=True)["profile"]
    noted = worker.turn(steps=0)
    return {"profile": operators} | {key: noted[key] for key in ("shares", "answers") if key in noted}


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
