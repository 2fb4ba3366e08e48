"""SIGINT, SIGTERM and SIGHUP end a run after the step it is in, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from types import FrameType
from typing import Any

_ASKED = (signal.SIGINT, signal.SIGTERM)
# A terminal that closes sends it, often twice: its shell does, and the system. Windows has none.
_HUNG_UP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()


class StopSignal:
    """While entered, notes the first of the signals in `number`; a second SIGINT or SIGTERM has its usual effect.

    A SIGHUP that is ignored, as under `nohup`, stays so. A `patient` one only notes them, however many come: torchrun
    passes on to its processes what the terminal has sent them already.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.number: int | None = None
        self.patient = patient
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        heard = [number for number in _HUNG_UP if signal.getsignal(number) != signal.SIG_IGN]
        for number in (*_ASKED, *heard):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the host program keeps its own handlers
                break
        return self

    def __exit__(self, *_: object) -> None:
        self._put_back(self._before)

    def _put_back(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            signal.signal(number, self._before[number])

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number
        if not self.patient and number in _ASKED:
            self._put_back(_ASKED)
