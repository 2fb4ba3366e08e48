"""The table: figures of made-up summaries as worked out by hand, and the page that shows them."""

import math

import pytest

from mixstill.reproduction.cifar100 import CIFAR100
from mixstill.reproduction.clock import note
from mixstill.reproduction.table import collect, page

ROWS = {row.name: row for row in CIFAR100.rows}

# seed -> top-1; `plain` lacks seed 2, `soft` has that one alone
PLAIN = {0: 40.0, 1: 42.0}
STD = {0: 45.0, 1: 46.0, 2: 50.0}
CLASS_HEAD = {0: 43.0, 1: 44.0, 2: 45.0}
DISTILL_HEAD = {0: 41.0, 1: 45.0, 2: 49.0}
SOFT = {2: 44.0}


@pytest.fixture
def filled(plan, leave):
    """The plan with complete runs of three rows and of one teacher, and with runs that are not complete."""
    for seed, top1 in PLAIN.items():
        leave(plan.place(ROWS["plain"], seed), top1=top1, top5=top1 + 30)
    leave(plan.place(ROWS["plain"], 2), top1=99.0, complete=False)
    leave(plan.place(ROWS["no-mi"], 0), top1=99.0, complete=False)
    for seed, top1 in STD.items():
        heads = {
            "class": {"top1": CLASS_HEAD[seed], "top5": 70.0},
            "distill": {"top1": DISTILL_HEAD[seed], "top5": 75.0},
        }
        leave(
            plan.place(ROWS["std"], seed),
            top1=top1,
            heads={"test": heads},
            parameters=190_000,
            seconds=90.0 + 60 * seed,
            commit=f"c{seed % 2}",
        )
    leave(plan.place(ROWS["soft"], 2), top1=SOFT[2])
    small, large = plan.teachers()
    leave(small.path, top1=49.0, top5=79.0, parameters=83_892)
    leave(large.path, top1=99.0, complete=False)
    return plan


@pytest.fixture
def table(filled):
    return collect(filled, [0, 1, 2], "mixstill reproduce cifar100")


def row(table, name):
    return next(entry for entry in table["rows"] if entry["name"] == name)


def part(table, *rows):
    return next((entry["difference"] for entry in table["parts"] if entry["rows"] == list(rows)), None)


def test_rows_with_a_complete_run_stand_in_the_order_of_the_experiment(table) -> None:
    assert [entry["name"] for entry in table["rows"]] == ["plain", "std", "class-head", "distill-head", "soft"]
    assert [entry["name"] for entry in table["teachers"]] == ["cifar100-micro-teacher"]


def test_a_row_has_the_mean_and_the_spread_over_its_complete_seeds(table) -> None:
    std = row(table, "std")
    assert std["seeds"] == [0, 1, 2]
    assert std["top1"]["values"] == [45.0, 46.0, 50.0]
    assert std["top1"]["mean"] == 47.0
    assert std["top1"]["std"] == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert std["top5"] == {"mean": 80.0, "std": 0.0, "values": [80.0] * 3}
    assert row(table, "plain")["top5"]["mean"] == 71.0
    assert std["minutes"] == [1.5, 2.5, 3.5]
    assert std["commits"] == ["c0", "c1"]
    assert (std["recipe"], std["group"], std["epochs"]) == ("cifar100-std", "main", 4)
    assert std["machine"] == {"device": "made up"}


def test_a_row_has_the_command_that_trains_it_and_what_it_changes(table) -> None:
    assert row(table, "soft")["command"] == "mixstill reproduce cifar100 --rows soft --seeds 3"
    assert row(table, "plain")["command"] == "mixstill reproduce cifar100 --rows plain --seeds 2"
    assert row(table, "soft")["overrides"] == {"distill": {"kind": "soft", "tau": 3.0}}
    assert row(table, "std")["overrides"] == {}


def test_minutes_are_those_of_all_attempts(filled) -> None:
    note(filled.place(ROWS["std"], 0), 300.0)
    note(filled.place(ROWS["std"], 0), 60.0)
    assert row(collect(filled, [0, 1], "mixstill"), "std")["minutes"] == [6.0, 2.5]


def test_one_seed_has_no_spread(table) -> None:
    assert row(table, "soft")["top1"] == {"mean": 44.0, "std": None, "values": [44.0]}


def test_a_gain_is_over_the_plain_student_of_the_same_seed(table) -> None:
    assert row(table, "plain")["gain"] is None
    gain = row(table, "std")["gain"]  # 45 - 40 and 46 - 42; seed 2 has no plain student
    assert gain["seeds"] == [0, 1]
    assert gain["values"] == [5.0, 4.0]
    assert gain["mean"] == 4.5
    assert gain["std"] == pytest.approx(math.sqrt(0.5))
    assert row(table, "soft")["gain"] is None  # no seed in common


