"""The loop: which lines it writes, when it saves, and a curve that no refactoring may bend."""

import pytest
import torch

from mixstill.errors import RunError
from mixstill.train.step import Stepper


@pytest.fixture
def run(build, tmp_path):
    """Runs the loop; gives the lines of metrics, the steps of each checkpoint and what was built."""

    def go(options=None):
        built = build(options)
        saved = []
        save = built.state.save
        built.state.save = lambda path, keep: (saved.append(built.state.step), save(path, keep))
        go.saved = saved
        return built.fit(tmp_path), saved, built

    return go


def steps(lines) -> list[int]:
    return [line["step"] for line in lines if "eval" not in line]


def evaluated(lines) -> list[int]:
    return [line["step"] for line in lines if "eval" in line]


def test_by_default_each_epoch_is_evaluated_and_saved(run) -> None:
    lines, saved, built = run({"train.epochs": 3, "train.log_interval": 50})
    assert saved == [4, 8, 12]
    assert evaluated(lines) == [4, 8, 12]
    assert steps(lines) == [4, 8, 12]  # no step is saved before its terms were looked at
    assert built.state.step == 12
    assert built.state.student.training


@pytest.mark.parametrize(
    ("options", "logged", "evals", "saved"),
    [
        ({"train.log_interval": 3}, [3, 4, 6, 8], [4, 8], [4, 8]),
        ({"train.log_interval": 1, "train.max_steps": 2}, [1, 2], [2], [2]),
        ({"train.log_interval": 50, "train.max_steps": 6}, [4, 6], [4, 6], [4, 6]),
        ({"train.log_interval": 50, "train.max_steps": 60}, [4, 8], [4, 8], [4, 8]),
        ({"train.log_interval": 50, "train.checkpoint_interval": 3}, [3, 4, 6, 8], [4, 8], [3, 4, 6, 8]),
        (
            {"train.log_interval": 50, "train.eval_interval": 2, "train.epochs": 5},
            [8, 16, 20],
            [8, 16, 20],
            [8, 16, 20],
        ),
        ({"train.log_interval": 50, "train.eval_interval": 9}, [8], [8], [8]),
    ],
)
def test_lines_evaluations_and_checkpoints_come_when_they_are_asked_for(run, options, logged, evals, saved) -> None:
    lines, found, _ = run(options)
    assert steps(lines) == logged
    assert evaluated(lines) == evals
    assert found == saved


def test_a_line_has_the_rate_the_speed_and_every_term(run, teachers) -> None:
    options = {
        "distill.teachers": [f"{teachers['small']}@last"],
        "mi.weight": 0.1,
        "mi.width": 8,
        "optim.clip_grad": 1.0,
        "optim.warmup_epochs": 1.0,
        "optim.warmup_lr": 0.0,
    }
    lines, _, _ = run(options)
    module = "small@last"
    assert set(lines[0]) == {
        "step",
        "epoch",
        "lr",
        "images_per_second",
        "class",
        f"distill/{module}",
        "weight/small",
        "distill",
        "total",
        f"mutual_information/{module}",
        "gradient_norm",
    }
    assert [line["lr"] for line in lines[:3]] == pytest.approx([0.0, 0.0025, 0.005])
    assert [line["epoch"] for line in lines if "eval" not in line] == [0] * 4 + [1] * 4
    assert next(line["eval"] for line in lines if "eval" in line)["class"]["top1"] == 50.0


def test_the_regulariser_of_an_epoch_comes_at_its_end(run, teachers) -> None:
    options = {"distill.teachers": [f"{teachers['small']}@last"], "mi.weight": 0.1, "mi.every": "epoch", "mi.width": 8}
    lines, _, _ = run(options)
    assert [line["step"] for line in lines if "mutual_information/small@last" in line] == [4, 8]


@pytest.mark.parametrize("step", [1, 3, 4, 5])
@pytest.mark.parametrize("interval", [1, 50])
def test_a_term_that_is_not_finite_stops_the_run_before_it_is_saved(run, monkeypatch, step, interval) -> None:
    taken = Stepper.step

    def broken(self, state, *arguments, **names):
        terms = taken(self, state, *arguments, **names)
        return terms | {"class": torch.tensor(torch.nan)} if state.step == step else terms

    monkeypatch.setattr(Stepper, "step", broken)
    with pytest.raises(RunError, match=f"^step {step}: the term 'class' is nan"):
        run({"train.log_interval": interval, "train.checkpoint_interval": 2})
    assert all(saved < step for saved in run.saved)
    assert run.saved == [saved for saved in (2, 4) if saved < step]


GOLDEN_OPTIONS = {
    "distill.kind": "soft",
    "distill.tau": 2.0,
    "mi.weight": 10.0,
    "mi.width": 16,
    "mi.lr": 3e-2,
    "views.mixup": 0.8,
    "train.ema_decay": 0.9,
    "train.epochs": 5,
    "optim.lr": 3e-3,
    "optim.warmup_epochs": 1.0,
    "optim.clip_grad": 1.0,
}
# fmt: off
GOLDEN = [  # 20 steps
    1.166271, 1.164978, 1.165630, 1.164921, 1.163377, 1.161234, 1.157811, 1.157263, 1.155163, 1.154417,
    1.154480, 1.154183, 1.153402, 1.153219, 1.151718, 1.152203, 1.151724, 1.151804, 1.152620, 1.151941,
]
# fmt: on


def test_the_loss_curve_of_twenty_steps_is_the_golden_one(run, teachers) -> None:
    """Guards refactoring: a change that bends the curve on purpose says so and stores the new one."""
    placed = [f"{teachers['small']}@1/2", f"{teachers['large']}@last"]
    lines, _, built = run(GOLDEN_OPTIONS | {"distill.teachers": placed})
    curve = [line["total"] for line in lines if "eval" not in line]
    mutual = next(line["mutual_information/large@last"] for line in reversed(lines) if "eval" not in line)
    ema = sum(value.double().square().sum() for value in built.state.ema.module.parameters()).item()
    assert curve == pytest.approx(GOLDEN, rel=1e-4)
    assert mutual == pytest.approx(7.8e-06, abs=1e-6)
    assert ema == pytest.approx(180.8844, rel=1e-4)
