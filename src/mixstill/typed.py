"""What this user has named on a command line, or to `train`, himself: digests of it in his state folder.

A run directory, or weights, that name just this are his own; they may ask for what a stranger's file may not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def remember(named: Mapping[str, Any]) -> None:
    """Note that the user named this. A state folder that cannot be written to is passed over in silence."""
    try:
        mark = _mark(named)
        mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark.touch(mode=0o600)
    except (OSError, RuntimeError):  # no home, no room, no permission: the user is then asked to name it again
        pass


def known(named: Mapping[str, Any]) -> bool:
    """Whether the user named just this before."""
    try:
        return _mark(named).is_file()
    except (OSError, RuntimeError):
        return False


def _mark(named: Mapping[str, Any]) -> Path:
    """The file that stands for it: `$XDG_STATE_HOME/mixstill/typed/DIGEST`, by default in ~/.local/state."""
    text = json.dumps(named, sort_keys=True, default=repr)
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    root = state if state.is_absolute() else Path.home() / ".local" / "state"
    return root / "mixstill" / "typed" / hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
