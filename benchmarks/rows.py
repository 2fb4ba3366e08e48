"""Collect finished runs into one JSON of rows, and print its table.

    python benchmarks/rows.py results/NAME.json --command "..." --note "..." --row ROW=RUN[,RUN...] ...
    python benchmarks/rows.py results/NAME.json

A row is the mean and the spread over the seeds of its runs, each at its last epoch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from provenance import head

from mixstill.spread import shown, spread


def main() -> None:
    """Write the rows that are named, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--row", action="append", default=[], metavar="ROW=RUN[,RUN...]")
    parser.add_argument("--command", action="append", default=[])
    parser.add_argument("--note", default="")
    parser.add_argument("--commit", help="what the runs were made with, where it is not what is checked out")
    options = parser.parse_args()
    if options.row:
        commit = options.commit or head()
        rows = dict(_row(text) for text in options.row)
        result = {"commands": options.command, "commit": commit, "note": options.note, "rows": rows}
        options.file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(json.loads(options.file.read_text(encoding="utf-8"))))


def _row(text: str) -> tuple[str, dict[str, Any]]:
    name, _, runs = text.partition("=")
    summaries = [json.loads((Path(run) / "summary.json").read_text(encoding="utf-8")) for run in runs.split(",")]
    if not all(summary["complete"] for summary in summaries):
        raise SystemExit(f"{name}: a run is not complete")
    first = summaries[0]
    row: dict[str, Any] = {
        "seeds": [summary["config"]["train"]["seed"] for summary in summaries],
        "parameters": first["parameters"],
        "epochs": first["epochs"],
        "steps": first["steps"],
        "minutes": [round(summary["seconds"] / 60, 1) for summary in summaries],
        "teachers": list(first["teachers"]),
        "machine": first["machine"],
    }
    for key in ("top1", "top5", "loss"):
        row[key] = spread([summary[key] for summary in summaries])
    row["heads"] = {
        head: spread([summary["heads"]["test"][head]["top1"] for summary in summaries])
        for head in first["heads"]["test"]
    }
    return name, row


def table(result: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = ["| row | parameters | top-1 | top-5 | seeds | minutes |", "|---|---|---|---|---|---|"]
    for name, row in result["rows"].items():
        top1, top5 = (shown(row[key]) for key in ("top1", "top5"))
        minutes = ", ".join(str(value) for value in row["minutes"])
        lines.append(f"| {name} | {row['parameters']:,} | {top1} | {top5} | {len(row['seeds'])} | {minutes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
