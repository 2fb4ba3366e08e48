"""The plan of an experiment: which runs, in what order, where, and by which config."""

from dataclasses import replace
from pathlib import Path

import pytest

from mixstill.errors import UserError
from mixstill.reproduction.cifar100 import CIFAR100
from mixstill.reproduction.plan import Plan, chosen

ROWS = {row.name: row for row in CIFAR100.rows}
SMALL, LARGE = "cifar100-micro-teacher", "cifar100-micro-large-teacher"


# --- which runs, and in what order ---


def test_teachers_come_first_then_rows_by_importance_each_with_all_its_seeds(plan) -> None:
    runs = plan.runs(chosen(CIFAR100, ["soft", "std", "plain"]), [0, 1])
    students = [f"{row}, seed {seed}" for row in ("plain", "std", "soft") for seed in (0, 1)]
    assert [run.name for run in runs] == [f"teacher {SMALL}", f"teacher {LARGE}", *students]
    assert [run.path.relative_to(plan.output).as_posix() for run in runs[:4]] == [
        *(f"teachers/{SMALL}", f"teachers/{LARGE}"),
        *("seed0/plain", "seed1/plain"),
    ]


@pytest.mark.parametrize(
    ("row", "teachers"), [("plain", []), ("large", [LARGE]), ("small", [SMALL]), ("deit", [LARGE])]
)
def test_only_the_teachers_that_a_row_needs_are_trained(plan, row, teachers) -> None:
    runs = plan.runs([ROWS[row]], [0])
    assert [run.name for run in runs] == [*(f"teacher {name}" for name in teachers), f"{row}, seed 0"]
    assert runs[-1].needs == tuple((plan.output / "teachers" / name).resolve() for name in teachers)


def test_a_row_at_another_head_shares_the_run(plan) -> None:
    assert plan.run_of(ROWS["class-head"], 1) == plan.run_of(ROWS["distill-head"], 1) == plan.run_of(ROWS["std"], 1)
    assert [run.name for run in plan.runs([ROWS["class-head"], ROWS["std"]], [0])][2:] == ["std, seed 0"]


def test_the_seeds_are_those_of_the_folders(plan) -> None:
    assert plan.seeds() == []
    for name in ("seed10", "seed2", "seeds", "seed-1", "teachers", "cache"):
        (plan.output / name).mkdir(parents=True)
    (plan.output / "seed3").touch()
    assert plan.seeds() == [2, 10]


# --- by which config ---


def test_a_student_finds_its_teachers_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Plan(CIFAR100, "micro", Path("table"), {}).run_of(ROWS["std"], 0)
    small, large = (tmp_path.resolve() / "table" / "teachers" / name for name in (SMALL, LARGE))
    assert run.config.distill.teachers == (f"{small}@2/3", f"{large}@last")
    assert run.needs == (small, large)


def test_rows_share_the_stored_answers_but_seeds_which_draw_other_views_do_not(plan) -> None:
    caches = {
        (name, seed): plan.run_of(ROWS[name], seed).config.distill.cache
        for name in ("std", "soft", "plain")
        for seed in (0, 1)
    }
    assert caches["std", 0] == caches["soft", 0] != caches["std", 1] == caches["soft", 1]
    assert caches["plain", 0] is caches["plain", 1] is None
    for seed in (0, 1):
        assert Path(caches["std", seed]).is_relative_to(plan.output.resolve() / "cache")


def test_the_stored_answers_may_lie_elsewhere(plan, tmp_path) -> None:
    elsewhere = replace(plan, overrides={"distill": {"cache": str(tmp_path / "there")}})
    caches = [elsewhere.run_of(ROWS[name], seed).config.distill.cache for name in ("std", "plain") for seed in (0, 1)]
    assert all(Path(cache).is_relative_to(tmp_path / "there") for cache in caches[:2])
    assert len(set(caches[:2])) == 2
    assert caches[2:] == [None, None]


