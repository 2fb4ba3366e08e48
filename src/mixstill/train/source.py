"""Which commit of mixstill runs, where it runs from a checkout."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path


@cache
def commit() -> str | None:
    """The commit that is checked out, with `-dirty` behind it where files differ from it; None outside a checkout.

    MIXSTILL_COMMIT tells it for a copy of a checkout without its history.
    """
    if told := os.environ.get("MIXSTILL_COMMIT"):
        return told
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude", "*", "--dirty"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
