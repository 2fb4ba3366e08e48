"""SIGINT and SIGTERM end a run after the step it is in, with a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopSignal:
    """While entered, notes the first SIGINT or SIGTERM in `number`; a second one has its usual effect.

    A `patient` one only notes them, however many come: torchrun passes on to its processes what the terminal has sent
    them already.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.number: int | None = None
        self.patient = patient
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the host program keeps its own handlers
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number
        if not self.patient:
            self.__exit__()