def test_fields_of_data_and_train_hold_for_the_teachers_too_and_others_do_not(plan) -> None:
    given = {
        "data": {"data_dir": "there"},
        "train": {"epochs": 1, "device": "cpu"},
        "optim": {"lr": 0.5},
        "distill": {"alpha": 0.25},
    }
    before, after = plan.runs([ROWS["std"]], [7]), replace(plan, overrides=given).runs([ROWS["std"]], [7])
    for old, new in zip(before, after, strict=True):
        assert (new.name, new.path, new.needs) == (old.name, old.path, old.needs)
        assert new.config.data == replace(old.config.data, data_dir="there")
        assert new.config.train == replace(old.config.train, epochs=1, device="cpu")
    for old, new in zip(before[:2], after[:2], strict=True):
        assert (new.config.optim, new.config.distill) == (old.config.optim, old.config.distill)
    assert after[2].config.optim == replace(before[2].config.optim, lr=0.5)
    assert after[2].config.distill == replace(before[2].config.distill, alpha=0.25)
    assert after[2].config.train.seed == 7


def test_a_row_keeps_what_it_is_whatever_the_command_line_says_and_a_scale_does_not(plan) -> None:
    given = replace(plan, overrides={"distill": {"tau": 9.0}, "optim": {"clip_grad": 5.0}})
    std, soft = (given.run_of(ROWS[name], 0).config for name in ("std", "soft"))
    assert (std.distill.tau, soft.distill.tau) == (9.0, 3.0)
    assert std.optim.clip_grad == soft.optim.clip_grad == 5.0


def test_what_rows_differ_in_is_not_for_the_command_line(plan) -> None:
    apart = {
        *("model.name", "distill.teachers", "distill.kind", "distill.tau", "distill.weights", "distill.tokens"),
        *("distill.propagate", "mi.weight", "mi.every", "mi.lr"),
    }
    others = {"model.init_from", "data.dataset", "data.val_fraction", "train.seed", "train.max_steps"}
    assert plan.settled() == apart | others
    with pytest.raises(UserError, match=r"^mi\.every: cannot be given to reproduce; its rows settle it$"):
        replace(plan, overrides={"optim": {"lr": 0.5}, "mi": {"every": "epoch"}}).check()
    replace(plan, overrides={"optim": {"lr": 0.5}, "distill": {"alpha": 0.25, "cache": None}}).check()


@pytest.mark.parametrize(
    ("scale", "given", "published"),
    [
        ("full", {}, True),
        ("full", {"data": {"data_dir": "there"}, "train": {"amp": True, "device": "cpu"}}, True),
        ("full", {"train": {"epochs": 1}}, False),
        ("full", {"optim": {"lr": 0.5}}, False),
        ("micro", {}, False),
    ],
)
def test_figures_are_held_against_the_published_where_nothing_but_the_means_differs(plan, scale, given, published):
    assert replace(plan, name=scale, overrides=given).as_published() is published


# --- which rows ---


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], list(ROWS)),
        (["main"], ["plain", "std", "std-57", "std-52", "std-56"]),
        (["ablations"], [name for name, row in ROWS.items() if row.group != "main"]),
        (["tokens"], ["no-tokens", "spatial"]),
        (["head", "std-52"], ["std-52", "class-head", "distill-head"]),
        (["std", "plain"], ["plain", "std"]),
        (["teachers", "large"], ["large", "small"]),
        (["main", "ablations"], list(ROWS)),
    ],
)
def test_words_choose_rows_groups_and_halves_in_the_order_of_the_table(words, names) -> None:
    assert [row.name for row in chosen(CIFAR100, words)] == names


def test_a_word_that_names_nothing_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^--rows: unknown value 'stdd'; did you mean 'std'\?$"):
        chosen(CIFAR100, ["plain", "stdd"])
    with pytest.raises(UserError, match=r"^--rows: unknown value 'ablation'; did you mean 'ablations'\?$"):
        chosen(CIFAR100, ["ablation"])
