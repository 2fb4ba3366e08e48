"""The last two checkpoints of a run: where the newer one is damaged, the run goes on from the one before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mixstill.errors import UserError
from mixstill.train.processes import ALONE, Processes
from mixstill.train.state import DamagedError, State

LAST, PREVIOUS = "last.pt", "previous.pt"


class Checkpoints:
    """The checkpoints in a folder, which the main process writes and all read."""

    def __init__(self, folder: Path, processes: Processes = ALONE) -> None:
        self.last, self.previous = folder / LAST, folder / PREVIOUS
        self.processes = processes
        self._whole = False  # whether the last one is known to be

    @property
    def there(self) -> bool:
        """Whether there is one."""
        return self.last.exists() or self.previous.exists()

    def save(self, state: State) -> None:
        """Write the last one; the one that was that is kept as the previous one, unless it is damaged."""
        if self.processes.main:
            self.last.parent.mkdir(parents=True, exist_ok=True)
            state.save(self.last, keep=self.previous if self._whole else None)
        self._whole = True

    def restore(self, state: State, warn: Callable[[str], None]) -> None:
        """Go back to the last one, or tell what is damaged and go back to the previous one.

        Raises `UserError` where there is no whole one, or one of another run.
        """
        damage: list[str] = []
        for path in (self.last, self.previous):
            damaged = self.processes.union(_damage(state, path))  # all take the same one
            if not damaged:
                if damage:
                    warn(f"warning: {damage[0]}; the run goes on from the one before it, {path}")
                self._whole = path == self.last
                return
            damage += damaged[:1]
        told = [text for text in damage if not text.endswith(_MISSING)] or damage
        raise UserError(f"{'; '.join(told)}; put a copy in its place, or begin anew with another --output")


_MISSING = "is missing"


def _damage(state: State, path: Path) -> set[str]:
    """Restore the state; what is damaged where that cannot be."""
    if not path.exists():
        return {f"checkpoint {path}: {_MISSING}"}
    try:
        state.restore(path)
    except DamagedError as error:
        return {str(error)}
    return set()
