"""Devices by name, and what a figure was measured on."""

import json

import pytest
import torch

from mixstill.errors import UserError
from mixstill.train.device import machine, pick_device, threads


def test_a_device_is_picked_by_its_name() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["tpu", "", "cuda:-1", "meta"])
def test_an_unknown_device_is_told_with_the_choices(name) -> None:
    with pytest.raises(UserError, match=f"train.device: unknown device '{name}'; choose auto, cpu, cuda or cuda:N"):
        pick_device(name)


def test_a_device_that_is_not_there_is_told_with_how_many_there_are(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"train.device: 'cuda:2' is not there; this machine has 2 CUDA devices"):
        pick_device("cuda:2")


def test_the_machine_of_a_figure_can_be_written_as_json() -> None:
    about = json.loads(json.dumps(machine(torch.device("cpu"))))
    assert about["threads"] == torch.get_num_threads()
    assert torch.__version__.startswith(about["versions"]["torch"])
    assert set(about["versions"]) == {"mixstill", "torch", "timm"}


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with threads(None):
        assert torch.get_num_threads() == before
