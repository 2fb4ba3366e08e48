"""The projection of a run's time from two shorter ones."""

import importlib
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
projection = importlib.import_module("projection")


def summary(epochs: int, seconds: float) -> dict[str, object]:
    return {"epochs": epochs, "seconds": seconds, "machine": {"device": "a device"}}


def test_start_and_end_are_counted_once() -> None:
    found = projection.project(summary(2, 100 + 2 * 7.0), summary(12, 100 + 12 * 7.0), 300)
    assert found["seconds_per_epoch"] == pytest.approx(7.0)
    assert found["seconds"] == pytest.approx(100 + 300 * 7.0)


def test_it_is_written_with_the_machine_of_the_runs(tmp_path, monkeypatch) -> None:
    for name, epochs in (("short", 2), ("long", 12)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(summary(epochs, 10.0 * epochs)))
    words = ["projection.py", str(tmp_path / "short"), str(tmp_path / "long"), "--output", str(tmp_path / "p.json")]
    monkeypatch.setattr(sys, "argv", words)
    projection.main()
    found = json.loads((tmp_path / "p.json").read_text())
    assert (found["machine"], found["seconds"], found["measured_epochs"]) == ({"device": "a device"}, 3000.0, 12)
    assert str(tmp_path) not in found["command"]
