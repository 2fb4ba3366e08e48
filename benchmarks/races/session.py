"""The worker's end of a race: it waits for orders, takes its turns, and reports what they took.

An order is a line of JSON on standard input: `{"steps": 4}`, and `"profile": true` where the operators are asked for.
No steps ask for what else the contender has to tell (`noted`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from task import Task
from timm.utils import NativeScaler
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

_OPERATORS = 15


class Finished(Exception):  # noqa: N818 (it is no error)
    """No more turns are asked for."""


class Session:
    """Talks to the harness. What the program prints goes to standard error, since the reports have its output.

    shims: what of the program's surroundings was replaced, and why.
    losses: of the steps since the turn began.
    noted: what goes into the next report besides.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.shims: list[str] = []
        self.losses: list[Tensor] = []
        self.noted: dict[str, Any] = {}
        self._channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._record_losses()

    def say(self, report: dict[str, Any]) -> None:
        """Send a report."""
        print(json.dumps(report), file=self._channel, flush=True)

    def turns(self, **about: Any) -> Iterator[int]:
        """The turns that are asked for, each as a number of steps; what passes until the next one is timed.

        `about` is told to the harness first. Raises `Finished` when no more are asked for.
        """
        self.say({"ready": about | self.surroundings()})
        for line in sys.stdin:
            order = json.loads(line)
            self.losses.clear()
            watched = self._profiler() if order.get("profile") else nullcontext()
            began = self._now()
            with watched:
                yield order["steps"]
                seconds = self._now() - began
            report = {"seconds": seconds, "steps": order["steps"], "losses": self.recorded()} | self.noted
            self.noted = {}
            if isinstance(watched, profile):
                report["profile"] = operators(watched)
            self.say(report)
        raise Finished

    def surroundings(self) -> dict[str, Any]:
        """The words of a driven program's command line, and its shims."""
        driven = self.task.program.startswith("their_")
        words = [word.replace(self.task.folder, "FOLDER") for word in sys.argv[1:]] if driven else []
        return {"words": words, "shims": self.shims}

    def recorded(self) -> list[float]:
        """The losses since the turn began; read only now, so that no step waits for its own."""
        return torch.stack([loss.float() for loss in self.losses]).tolist() if self.losses else []

    def _now(self) -> float:
        """The time once the device has done all that it was asked for."""
        if self.task.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _profiler(self) -> profile:
        cuda = [ProfilerActivity.CUDA] if self.task.device == "cuda" else []
        return profile(activities=[ProfilerActivity.CPU, *cuda])

    def _record_losses(self) -> None:
        """Keep the loss of every step: that which backward is called on, before a scaler for float16 multiplies it."""
        backward: Callable[..., None] = Tensor.backward
        scaled: Callable[..., None] = NativeScaler.__call__
        inside = False

        def recorded_backward(tensor: Tensor, *args: Any, **kwargs: Any) -> None:
            if not inside:
                self.losses.append(tensor.detach())
            backward(tensor, *args, **kwargs)

        def recorded_scaled(scaler: NativeScaler, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            nonlocal inside
            self.losses.append(loss.detach())
            inside = True
            scaled(scaler, loss, *args, **kwargs)
            inside = False

        setattr(Tensor, "backward", recorded_backward)  # noqa: B010 (mypy lets no method be replaced)
        setattr(NativeScaler, "__call__", recorded_scaled)  # noqa: B010


def operators(watched: profile) -> list[dict[str, Any]]:
    """The operators that took most time by themselves: name, calls, share of all."""
    rows = watched.key_averages()
    own = {row.key: (row.self_device_time_total or row.self_cpu_time_total, row.count) for row in rows}
    total = sum(time for time, _ in own.values()) or 1.0
    most = sorted(own.items(), key=lambda item: -item[1][0])[:_OPERATORS]
    return [{"operator": name, "calls": count, "share": round(time / total, 4)} for name, (time, count) in most]


def serve(run: Callable[[Task, Session], None]) -> None:
    """A worker's whole life: `run` drives the program that the task on the command line names."""
    task = Task(**json.loads(sys.argv[1]))
    session = Session(task)
    try:
        run(task, session)
    except Finished:
        return
    except SystemExit as ended:
        if ended.code:
            raise
    if task.race == "epoch":
        session.say({"losses": session.recorded(), "about": session.surroundings()})
