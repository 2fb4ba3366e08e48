"""What a run says while it trains: a line of JSON for each window of steps and each evaluation, in metrics.jsonl."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixstill.errors import RunError, UserError, one_line
from mixstill.files import to_json, write_atomically
from mixstill.paths import read_regular
from mixstill.texts import parse_object
from mixstill.train.processes import ALONE, Processes
from mixstill.train.tracker import Tracker, scalars


class Journal:
    """Appends to metrics.jsonl, in the main process. A resumed run first drops the lines of steps to be done again."""

    def __init__(self, path: Path, step: int, processes: Processes = ALONE, tracker: Tracker | None = None) -> None:
        self.path = path
        self.processes = processes
        self.tracker = tracker
        if processes.main:
            kept = [line for line in read_lines(path) if line["step"] <= step] if step else []
            write_atomically(path, "".join(to_json(line) + "\n" for line in kept).encode())
        self._window: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, step: int, terms: dict[str, Tensor]) -> None:
        """Keep the terms of one step, on their device, until the window is closed."""
        self._window.append((step, terms))

    def close_window(self) -> dict[str, float]:
        """The mean of each term over the steps since the last call, with one transfer from the device.

        A term is the sum of what the processes have of it.

        Raises `RunError` naming the first step and the term that is not finite.
        """
        window, self._window = self._window, []
        named = [(step, name, term) for step, terms in window for name, term in terms.items()]
        if not named:
            return {}
        values = self.processes.sum(torch.stack([term.detach().float() for _, _, term in named])).tolist()
        means: dict[str, list[float]] = {}
        for (step, name, _), value in zip(named, values, strict=True):
            if not math.isfinite(value):
                raise RunError(f"step {step}: the term {name!r} is {value}; the last checkpoint is from before it")
            means.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in means.items()}

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        if not self.processes.main:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(to_json(line) + "\n")
        if self.tracker is not None:
            self.tracker.log(scalars(line), line["step"])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a last line that a killed run left half-written is dropped.

    Raises `UserError` for a file that cannot be read, and for another line that is no object with a step.
    """
    lines: list[dict[str, Any]] = []
    try:
        texts = read_regular(path).split(b"\n") if path.exists() else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    for number, text in enumerate(texts, 1):
        try:
            line = parse_object(text)
            if not isinstance(line.get("step"), int):
                raise ValueError("it has no step")
        except ValueError as error:
            if number == len(texts):  # nothing stands behind the last line's end
                break
            raise UserError(f"{path}: line {number} is damaged ({one_line(error, 100)}); take it out") from error
        lines.append(line)
    return lines
