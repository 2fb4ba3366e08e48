"""Put the tables of `mixstill reproduce` that lie in results/ into README.md and docs/reproduction.md.

    python benchmarks/reproduction.py
    python benchmarks/reproduction.py --check

A table NAME is what `mixstill reproduce` wrote as table.json, at results/reproduce-NAME/. `--check` writes nothing, and
exits with 1 where a page shows something else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from page import fill, stale

from mixstill.reproduction.table import rows, summary, teachers

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "reproduction.md")
NAMES = ("cifar100-micro", "cifar100-full")
ABSENT = "Not measured."


def tables(results: Path) -> dict[str, str]:
    """All tables by name."""
    pieces = {"rows": rows, "teachers": teachers, "summary": summary, "source": source}
    found = {}
    for name in NAMES:
        path = results / f"reproduce-{name}" / "table.json"
        table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        found |= {f"{name}, {piece}": ABSENT if table is None else make(table) for piece, make in pieces.items()}
    return found


def source(table: Mapping[str, Any]) -> str:
    """The command, commit and machine of a table."""
    machine = table["machine"]
    return f"`{table['command']}`, commit {table['commit']}, {table['jobs']} runs at a time on {machine['device']}."


def main() -> None:
    """Fill the pages, or look whether they are filled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    found = tables(ROOT / "results")
    for path in PAGES:
        if not options.check:
            fill(path, found)
        elif old := stale(path, found):
            sys.exit(f"{path.name} is stale: {', '.join(old)}; python benchmarks/reproduction.py fills it")


if __name__ == "__main__":
    main()
