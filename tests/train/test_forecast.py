"""A forecast counts what a run then does."""

from dataclasses import replace

import pytest

from mixstill.train.forecast import Costs, forecast
from mixstill.train.state import State

COSTS = Costs(start=5.0, step=0.5, regulariser=0.25, evaluation=10.0, checkpoint=1.0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train.epochs": 5, "train.eval_interval": 2},
        {"train.epochs": 5, "train.eval_interval": 2, "train.max_steps": 13},
        {"train.max_steps": 4},
        {"train.max_steps": 99},
        {"train.epochs": 3, "train.checkpoint_interval": 3},
        {"train.epochs": 1, "train.eval_interval": 4, "train.checkpoint_interval": 1},
    ],
)
def test_steps_evaluations_and_checkpoints_are_those_of_the_loop(build, options, tmp_path, monkeypatch) -> None:
    saved = []
    monkeypatch.setattr(State, "save", lambda state, *_, **__: saved.append(state.step))
    built = build(options)
    lines = built.fit(tmp_path)
    found = forecast(built.stepper.config.train, built.batches.per_epoch, [100], False, COSTS)
    assert found.steps == built.state.step
    assert found.evaluations == sum("eval" in line for line in lines)
    assert found.checkpoints == 1 + len(saved)  # one lies there before the first step


def test_the_times_add_up_by_hand(tiny) -> None:
    options = replace(tiny().train, epochs=10, eval_interval=5, max_steps=None)
    found = forecast(options, 100, [200], False, COSTS)
    assert found.epoch == 100 * 0.5 + 0.25 + 10 / 5
    assert found.total == 5 + 1000 * 0.5 + 10 * 0.25 + 2 * 10 + 3 * 1


@pytest.mark.parametrize(("images", "closing"), [([0], 1), ([0, 100], 3), ([200, 0], 3), ([0, 0], 3)])
def test_a_split_of_unknown_size_takes_what_an_evaluation_took(tiny, images, closing) -> None:
    options = replace(tiny().train, epochs=10, eval_interval=5, max_steps=None)
    found = forecast(options, 100, images, True, COSTS)
    assert found.epoch == 100 * 0.5 + 0.25 + 10 / 5
    assert found.total == 5 + 1000 * 0.5 + 10 * 0.25 + (2 + closing) * 10 + 3 * 1


def test_the_end_measures_the_other_splits_and_the_moving_average(tiny) -> None:
    options = tiny().train
    plain, more, averaged = (
        forecast(options, 100, images, ema, COSTS).total
        for images, ema in (([200], False), ([200, 100], False), ([200, 100], True))
    )
    assert more - plain == pytest.approx(5.0)
    assert averaged - plain == pytest.approx(5.0 + 15.0)
