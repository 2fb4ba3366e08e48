"""The table of an experiment from the summaries of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixstill.markdown import grid
from mixstill.reproduction.clock import minutes
from mixstill.reproduction.plan import Plan
from mixstill.reproduction.rows import Published, Row
from mixstill.spread import shown, spread
from mixstill.train.run import complete_summary

Table = dict[str, Any]
Scores = dict[int, dict[str, Any]]  # seed -> the summary of a complete run


def collect(plan: Plan, seeds: Sequence[int], command: str) -> Table:
    """All rows with at least one complete run, and the teachers: accuracy at the last epoch, mean and spread.

    `gain` is the difference to the plain student of the same seed; `parts` are the differences of rows, seed by seed.
    A row's command is `command` for it and its seeds.
    """
    experiment = plan.experiment
    found = {row.name: scores for row in experiment.rows if (scores := _scores(plan, row, seeds))}
    entries = [_row(plan, row, found[row.name], command) for row in experiment.rows if row.name in found]
    for entry in entries:
        plain = found.get(experiment.plain, {})
        entry["gain"] = None if entry["name"] == experiment.plain else _difference(found[entry["name"]], plain)
    parts = [
        {"what": part.what, "rows": [part.with_it, part.without], "difference": difference}
        for part in experiment.parts
        if (difference := _difference(found.get(part.with_it, {}), found.get(part.without, {})))
    ]
    missing = [row.name for row in experiment.rows if row.name not in found]
    return {"teachers": _taught(plan), "rows": entries, "parts": parts, "missing": missing}


def _scores(plan: Plan, row: Row, seeds: Sequence[int]) -> Scores:
    """Summaries of the complete runs by seed, top-1 and top-5 being those of the row's head."""
    found: Scores = {}
    for seed in seeds:
        summary = complete_summary(plan.place(row, seed))
        if summary is not None:
            at_head = summary["heads"]["test"][row.head] if row.head is not None else {}
            found[seed] = summary | {key: at_head[key] for key in ("top1", "top5") if at_head}
    return found


def _row(plan: Plan, row: Row, scores: Scores, command: str) -> Table:
    first = next(iter(scores.values()))
    return {
        "name": row.name,
        "what": row.what,
        "group": row.group,
        "recipe": row.recipe or f"that of {row.head_of}",
        "overrides": row.overrides,
        "seeds": list(scores),
        "top1": spread([summary["top1"] for summary in scores.values()]),
        "top5": spread([summary["top5"] for summary in scores.values()]),
        "published": _published(row.published),
        "parameters": first["backbone_parameters"] if row.head == "class" else first["parameters"],
        "epochs": first["epochs"],
        "minutes": [minutes(plan.place(row, seed), summary) for seed, summary in scores.items()],
        "commits": sorted({str(summary.get("commit")) for summary in scores.values()}),
        "machine": first["machine"],
        "command": f"{command} --rows {row.name} --seeds {max(scores) + 1}",
    }


def _difference(scores: Scores, others: Scores) -> Table | None:
    """The spread of the differences in top-1 over the seeds that both have; None where they share none."""
    differences = {seed: scores[seed]["top1"] - others[seed]["top1"] for seed in scores if seed in others}
    return spread(list(differences.values())) | {"seeds": list(differences)} if differences else None


def _taught(plan: Plan) -> list[Table]:
    found = []
    for run, teacher in zip(plan.teachers(), plan.scale.teachers.values(), strict=True):
        summary = complete_summary(run.path)
        if summary is not None:
            scores = {key: summary[key] for key in ("top1", "top5", "parameters", "epochs", "machine")}
            about = {"name": teacher.recipe, "published": _published(teacher.published)}
            found.append(about | scores | {"minutes": minutes(run.path, summary), "commit": summary.get("commit")})
    return found


def _published(figure: Published | None) -> Table | None:
    return None if figure is None else {"top1": figure.top1, "top5": figure.top5, "source": figure.source}


def page(table: Mapping[str, Any]) -> str:
    """The page of a table: what was run, teachers, rows, and the sentences of its summary."""
    about = (
        f"{table['title']}, scale {table['scale']}: {table['what']}. On the test split after the last epoch; mean ± "
        "standard deviation over the seeds of the student; all share the teachers. Minutes are of each run "
        "beside others on the same machine."
    )
    given = ", ".join(f"{name} {value}" for name, value in table["settings"]["all"].items())
    changed = f"With fields from the command line: {given}." if given else ""
    source = f"`{table['command']}`, last called at commit {table['commit']}, {table['jobs']} runs at a time."
    pieces = [f"# {table['title']}, {table['scale']}", about, changed, teachers(table), rows(table), summary(table)]
    return "\n\n".join(piece for piece in [*pieces, "![top-1 by epoch](curves.svg)", source] if piece) + "\n"


def rows(table: Mapping[str, Any]) -> str:
    """The rows in Markdown."""
    return grid(
        [
            {
                "row": entry["name"],
                "what it is": entry["what"],
                "top-1": shown(entry["top1"]),
                "top-5": shown(entry["top5"]),
                "minus plain": shown(entry["gain"], "+"),
                "published": _printed(entry),
                "parameters (M)": f"{entry['parameters'] / 1e6:.2f}",
                "seeds": ", ".join(map(str, entry["seeds"])),
                "minutes": ", ".join(f"{minutes:.0f}" for minutes in entry["minutes"]),
                "commit": ", ".join(commit[:8] for commit in entry["commits"]),
            }
            for entry in table["rows"]
        ]
    )


def teachers(table: Mapping[str, Any]) -> str:
    """The teachers in Markdown."""
    return grid(
        [
            {
                "teacher": entry["name"],
                "top-1": f"{entry['top1']:.2f}",
                "top-5": f"{entry['top5']:.2f}",
                "published": _printed(entry),
                "parameters (M)": f"{entry['parameters'] / 1e6:.2f}",
                "minutes": f"{entry['minutes']:.0f}",
            }
            for entry in table["teachers"]
        ]
    )


def summary(table: Mapping[str, Any]) -> str:
    """What the table says, as a list in Markdown."""
    return "\n".join(f"- {line}" for line in table["summary"])


def _printed(entry: Mapping[str, Any]) -> str:
    figures = [] if entry["published"] is None else [entry["published"][key] for key in ("top1", "top5")]
    return " / ".join(f"{figure:.2f}" for figure in figures if figure is not None) or "-"
