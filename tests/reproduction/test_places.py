"""What may lie in the place of a run: the same run, moved or copied too, and no other."""

import shutil
from dataclasses import replace

import pytest

from mixstill.errors import UserError
from mixstill.reproduction.cifar100 import CIFAR100
from mixstill.reproduction.places import at_home, check_places
from mixstill.schema import write_yaml
from mixstill.train.run import check_output

ROWS = {row.name: row for row in CIFAR100.rows}
SMALL = "cifar100-micro-teacher"


def begin(run) -> None:
    """Leave what a run leaves that has begun."""
    run.path.mkdir(parents=True)
    write_yaml(run.config, run.path / "config.yaml")


def test_a_place_that_is_free_or_holds_the_same_run_is_taken(plan) -> None:
    runs = plan.runs([ROWS["plain"], ROWS["std"]], [0])
    check_places(runs)
    for run in runs:
        begin(run)
    check_places(runs)
    elsewhere = {"data": {"data_dir": "there"}, "train": {"device": "cpu", "max_steps": 3}, "distill": {"cache": "c"}}
    check_places(replace(plan, overrides=elsewhere).runs([ROWS["plain"], ROWS["std"]], [0]))


@pytest.mark.parametrize(
    ("row", "over", "name", "difference"),
    [
        ("plain", {"optim": {"lr": 0.5}}, "plain, seed 0", "optim.lr: 0.003 -> 0.5"),
        ("std", {"train": {"epochs": 1}}, f"teacher {SMALL}", "train.epochs: 5 -> 1"),
        ("std", {"distill": {"alpha": 0.25}}, "std, seed 0", "distill.alpha: 0.5 -> 0.25"),
    ],
)
def test_a_place_that_holds_another_run_is_told_in_one_line(plan, row, over, name, difference) -> None:
    for run in plan.runs([ROWS[row]], [0]):
        begin(run)
    with pytest.raises(UserError) as error:
        check_places(replace(plan, overrides=over).runs([ROWS[row]], [0]))
    text = str(error.value)
    assert text.startswith(f"output: {name} was run otherwise: ")
    assert difference in text
    assert text.endswith("; choose another --output")
    assert "\n" not in text


def test_a_run_that_has_not_begun_is_as_planned(plan) -> None:
    run = plan.run_of(ROWS["std"], 0)
    assert at_home(run) == run


def test_a_run_with_other_teachers_is_another_run_wherever_they_lie(plan) -> None:
    run = plan.run_of(ROWS["std"], 0)
    begin(run)
    for texts in (
        [text.replace(SMALL, "another") for text in run.config.distill.teachers],
        [text.replace("@2/3", "@1/3") for text in run.config.distill.teachers],
        run.config.distill.teachers[::-1],
    ):
        other = replace(run, config=replace(run.config, distill=replace(run.config.distill, teachers=tuple(texts))))
        assert at_home(other) == other
        with pytest.raises(UserError, match=r"distill\.teachers: "):
            check_places([other])


def test_an_output_that_was_moved_goes_on_with_the_teachers_that_moved_along(plan) -> None:
    rows = [ROWS["plain"], ROWS["std"]]
    for run in plan.runs(rows, [0]):
        begin(run)
    moved = replace(plan, output=plan.output.with_name("moved"))
    plan.output.rename(moved.output)
    runs = moved.runs(rows, [0])
    before = [(run.path / "config.yaml").read_bytes() for run in runs]
    check_places(runs)
    assert [(run.path / "config.yaml").read_bytes() for run in runs] == before
    for run in runs:
        assert at_home(run) == run
        check_output(run.config, run.path, resume=True)  # as the run itself does
    check_places(runs)


def test_an_output_that_was_copied_goes_on_with_the_teachers_that_it_began_with(plan) -> None:
    run = plan.run_of(ROWS["std"], 0)
    for each in plan.runs([ROWS["std"]], [0]):
        begin(each)
    copy = replace(plan, output=plan.output.with_name("copy"))
    shutil.copytree(plan.output, copy.output)
    there = copy.run_of(ROWS["std"], 0)
    check_places([there])
    assert at_home(there).path == there.path != run.path
    assert at_home(there).config.distill.teachers == run.config.distill.teachers
    check_output(at_home(there).config, there.path, resume=True)
