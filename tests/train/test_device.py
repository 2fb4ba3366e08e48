"""Devices by name, and what a figure was measured on."""

import json
from importlib import metadata

import pytest
import torch

from mixstill.config import TrainConfig
from mixstill.errors import UserError
from mixstill.train.device import command_settings, computes_bfloat16, machine, pick_device
from mixstill.version import __version__


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


def test_a_copy_that_was_not_installed_knows_its_version(monkeypatch) -> None:
    found = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: found({"mixstill": "not-there"}.get(name, name)))
    assert machine(torch.device("cpu"))["versions"]["mixstill"] == __version__ == found("mixstill")


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with command_settings(TrainConfig(threads=before + 1, device="cpu")):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with command_settings(TrainConfig(device="cpu")):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize(("flags", "there"), [("fma amx_bf16", True), ("avx512_bf16", True), ("avx2 avx512f", False)])
def test_whether_the_processor_computes_in_bfloat16(flags, there, monkeypatch) -> None:
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: f"flags : {flags}\n")
    assert computes_bfloat16(torch.device("cpu")) == there


def test_a_system_that_does_not_tell_its_flags_has_no_bfloat16(monkeypatch) -> None:
    def fail(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", fail)
    assert not computes_bfloat16(torch.device("cpu"))
