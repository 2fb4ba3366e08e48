"""Top-1 by epoch of every row, as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from mixstill.reproduction.plan import Plan
from mixstill.reproduction.rows import MAIN, Row
from mixstill.train.evaluate import HEADS
from mixstill.train.journal import read_lines
from mixstill.train.run import METRICS_FILE

Curve = dict[int, float]  # epoch, from 1 -> top-1 in percent


def draw(plan: Plan, seeds: Sequence[int], path: Path) -> None:
    """Write the picture: the main rows on the left, the ablations on the right; the mean over seeds, and its range."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    rows = [row for row in plan.experiment.rows if row.head_of is None]
    sides = ([row for row in rows if row.group == MAIN], [row for row in rows if row.group != MAIN])
    for axes, side, title in zip(figure.subplots(1, 2, sharey=True), sides, ("main rows", "ablations"), strict=True):
        for row in side:
            curves = [curve for seed in seeds if (curve := _curve(plan, row, seed))]
            if curves:
                longest = max(map(len, curves))
                curves = [curve for curve in curves if len(curve) == longest]  # one on its way would cut them short
                epochs = sorted(set.intersection(*map(set, curves)))
                values = [[curve[epoch] for curve in curves] for epoch in epochs]
                (line,) = axes.plot(epochs, [statistics.fmean(each) for each in values], label=row.name)
                axes.fill_between(epochs, [*map(min, values)], [*map(max, values)], color=line.get_color(), alpha=0.2)
        axes.set(title=title, xlabel="epoch")
        if axes.lines:
            axes.legend(fontsize="small")
    figure.axes[0].set_ylabel("top-1 on test (%)")
    with rc_context({"svg.hashsalt": "mixstill"}):  # the same picture for the same figures
        figure.savefig(path, format="svg", metadata={"Date": None})


def _curve(plan: Plan, row: Row, seed: int) -> Curve:
    """The evaluations of a run so far."""
    path = plan.place(row, seed) / METRICS_FILE
    measured = [line for line in read_lines(path) if "eval" in line]  # the last one may be half written
    return {
        line["epoch"] + 1: next(line["eval"][name] for name in HEADS if name in line["eval"])["top1"]
        for line in measured
    }
