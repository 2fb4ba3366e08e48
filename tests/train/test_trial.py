"""A run tried out: its own steps, timed piece by piece, and its sizes as they will lie on disk."""

import time
from dataclasses import replace

import pytest
import torch

from mixstill.distill.classifier import load_classifier
from mixstill.errors import RunError, UserError
from mixstill.train import trial
from mixstill.train.build import build
from mixstill.train.run import train
from mixstill.train.trial import (
    PIECES,
    WARM_UP,
    answers_size,
    answers_there,
    checkpoint_cost,
    examine_teachers,
    free_space,
    peak_memory,
    time_epoch_regulariser,
    time_evaluation,
    time_steps,
    weights_size,
)

NAP = 0.1


@pytest.fixture
def job(tiny, teachers):
    """Makes a run with a teacher and a moving average, with options over it."""

    def make(options=None):
        given = {"distill.teachers": [f"{teachers['small']}@last"], "train.ema_decay": 0.9, "mi.weight": 0.1}
        return build(tiny(given | (options or {})))

    return make


class Changed:
    """A split of which something is put in another's place."""

    def __init__(self, split) -> None:
        self.split = split

    def __getattr__(self, name):
        return getattr(self.split, name)

    def __len__(self) -> int:
        return len(self.split)


# --- steps ---


def test_the_steps_are_those_of_the_run(job, tiny, tmp_path) -> None:
    tried = job({"train.epochs": 5})
    found = time_steps(tried, 2)
    steps = tried.state.step
    assert (found.count, steps) == (2, WARM_UP + 2 + 3)
    train(replace(tried.config, train=replace(tried.config.train, max_steps=steps)), tmp_path / "run", quiet=True)
    real = load_classifier(str(tmp_path / "run")).model.state_dict()
    assert all(torch.equal(value, real[name]) for name, value in tried.state.student.state_dict().items())


def nap(*_) -> None:
    time.sleep(NAP)


@pytest.mark.parametrize("piece", PIECES)
def test_what_takes_long_has_the_largest_share(job, piece) -> None:
    slowed = job()
    if piece == "data":
        data = Changed(slowed.batches.data)
        data.load = lambda requests: (nap() or batch for batch in data.split.load(requests))
        slowed = replace(slowed, batches=replace(slowed.batches, data=data))
    elif piece == "optimizer":
        slowed.state.optimizer.register_step_post_hook(nap)
    else:
        module = slowed.teachers.members[0] if piece == "teachers" else slowed.state.student
        module.register_forward_pre_hook(nap)
    found = time_steps(slowed, 2)
    assert list(found.shares) == list(PIECES)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert max(found.shares, key=found.shares.__getitem__) == piece
    assert found.mean > NAP
    assert found.median > NAP


def test_the_trial_leaves_no_hook(job) -> None:
    tried = job()
    time_steps(tried, 1)
    assert not tried.teachers._forward_hooks
    assert not tried.teachers._forward_pre_hooks
    assert not tried.state.optimizer._optimizer_step_pre_hooks


def test_steps_end_when_their_time_is_over_but_some_are_taken(job) -> None:
    assert time_steps(job(), seconds=0).count == trial.LEAST
    assert time_steps(job({"distill.teachers": [], "mi.weight": 0.0}), seconds=60).count == trial.MOST


def test_a_loss_that_is_not_finite_ends_the_trial(job) -> None:
    with pytest.raises(RunError, match="the loss is nan"):
        time_steps(job({"optim.lr": 1e30, "optim.opt": "sgd"}), 3)


# --- evaluation ---


def test_an_evaluation_is_worked_out_from_its_first_batches(job, monkeypatch) -> None:
    monkeypatch.setattr(trial, "_EVAL_SECONDS", 0.0)
    tried, seen = job({"data.val_fraction": 0.2}), []
    tried.state.student.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])) or nap())
    estimate = time_evaluation(tried)
    assert seen == [64, 64]
    began, images = time.perf_counter(), len(tried.splits["val"])
    assert images > 200
    replace(tried, config=replace(tried.config, train=replace(tried.config.train, eval_batch_size=64))).score(
        tried.state.student, "val"
    )
    assert sum(seen) == 128 + images
    assert estimate == pytest.approx(time.perf_counter() - began, rel=0.5)


def test_what_begins_an_evaluation_is_paid_once(job, monkeypatch) -> None:
    monkeypatch.setattr(trial, "_EVAL_SECONDS", 0.0)
    tried = job()
    slow = Changed(tried.splits["test"])
    slow.eval_batches = lambda *given: (time.sleep(0.5), slow.split.eval_batches(*given))[1]
    assert 0.5 < time_evaluation(replace(tried, splits={"test": slow})) < 1.0


def test_an_evaluation_of_one_batch_is_measured_whole(job) -> None:
    tried = job()
    few = replace(tried.splits["test"], ids=torch.arange(10))
    assert 0 < time_evaluation(replace(tried, splits={"test": few})) < 5


