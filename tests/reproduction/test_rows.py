"""The rows of the CIFAR-100 table: each can be built at each scale, and is just what it says to be."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from mixstill import recipes
from mixstill.distill.placement import Placement
from mixstill.reproduction.cifar100 import CIFAR100
from mixstill.reproduction.plan import Plan
from mixstill.schema import to_dict
from mixstill.train.build import check_config

ROWS = {row.name: row for row in CIFAR100.rows}
TRAINED = [row.name for row in CIFAR100.rows if row.head_of is None]
ONCE = {"mi.weight": 1.0, "mi.every": "epoch", "mi.lr": 0.01}
OFF = {"mi.weight": 0.0}
SMALL, LARGE = "cifar100-resnet32", "cifar100-resnet56"

# what each row has that `std` has not, at the full scale
CHANGES = {
    "plain": {"distill.teachers": [], "distill.cache": None} | OFF,
    "std-57": {
        "distill.teachers": [f"{SMALL}@2/3", f"{LARGE}@2/3", f"{SMALL}@last", f"{LARGE}@last"],
        "distill.propagate": True,
    }
    | ONCE,
    "std-52": {"distill.teachers": [f"{LARGE}@last"]} | ONCE,
    "std-56": {"distill.teachers": [f"{SMALL}@last", f"{LARGE}@last"]} | ONCE,
    "soft": {"distill.kind": "soft", "distill.tau": 3.0},
    "no-mi": OFF,
    "no-tokens": {"distill.tokens": "none"} | OFF,
    "spatial": {"distill.tokens": "spatial"} | OFF,
    "last": {"distill.teachers": [f"{SMALL}@last", f"{LARGE}@last"]},
    "large": {"distill.teachers": [f"{LARGE}@last"]},
    "small": {"distill.teachers": [f"{SMALL}@last"]},
    "uniform": {"distill.weights": "uniform"},
    "entropy": {"distill.weights": "entropy"},
    "mi-epoch": ONCE,
    "deit": {"model.name": "mixer_s4_distilled_32", "distill.teachers": [f"{LARGE}@token"]} | OFF,
}

# student, student with DeiT's token, teachers; epochs of the students and of the teachers
SIZES = {
    "full": ("mixer_s4_32", "mixer_s4_distilled_32", ["cifar_resnet32", "cifar_resnet56"], 300, 200),
    "micro": ("mixer_micro_32", "mixer_micro_distilled_32", ["cifar_resnet8", "cifar_resnet14"], 4, 5),
}

PUBLISHED = {
    "plain": (70.68, 88.91),
    "std-57": (77.52, 94.82),
    "std-52": (77.24, 94.08),
    "std-56": (76.93, 94.26),
}


@cache
def leaves(name: str, scale: str) -> dict:
    """The config of a row's run, its teachers by name."""
    raw = to_dict(Plan(CIFAR100, scale, Path("runs"), {}).run_of(ROWS[name], 0).config)
    flat = {f"{section}.{field}": value for section, values in raw.items() for field, value in values.items()}
    placements = [Placement.parse(text) for text in flat["distill.teachers"]]
    return flat | {"distill.teachers": [f"{Path(at.teacher).name}@{at.place}" for at in placements]}


def changes(name: str, scale: str) -> dict:
    std, own = leaves("std", scale), leaves(name, scale)
    return {field: value for field, value in own.items() if value != std[field]}


@pytest.mark.parametrize("scale", CIFAR100.scales)
@pytest.mark.parametrize("name", TRAINED)
def test_a_row_can_be_built_at_each_scale_with_its_student(name, scale, tmp_path) -> None:
    config = Plan(CIFAR100, scale, tmp_path, {}).run_of(ROWS[name], 3).config
    check_config(config)
    plain, token, _, epochs, _ = SIZES[scale]
    assert config.model.name == (token if name == "deit" else plain)
    assert (config.data.dataset, config.train.epochs, config.train.seed) == ("cifar100", epochs, 3)


