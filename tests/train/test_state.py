"""The state of a run goes into a file and comes back bit for bit, and no other file passes for one."""

import os
import pickle
import re

import pytest
import torch

from mixstill.errors import UserError
from mixstill.models import write_weights

FULL = {"train.ema_decay": 0.9, "mi.weight": 0.1, "mi.width": 8, "views.mixup": 0.8, "model.drop_path": 0.2}


@pytest.fixture
def full(build, teachers):
    placed = [f"{teachers['small']}@1/2", f"{teachers['large']}@last"]
    return lambda options=None: build(FULL | {"distill.teachers": placed} | (options or {}))


def same(one: object, other: object) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def states(built) -> dict:
    return {name: part.state_dict() for name, part in built.state.parts().items()} | {"step": built.state.step}


def test_what_has_a_state_follows_from_the_config(build, full) -> None:
    assert list(build().state.parts()) == ["student", "optimizer"]
    every = ["student", "optimizer", "ema", "information", "statistics_optimizer"]
    assert list(full().state.parts()) == every
    assert list(full({"mi.every": "epoch"}).state.parts()) == every[:-1]
    assert list(build({"mi.weight": 0.1}).state.parts()) == ["student", "optimizer"]  # no teacher, so no token


@pytest.mark.parametrize("options", [{}, {"optim.opt": "sgd"}, {"mi.every": "epoch"}])
def test_a_restored_state_goes_on_to_the_same_bits(full, tmp_path, options) -> None:
    straight = full(options)
    straight.steps(2)
    straight.state.save(tmp_path / "last.pt")
    straight.steps(3)
    resumed = full(options | {"train.seed": 0})
    resumed.steps(1)
    resumed.state.restore(tmp_path / "last.pt")
    assert resumed.state.step == 2
    resumed.steps(3)
    assert same(states(straight), states(resumed))


def test_the_statistics_networks_start_from_the_seed_whatever_was_built_before(full) -> None:
    torch.manual_seed(7)
    one = full().state.information.state_dict()
    torch.rand(3)
    assert same(one, full().state.information.state_dict())
    assert not same(one, full({"train.seed": 1}).state.information.state_dict())


def test_same_tells_a_bit(full) -> None:
    one, other = full(), full()
    assert same(states(one), states(other))
    with torch.no_grad():
        next(other.state.student.parameters()).view(-1)[0] += 1e-6
    assert not same(states(one), states(other))


class Malice:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def test_a_checkpoint_is_read_without_running_what_it_holds(build, tmp_path) -> None:
    torch.save({"step": 1, "student": Malice(str(tmp_path / "ran"))}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="cannot be resumed from"):
        build().state.restore(tmp_path / "last.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        torch.zeros(3),
        7,
        {"step": 1},
        {"student": 3, "optimizer": 3, "step": 1},
        {"student": {}, "optimizer": {}, "step": 1},
    ],
    ids=["empty", "list", "tensor", "number", "step", "numbers", "nothing"],
)
def test_a_foreign_file_is_told_in_one_line(build, tmp_path, content) -> None:
    path = tmp_path / "last.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match=f"^checkpoint {re.escape(str(path))}: cannot be resumed from: ") as error:
        build().state.restore(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_told_in_one_line(build, tmp_path, kept) -> None:
    path = tmp_path / "last.pt"
    build().state.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match=f"^checkpoint {re.escape(str(path))}: cannot be resumed from: ") as error:
        build().state.restore(path)
    assert "\n" not in str(error.value)


def test_other_files_in_its_place_are_told_in_one_line(build, tmp_path) -> None:
    path = tmp_path / "last.pt"
    for content in (b"hello", pickle.dumps({"step": 1}), bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be resumed from"):
            build().state.restore(path)
    path.unlink()
    write_weights(tmp_path / "w.safetensors", build().state.student.state_dict())
    (tmp_path / "w.safetensors").rename(path)
    with pytest.raises(UserError, match="cannot be resumed from"):
        build().state.restore(path)


def test_a_checkpoint_by_other_teachers_does_not_fit(build, tmp_path) -> None:
    state = build().state
    state.teachers = "a b"
    state.save(tmp_path / "last.pt")
    state.restore(tmp_path / "last.pt")
    state.teachers = "a c"
    with pytest.raises(UserError, match=r"distill\.teachers: their weights are not those that the run began with"):
        state.restore(tmp_path / "last.pt")


def test_a_checkpoint_of_another_config_does_not_fit(build, tmp_path) -> None:
    path = tmp_path / "last.pt"
    build().state.save(path)
    for options in ({"train.ema_decay": 0.9}, {"model.kwargs": {"num_blocks": 1, "embed_dim": 8}}, {"optim.lr": 0.5}):
        with pytest.raises(UserError, match=f"^checkpoint {path}: belongs to a run of another config; undo "):
            build(options).state.restore(path)
