"""Put the measured figures of results/ into docs/performance.md.

    python benchmarks/performance.py
    python benchmarks/performance.py --check

The races are those that `benchmarks/races/race.py all --output results` wrote. What is not there is said not to have
been measured, and so are rehearsals (`--toy`) and races that failed. `--check` writes nothing, and exits with 1 where
the page shows something else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "races"))

from duels import DUELS
from page import fill, stale
from task import PRECISIONS, RACES

from mixstill.distill.published import PAPER
from mixstill.distill.sizes import size_of
from mixstill.markdown import grid
from mixstill.train.trial import PIECES

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "results"
DEVICES = ("cpu", "cuda")
ABSENT = "not measured"
OPERATORS = 8


@dataclass(frozen=True)
class Bar:
    """What a ratio has to be: `least` for a lead over another, `most` for what something of ours may cost."""

    about: str
    race: str
    precision: str
    duel: str
    contender: str
    least: float | None = None
    most: float | None = None


_FULL = "a full distillation step beside devrimcavusoglu/std"
BARS = {
    "cpu": (
        Bar(f"{_FULL}, each at its best", "full", "best", "std", "std", least=3.0),
        Bar(f"{_FULL}, in float32", "full", "eager", "std", "std", least=1.2),
        Bar("a plain student's step beside timm's train.py, in float32", "student", "eager", "timm", "timm", least=1.0),
        Bar("a plain student's step beside timm's, each at its best", "student", "best", "timm", "timm", least=1.0),
        Bar("a step with cached teachers beside one without", "overhead", "best", "distillation", "cached", most=1.1),
        Bar("the stripped student beside timm's model", "inference", "best", "inference", "timm", least=1.0),
    ),
    "cuda": (
        Bar(f"{_FULL}, each at its best", "full", "best", "std", "std", least=3.0),
        Bar("loader to step beside timm's train.py with a teacher", "full", "best", "timm-kd", "timm", least=3.0),
        Bar("a step with cached teachers beside one without", "overhead", "best", "distillation", "cached", most=1.1),
        Bar("the stripped student beside timm's model", "inference", "best", "inference", "timm", least=1.0),
    ),
}


class Results:
    """What was measured: the JSON files of a folder, by race, device and precision."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, race: str, device: str, precision: str) -> dict[str, Any] | None:
        """All of one race; None where there is none, or only a rehearsal."""
        path = self.folder / f"race-{race}-{device}-{precision}.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return None if found["toy"] else found

    def bfloat16(self, race: str, device: str) -> bool:
        """Whether a race was run on hardware that computes in bfloat16."""
        found = self.file(race, device, "eager")
        return found is None or bool(found["bf16"])

    def duel(self, race: str, device: str, precision: str, name: str) -> dict[str, Any] | None:
        """One duel of a race; None where there is none, or where it failed."""
        found = self.file(race, device, precision)
        duel = None if found is None else found["duels"].get(name)
        return None if duel is None or "failed" in duel else duel


def tables(results: Results) -> dict[str, str]:
    """All tables of the page by name."""
    rows: dict[str, Iterator[dict[str, Any]]] = {"modules": modules(results)}
    for device in DEVICES:
        rows |= {
            f"bars, {device}": bars(results, device),
            f"races, {device}": races(results, device),
            f"overhead, {device}": overhead(results, device),
            f"compilation, {device}": compilation(results, device),
            f"shares, {device}": shares(results, device),
            f"operators, {device}": operators(results, device),
            f"sources, {device}": sources(results, device),
        }
    return {name: grid(list(found)) for name, found in rows.items()}


def bars(results: Results, device: str) -> Iterator[dict[str, Any]]:
    """Each bar, what came out, and whether it is met."""
    for bar in BARS[device]:
        duel = results.duel(bar.race, device, bar.precision, bar.duel)
        if duel is None and bar.precision == "best" and not results.bfloat16(bar.race, device):
            duel = results.duel(bar.race, device, "eager", bar.duel)  # then that is everyone's best
        row = {"what": bar.about, "bar": f"{bar.least}x" if bar.most is None else f"<= {bar.most}x"}
        if duel is None:
            yield row | {"measured": ABSENT, "met": "-"}
            continue
        ratio = duel["ratios"][bar.contender]
        met = ratio["median"] >= bar.least if bar.least is not None else ratio["median"] <= (bar.most or 0)
        yield row | {"measured": _ratio(ratio), "met": "yes" if met else "no"}


def races(results: Results, device: str) -> Iterator[dict[str, Any]]:
    """Every race that was run beside another program; one row where none was."""
    met = False
    for race, (name, duel), precision in product(RACES, DUELS.items(), PRECISIONS):
        found = results.duel(race, device, precision, name)
        if race == "overhead" or found is None:
            continue
        met = True
        first, other = duel.contenders
        ours, theirs = (f"{found['contenders'][each]['images_per_second']:,.1f}" for each in (first, other))
        row = {"race": race, "beside": name, "precision": precision, "ours": ours, "theirs": theirs}
        yield row | {"ratio": _ratio(found["ratios"][other]), "losses": _losses(found["losses"])}
    if not met:
        yield dict.fromkeys(("race", "beside", "precision", "ours", "theirs", "ratio", "losses"), ABSENT)


