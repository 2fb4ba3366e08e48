"""Pages whose tables a script puts in: what stands between `<!-- table: NAME -->` and `<!-- end -->` is replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_TABLE = re.compile(r"<!-- table: (.+?) -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str, tables: Mapping[str, str]) -> str:
    """A page with its tables put in. Raises `KeyError` for one that is not among `tables`."""
    return _TABLE.sub(lambda found: f"<!-- table: {found[1]} -->\n{tables[found[1]]}\n<!-- end -->", text)


def stale(page: Path, tables: Mapping[str, str]) -> list[str]:
    """The names of the tables on a page that are not as they would be put in."""
    now = page.read_text(encoding="utf-8")
    new = filled(now, tables)
    pairs = zip(_TABLE.finditer(now), _TABLE.finditer(new), strict=True)
    return [shown[1] for shown, true in pairs if shown[0] != true[0]]


def fill(page: Path, tables: Mapping[str, str]) -> None:
    """Put the tables into a page."""
    page.write_text(filled(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
