"""The picture of top-1 by epoch: what is drawn, and that the same figures give the same file."""

import json
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes

from mixstill.reproduction.cifar100 import CIFAR100
from mixstill.reproduction.curves import draw

ROWS = {row.name: row for row in CIFAR100.rows}


@pytest.fixture
def measure(plan):
    """Writes the metrics of a run: top-1 after each epoch, of the average of the heads where there are several."""

    def write(name, seed, top1, *, heads=True, more=""):
        lines = []
        for epoch, value in enumerate(top1):
            scores = {"average": {"top1": value}, "class": {"top1": 1.0}, "distill": {"top1": 2.0}}
            lines.append({"step": 10 * epoch + 5, "epoch": epoch, "total": 3.0})
            lines.append(
                {"step": 10 * epoch + 10, "epoch": epoch, "eval": scores if heads else {"class": {"top1": value}}}
            )
        path = plan.place(ROWS[name], seed)
        path.mkdir(parents=True, exist_ok=True)
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + more)

    return write


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: label -> number of the side, epochs, means; and the least and largest values of each curve."""
    lines, ranges = {}, []
    plot, fill = Axes.plot, Axes.fill_between

    def note_line(axes, x, y, **options):
        lines[options["label"]] = (axes.figure.axes.index(axes), list(x), list(y))
        return plot(axes, x, y, **options)

    def note_range(axes, x, low, high, **options):
        ranges.append((list(low), list(high)))
        return fill(axes, x, low, high, **options)

    monkeypatch.setattr(Axes, "plot", note_line)
    monkeypatch.setattr(Axes, "fill_between", note_range)
    return lines, ranges


def test_each_row_is_its_mean_and_range_over_seeds_main_rows_on_the_left(plan, measure, drawn, tmp_path) -> None:
    measure("plain", 0, [10.0, 20.0, 30.0], heads=False)
    measure("plain", 1, [20.0, 40.0, 50.0], heads=False)
    measure("plain", 2, [90.0, 90.0], heads=False)  # still on its way: it does not cut the others short
    measure("std", 1, [50.0])
    measure("soft", 0, [60.0, 70.0])
    draw(plan, [0, 1, 2], tmp_path / "curves.svg")
    lines, ranges = drawn
    assert lines == {
        "plain": (0, [1, 2, 3], [15.0, 30.0, 40.0]),
        "std": (0, [1], [50.0]),
        "soft": (1, [1, 2], [60.0, 70.0]),
    }
    assert ranges[0] == ([10.0, 20.0, 30.0], [20.0, 40.0, 50.0])
    assert ranges[2] == ([60.0, 70.0], [60.0, 70.0])


def test_it_is_an_svg_that_names_the_rows(plan, measure, tmp_path) -> None:
    measure("plain", 0, [10.0, 20.0])
    draw(plan, [0], tmp_path / "curves.svg")
    assert ElementTree.parse(tmp_path / "curves.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    text = (tmp_path / "curves.svg").read_text()
    assert "<!-- plain -->" in text
    assert "<!-- std -->" not in text


def test_the_same_figures_give_the_same_bytes_and_others_do_not(plan, measure, tmp_path) -> None:
    files = [tmp_path / f"{number}.svg" for number in range(3)]
    for file, last in zip(files, (20.0, 20.0, 21.0), strict=True):
        measure("plain", 0, [10.0, last])
        draw(plan, [0], file)
    one, same, other = (file.read_bytes() for file in files)
    assert one == same != other


def test_without_a_run_there_is_a_picture_without_curves(plan, drawn, tmp_path) -> None:
    draw(plan, [], tmp_path / "curves.svg")
    assert drawn == ({}, [])
    assert (tmp_path / "curves.svg").stat().st_size > 0


def test_a_line_that_is_half_written_is_passed_over(plan, measure, drawn, tmp_path) -> None:
    measure("plain", 0, [10.0, 20.0], more='{"step": 30, "epoch": 2, "ev')
    draw(plan, [0], tmp_path / "curves.svg")
    assert drawn[0] == {"plain": (0, [1, 2], [10.0, 20.0])}