def test_an_evaluation_of_unknown_size_takes_what_was_measured(job) -> None:
    class Unsized(Changed):
        def __len__(self) -> int:
            return 0

    tried = job()
    tried.state.student.register_forward_pre_hook(lambda *_: nap())
    assert time_evaluation(replace(tried, splits={"test": Unsized(tried.splits["test"])})) > 10 * NAP  # 596 in 64s


def test_the_regulariser_of_an_epoch_is_timed(job) -> None:
    assert time_epoch_regulariser(job({"mi.every": "epoch"})) > 10 * time_epoch_regulariser(job())


# --- sizes ---


def test_sizes_are_those_of_the_files(job, tmp_path) -> None:
    tried = job()
    time_steps(tried, 1)
    tried.state.save(tmp_path / "last.pt")
    size, seconds = checkpoint_cost(tried)
    assert size == (tmp_path / "last.pt").stat().st_size
    assert seconds > 0
    train(tried.config, tmp_path / "run", quiet=True)
    files = [(tmp_path / "run" / name).stat().st_size for name in ("weights.safetensors", "ema.safetensors")]
    assert weights_size(tried) <= sum(files) < weights_size(tried) + 40_000  # their headers


def test_answers_take_two_bytes_a_class_and_four_a_step(job, teachers) -> None:
    both = {"distill.teachers": [f"{teachers['small']}@0", f"{teachers['large']}@last", f"{teachers['small']}@last"]}
    assert answers_size(job(both)) == 2 * 2 * (40 * 10 * 2 + 4 * 4)  # T, epochs, (samples, K, bytes + steps, checksum)
    assert answers_size(job(both | {"distill.cache_top_k": 3})) == 2 * 2 * (40 * 3 * 4 + 4 * 4)
    assert answers_size(job(both | {"train.max_steps": 3})) == 2 * 3 * (10 * 10 * 2 + 4)
    assert answers_size(job({"distill.teachers": [], "mi.weight": 0.0})) == 0


def test_of_a_cache_what_is_there_is_told_and_steps_leave_it_alone(job, tmp_path) -> None:
    options = {"distill.cache": str(tmp_path / "cache"), "train.epochs": 4}
    time_steps(job(options), 2)
    assert not (tmp_path / "cache").exists()
    train(job(options | {"train.max_steps": 3}).config, tmp_path / "run", quiet=True)
    tried = job(options)
    time_steps(tried, 2)
    assert answers_there(tried) == answers_there(job(options)) == 3 * (10 * 10 * 2 + 4)
    assert answers_there(job()) == 0


def test_free_space_is_that_of_the_nearest_folder_there_is(tmp_path) -> None:
    assert free_space(tmp_path / "not" / "there") == pytest.approx(free_space(tmp_path), rel=0.1)


def test_peak_memory_is_what_is_held_at_most() -> None:
    before, there = peak_memory(torch.device("cpu"))
    assert 50e6 < before < there
    block = torch.ones(before // 4 + 10_000_000)  # float32: more than was ever held
    assert peak_memory(torch.device("cpu"))[0] > max(before, 4 * len(block))


# --- warnings ---


def answering(tried, answers) -> None:
    """Has the first teacher give these classes, int64 [n], to the samples that it is examined on."""
    parts = iter(answers.split(32))
    tried.teachers.members[0].register_forward_hook(lambda *_: torch.eye(10)[next(parts)])


def known(tried):
    return trial.examiner(tried, trial.SAMPLES).sample.labels


def test_a_teacher_at_chance_is_warned_of_and_nothing_changes(job) -> None:
    tried = job()
    before = {name: value.clone() for name, value in tried.state.student.state_dict().items()}
    drawn = torch.get_rng_state()
    (line,) = examine_teachers(tried)
    assert line.startswith("warning: teacher small is at chance: ")
    assert line.endswith(" samples; mixstill check tells why")
    assert int(line.partition(" of ")[2].split()[0]) >= 512
    assert examine_teachers(tried) == [line]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in tried.state.student.state_dict().items())


def test_teachers_that_know_the_data_get_no_warning(job) -> None:
    tried = job()
    answering(tried, known(tried))
    assert examine_teachers(tried) == []
    assert examine_teachers(job({"distill.teachers": [], "mi.weight": 0.0})) == []


@pytest.mark.parametrize("moved", [10, 4])
def test_a_teacher_whose_classes_are_in_another_order_ends_the_run(job, moved) -> None:
    tried = job()
    order = torch.arange(10)
    order[:moved] = (order[:moved] + 1) % moved
    answering(tried, order[known(tried)])
    with pytest.raises(UserError, match=r"small has its classes in another order than the data: .* 100\.0 % of 5\d\d"):
        examine_teachers(tried)


def test_a_teacher_that_errs_without_an_order_goes_on(job) -> None:
    tried = job()
    labels = known(tried)
    answers = torch.where(torch.arange(len(labels)) % 3 == 0, labels, labels.roll(1))  # 34 % and some right by chance
    answering(tried, answers)
    assert examine_teachers(tried) == []