def overhead(results: Results, device: str) -> Iterator[dict[str, Any]]:
    """What live and cached teachers add to a step, of one without distillation; one row where nothing was measured."""
    found = {precision: results.duel("overhead", device, precision, "distillation") for precision in PRECISIONS}
    for precision, duel in found.items():
        for name in DUELS["distillation"].contenders if duel is not None else ():
            seconds = duel["contenders"][name]["seconds_per_step"]["median"]
            ratio = duel["ratios"].get(name)
            row = {"precision": precision, "step": name, "ms": f"{1e3 * seconds:,.1f}"}
            yield row | {"of the plain step": _ratio(ratio) if ratio else "1"}
    if not any(found.values()):
        yield dict.fromkeys(("precision", "step", "ms", "of the plain step"), ABSENT)


def modules(results: Results) -> Iterator[dict[str, Any]]:
    """What two modules add to a student: counted; and measured, where a step without teachers' forward was."""
    for name, classes in [("mixer_s4_32", 100), *((row.backbone, 1000) for row in PAPER)]:
        size = size_of(f"std_{name}", classes)
        row = {
            "student": name,
            "parameters (M)": _grown(size.plain_params / 1e6, size.params / 1e6),
            "MACs (G)": _grown(size.plain_macs / 1e9, size.macs / 1e9),
        }
        for device in DEVICES:
            found = results.duel("overhead", device, "best", "distillation") if name == "mixer_s4_32" else None
            row[f"time of a step, {device}"] = ABSENT if found is None else _ratio(found["ratios"]["cached"])
        yield row


def compilation(results: Results, device: str) -> Iterator[dict[str, Any]]:
    """Our full step at each precision, and after how many steps its compilation is paid back."""
    found = {precision: results.duel("full", device, precision, "std") for precision in PRECISIONS}
    eager = found["eager"]
    for precision, duel in found.items():
        if duel is not None:
            ours = duel["contenders"]["ours"]
            row = {"precision": precision, "images/s": f"{ours['images_per_second']:,.1f}"}
            row |= {"first steps (s)": f"{ours['warm_up']['seconds']:.1f}"}
            yield row | {"paid back after (steps)": _paid_back(ours, eager and eager["contenders"]["ours"])}
    if not any(found.values()):
        yield dict.fromkeys(("precision", "images/s", "first steps (s)", "paid back after (steps)"), ABSENT)


def _paid_back(ours: Mapping[str, Any], eager: Mapping[str, Any] | None) -> str:
    """The number of steps whose gain is as long as what the first ones took more."""
    if eager is None or ours is eager:
        return "-"
    gain = eager["seconds_per_step"]["median"] - ours["seconds_per_step"]["median"]
    more = ours["warm_up"]["seconds"] - eager["warm_up"]["seconds"]
    return f"{max(0.0, more / gain):,.0f}" if gain > 0 else "never"


def shares(results: Results, device: str) -> Iterator[dict[str, Any]]:
    """What the pieces of our full step take of it."""
    measured = False
    for precision in PRECISIONS:
        duel = results.duel("full", device, precision, "std")
        if duel and duel["contenders"]["ours"]["shares"]:
            measured = True
            pieces = duel["contenders"]["ours"]["shares"]
            yield {"precision": precision} | {piece: f"{pieces[piece]:.1%}" for piece in PIECES}
    if not measured:
        yield {"precision": ABSENT} | dict.fromkeys(PIECES, ABSENT)


def operators(results: Results, device: str) -> Iterator[dict[str, Any]]:
    """The operators that take most of our full step at its best."""
    duel = results.duel("full", device, "best", "std")
    found = (duel and duel["contenders"]["ours"]["profile"]) or []
    for row in found[:OPERATORS]:
        yield {"operator": f"`{_short(row['operator'])}`", "calls": row["calls"], "share": f"{row['share']:.1%}"}
    if not found:
        yield {"operator": ABSENT, "calls": "-", "share": "-"}


def sources(results: Results, device: str) -> Iterator[dict[str, Any]]:
    """Where the figures come from: command, machine and commit of each file."""
    files = [(race, precision) for race in RACES for precision in PRECISIONS]
    found = {pair: file for pair in files if (file := results.file(pair[0], device, pair[1])) is not None}
    for (race, precision), file in found.items():
        machine = file["machine"]
        yield {
            "file": f"`results/race-{race}-{device}-{precision}.json`",
            "machine": f"{machine['device']}, {machine['processor']}, {'' if file['bf16'] else 'no '}bfloat16",
            "commit": file["commit"][:8],
            "command": f"`{file['command']}`",
        }
    if not found:
        yield {"file": ABSENT, "machine": "-", "commit": "-", "command": "-"}


def _ratio(found: Mapping[str, float]) -> str:
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"


def _losses(found: Mapping[str, Any] | None) -> str:
    """Whether the losses agree, and how far they are apart."""
    if found is None:
        return "-"
    return f"{'agree' if found['agree'] else 'differ'} ({found['largest_difference']:.1%} of {found['tolerance']:.0%})"


def _grown(plain: float, whole: float) -> str:
    return f"{plain:.2f} -> {whole:.2f} (+{whole / plain - 1:.1%})"


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."


def main() -> None:
    """Fill the page, or look whether it is filled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    found = tables(Results(options.results))
    if options.check:
        if old := stale(options.page, found):
            sys.exit(f"{options.page.name} is stale: {', '.join(old)}; python benchmarks/performance.py fills it")
    else:
        fill(options.page, found)


if __name__ == "__main__":
    main()