@pytest.mark.parametrize("scale", CIFAR100.scales)
def test_the_teachers_of_a_scale_can_be_built(scale, tmp_path) -> None:
    runs = Plan(CIFAR100, scale, tmp_path, {}).teachers()
    for run in runs:
        check_config(run.config)
    _, _, names, _, epochs = SIZES[scale]
    assert [run.config.model.name for run in runs] == names
    assert {(run.config.data.dataset, run.config.train.epochs) for run in runs} == {("cifar100", epochs)}


def test_the_full_scale_leaves_the_recipes_as_they_are(tmp_path) -> None:
    plan = Plan(CIFAR100, "full", tmp_path, {})
    for run, teacher in zip(plan.teachers(), plan.scale.teachers.values(), strict=True):
        assert run.config == recipes.load(teacher.recipe)
    for row in (ROWS[name] for name in TRAINED if not ROWS[name].overrides):
        shipped, found = recipes.load(row.recipe), plan.run_of(row, 0).config
        distill = replace(found.distill, teachers=shipped.distill.teachers, cache=None)
        assert replace(found, distill=distill) == shipped


def test_the_micro_scale_does_without_what_makes_a_large_student_slow_to_fit() -> None:
    found = leaves("std", "micro")
    assert found["views.aa"] is None
    off = ("views.reprob", "views.mixup", "views.cutmix", "model.drop_path", "train.smoothing")
    assert {found[name] for name in off} == {0.0}
    assert found["train.threads"] == 1


def test_each_row_but_std_says_what_it_changes() -> None:
    assert set(CHANGES) == set(TRAINED) - {"std"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_row_differs_from_std_in_just_what_it_says(name) -> None:
    assert changes(name, "full") == CHANGES[name]
    assert set(changes(name, "micro")) == set(CHANGES[name])


def test_names_are_unique_and_the_main_rows_come_first() -> None:
    assert len(ROWS) == len(CIFAR100.rows)
    groups = [row.group for row in CIFAR100.rows]
    assert groups == sorted(groups, key=lambda group: group != "main")
    assert [row.name for row in CIFAR100.rows if row.group == "main"] == ["plain", "std", "std-57", "std-52", "std-56"]
    for name in ROWS.keys() & set(groups):  # a word names one thing only
        assert [row.name for row in CIFAR100.rows if row.group == name] == [name]


def test_the_plain_row_has_no_teachers_and_parts_compare_two_rows_that_there_are() -> None:
    assert leaves(CIFAR100.plain, "full")["distill.teachers"] == []
    for part in CIFAR100.parts:
        assert {part.with_it, part.without} <= set(ROWS)
        assert part.with_it != part.without
    assert len({part.what for part in CIFAR100.parts}) == len(CIFAR100.parts)


def test_a_row_at_another_head_names_a_row_that_is_trained_and_has_nothing_else() -> None:
    heads = {row.name: row for row in CIFAR100.rows if row.head_of is not None}
    assert {name: (row.head_of, row.head) for name, row in heads.items()} == {
        "class-head": ("std", "class"),
        "distill-head": ("std", "distill"),
    }
    assert all(row.head_of in TRAINED and not row.recipe and not row.overrides for row in heads.values())
    assert all(ROWS[name].head is None for name in TRAINED)


def test_the_published_figures_are_those_of_the_report_and_of_the_recipes() -> None:
    rows = {name: row.published for name, row in ROWS.items() if row.published is not None}
    assert {name: (figure.top1, figure.top5) for name, figure in rows.items()} == PUBLISHED
    for name, (top1, top5) in PUBLISHED.items():
        assert f"published top-1 {top1:.2f}, top-5 {top5:.2f}" in recipes.header(ROWS[name].recipe)["what"]
    teachers = CIFAR100.scales["full"].teachers
    assert {name: teacher.published.top1 for name, teacher in teachers.items()} == {SMALL: 70.16, LARGE: 72.63}
    for teacher in teachers.values():
        assert f"published top-1 {teacher.published.top1:.2f}" in recipes.header(teacher.recipe)["what"]


def test_only_the_full_scale_is_that_of_the_published_figures() -> None:
    assert {name: scale.published for name, scale in CIFAR100.scales.items()} == {"full": True, "micro": False}
    assert all(teacher.published is None for teacher in CIFAR100.scales["micro"].teachers.values())