def test_a_part_is_the_difference_seed_by_seed_and_is_left_out_where_no_seed_has_both(table) -> None:
    heads = part(table, "std", "class-head")  # 45 - 43, 46 - 44, 50 - 45
    assert (heads["seeds"], heads["values"], heads["mean"]) == ([0, 1, 2], [2.0, 2.0, 5.0], 3.0)
    assert heads["std"] == pytest.approx(math.sqrt(3))
    assert part(table, "std", "soft") == {"mean": 6.0, "std": None, "values": [6.0], "seeds": [2]}
    assert part(table, "std", "plain")["mean"] == row(table, "std")["gain"]["mean"]
    alone = part(table, "distill-head", "class-head")  # 41 - 43, 45 - 44, 49 - 45
    assert (alone["values"], alone["mean"]) == ([-2.0, 1.0, 4.0], 1.0)
    assert len(table["parts"]) == 4


def test_a_row_at_another_head_has_the_figures_of_that_head(table) -> None:
    at_class, distilled = row(table, "class-head"), row(table, "distill-head")
    assert (at_class["top1"]["values"], at_class["top5"]["mean"]) == ([43.0, 44.0, 45.0], 70.0)
    assert (distilled["top1"]["values"], distilled["top5"]["mean"]) == ([41.0, 45.0, 49.0], 75.0)
    assert at_class["gain"]["values"] == [3.0, 2.0]
    assert at_class["recipe"] == "that of std"
    assert at_class["minutes"] == row(table, "std")["minutes"]
    assert row(table, "std")["top1"]["values"] == [45.0, 46.0, 50.0]


def test_parameters_are_those_that_inference_needs(table) -> None:
    found = {entry["name"]: entry["parameters"] for entry in table["rows"]}
    assert found == {"plain": 160_000, "std": 190_000, "class-head": 160_000, "distill-head": 190_000, "soft": 160_000}


def test_a_teacher_has_its_figures_once(table) -> None:
    assert table["teachers"] == [
        {
            "name": "cifar100-micro-teacher",
            "published": None,
            "top1": 49.0,
            "top5": 79.0,
            "parameters": 83_892,
            "epochs": 4,
            "machine": {"device": "made up"},
            "minutes": 2.0,
            "commit": "abc",
        }
    ]


def test_published_figures_stand_beside_the_rows(table) -> None:
    source = "reproduction report, table 3.3.1"
    assert row(table, "plain")["published"] == {"top1": 70.68, "top5": 88.91, "source": source}
    assert row(table, "std")["published"] is None


def test_without_a_run_the_table_is_empty(plan) -> None:
    names = [row.name for row in plan.experiment.rows]
    assert collect(plan, [], "mixstill") == {"teachers": [], "rows": [], "parts": [], "missing": names}


def lines_of(table, given=()) -> list[str]:
    about = {
        "title": "CIFAR-100",
        "scale": "micro",
        "what": "small",
        "jobs": 2,
        "commit": "abc",
        "command": "mixstill x",
        "settings": {"all": dict(given)},
    }
    return page(table | about | {"summary": ["first", "second"]}).splitlines()


def test_the_page_shows_the_rows_the_teachers_and_the_sentences(table) -> None:
    lines = lines_of(table)
    what = ROWS["std"].what
    assert (
        f"| std | {what} | 47.00 ± 2.65 | 80.00 ± 0.00 | +4.50 ± 0.71 | - | 0.19 | 0, 1, 2 | 2, 2, 4 | c0, c1 |"
        in lines
    )
    what = ROWS["plain"].what
    assert f"| plain | {what} | 41.00 ± 1.41 | 71.00 ± 1.41 | - | 70.68 / 88.91 | 0.16 | 0, 1 | 2, 2 | abc |" in lines
    assert f"| soft | {ROWS['soft'].what} | 44.00 | 80.00 | - | - | 0.16 | 2 | 2 | abc |" in lines
    assert "| cifar100-micro-teacher | 49.00 | 79.00 | - | 0.08 | 2 |" in lines
    assert lines[0] == "# CIFAR-100, micro"
    assert lines.index("- second") == lines.index("- first") + 1
    assert "![top-1 by epoch](curves.svg)" in lines
    assert lines[-1] == "`mixstill x`, last called at commit abc, 2 runs at a time."


def test_the_page_tells_what_the_command_line_changed(table) -> None:
    assert not any("command line" in line for line in lines_of(table))
    lines = lines_of(table, {"train.epochs": "1", "train.amp": True})
    assert "With fields from the command line: train.epochs 1, train.amp True." in lines


def test_the_page_of_an_empty_table_has_no_tables(plan) -> None:
    lines = lines_of(collect(plan, [], "mixstill"))
    assert not any(line.startswith("|") for line in lines)
    assert "\n\n\n" not in "\n".join(lines)
