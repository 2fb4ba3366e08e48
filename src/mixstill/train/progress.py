"""How a run shows itself: a bar with loss, images/s and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mixstill.telling import lossy, tell


class Display:
    """Shows steps and messages of one run on standard error; `quiet` shows nothing.

    The rate counts from the first step of this process, so that a resumed run shows its own speed.
    """

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self.title = title
        self.quiet = quiet
        console = Console(stderr=True)
        console.file = lossy(console.file)
        self.bar = (
            None
            if quiet or not console.is_terminal
            else Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=console,
            )
        )
        self.images = self.steps = 0
        self.since = time.monotonic()

    @contextmanager
    def running(self, step: int, total: int) -> Iterator[None]:
        """Show steps from `step` to `total` while entered, and leave the terminal as it was."""
        self.since = time.monotonic()
        if self.bar is None:
            yield
            return
        self.bar.add_task(self.title, total=total, completed=step, status="")
        with self.bar:
            yield

    def advance(self, images: int) -> None:
        """One step of `images` samples is done."""
        self.images += images
        self.steps += 1
        if self.bar is not None:
            self.bar.advance(self.bar.task_ids[0])

    def rate(self) -> float:
        """Images per second so far."""
        return self.images / max(time.monotonic() - self.since, 1e-9)

    def metrics(self, step: int, total: int, means: Mapping[str, float]) -> None:
        """The means of a window of steps."""
        self.status(step, total, f"loss {means['total']:.3f}  {self.rate():.0f} images/s")

    def status(self, step: int, total: int, status: str) -> None:
        """How it goes: in the bar, or as a line with the time that is left."""
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], status=status)
            return
        left = (time.monotonic() - self.since) * (total - step) / max(self.steps, 1)
        self.say(f"step {step}/{total}  {status}  {left / 60:.1f} min left")

    def say(self, text: str) -> None:
        """One line."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """One line, even where the display is quiet."""
        if self.bar is not None:
            self.bar.console.print(f"{self.title}: {text}", highlight=False, markup=False)
        else:
            tell(f"{self.title}: {text}")
