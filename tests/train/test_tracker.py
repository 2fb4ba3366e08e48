"""Trackers: what they are given, where they write, and that none of them can stop a run."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from mixstill.config import TrainConfig
from mixstill.errors import UserError
from mixstill.train import tracker as module
from mixstill.train.tracker import TOOLS, check_tracker, open_tracker, scalars

LINE = {"step": 7, "epoch": 1, "lr": 0.1, "total": 2.0, "distill/r56@2/3": 0.5, "skipped": None, "name": "text"}
EVAL = {"step": 7, "epoch": 1, "eval": {"class": {"top1": 50.0, "n": 4}, "average": {"top1": 60.0}}}

# Opens a tool as rank 0 of two would, and goes on after step 3 as a resumed run does; nobody may start a group.
SESSION = """
import os, sys
from pathlib import Path
import torch.distributed as dist
from mixstill.train.tracker import open_tracker, scalars

before = dict(os.environ)
for step, value in ((0, 1.0), (3, 2.0)):
    with open_tracker(sys.argv[1], Path(sys.argv[2]), {"optim": {"lr": 0.1, "betas": None}}, step=step) as tracker:
        for number in range(step + 1, step + 5):
            tracker.log(scalars({"step": number, "distill/r56@2/3": value * number}), number)
        assert not dist.is_initialized()
        if step == 0 and sys.argv[1] == "tensorboard":  # a group that begins while the tool is open stays whole
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            tracker.log({"while": 1.0}, 4)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
changed = {name for name in before if os.environ.get(name) != before[name]}
assert not changed, changed
from accelerate import PartialState
assert not PartialState._shared_state
print("whole")
"""
STEPS = [1, 2, 3, 4, 5, 6, 7]


class Recorder:
    """A backend of a user's own that raises, or hangs, in one of its calls."""

    def __init__(self, fails: str = "", error: BaseException | None = None) -> None:
        self.fails = fails
        self.error = error
        self.calls: list[tuple] = []
        self.threads: set[int] = set()
        self.release = threading.Event()

    def _called(self, name: str, *given: object) -> None:
        self.calls.append((name, *given))
        self.threads.add(threading.get_ident())
        print("a tool's chatter")
        if name == self.fails and self.error is not None:
            raise self.error
        if name == self.fails:
            self.release.wait(60)

    def start(self, run, config, step) -> None:
        self._called("start", run, config, step)

    def log(self, values, step) -> None:
        self._called("log", values, step)

    def finish(self) -> None:
        self._called("finish")


def use(backend: Recorder, run: Path) -> list[str]:
    """A whole run with this backend; what the user was told."""
    told: list[str] = []
    with open_tracker(backend, run, {"a": 1}, step=4, say=told.append) as tracker:
        for step in (5, 6, 7):
            tracker.log({"total": float(step)}, step)
    return told


def test_a_line_becomes_numbers_under_flat_names() -> None:
    assert scalars(LINE) == {"epoch": 1.0, "lr": 0.1, "total": 2.0, "distill/r56@2/3": 0.5}
    assert scalars(EVAL) == {"epoch": 1.0, "eval/class/top1": 50.0, "eval/class/n": 4.0, "eval/average/top1": 60.0}


def test_a_backend_of_ones_own_gets_all_calls_in_order_on_one_thread(tmp_path, capsys) -> None:
    backend = Recorder()
    assert use(backend, tmp_path) == []
    steps = [("log", {"total": float(step)}, step) for step in (5, 6, 7)]
    assert backend.calls == [("start", tmp_path, {"a": 1}, 4), *steps, ("finish",)]
    assert len(backend.threads) == 1
    assert threading.get_ident() not in backend.threads
    assert capsys.readouterr().err == ""


def test_a_tool_s_greetings_stay_out_of_standard_output(tmp_path, capsys) -> None:
    with open_tracker(Recorder(), tmp_path, {}):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fails", ["start", "log", "finish"])
@pytest.mark.parametrize("error", [OSError(28, "No space left\non device"), SystemExit(3)])
def test_a_backend_that_raises_is_told_of_once_and_ends_the_tracking_alone(tmp_path, fails, error) -> None:
    backend = Recorder(fails, error)
    told = use(backend, tmp_path)
    assert len(told) == 1
    assert told[0].startswith("tracker Recorder: lost, the run goes on without it: ")
    assert told[0].endswith("[Errno 28] No space left on device" if isinstance(error, OSError) else "SystemExit: 3")
    assert [name for name, *_ in backend.calls].count(fails) == 1
    assert backend.calls[-1][0] == fails


@pytest.mark.parametrize("fails", ["start", "log", "finish"])
def test_a_backend_that_hangs_holds_nobody_up(tmp_path, monkeypatch, fails) -> None:
    for limit in ("START_SECONDS", "LOG_SECONDS", "FINISH_SECONDS"):
        monkeypatch.setattr(module, limit, 0.1)
    backend = Recorder(fails)
    began = time.monotonic()
    told = use(backend, tmp_path)
    assert time.monotonic() - began < 5
    assert told == ["tracker Recorder: lost, the run goes on without it: no answer within 0.1 s"]
    backend.release.set()


def test_a_tool_that_lies_behind_holds_a_bounded_number_of_lines(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "LOG_SECONDS", 0.1)
    backend, told = Recorder("log"), []
    tracker = open_tracker(backend, tmp_path, {}, say=told.append)
    for step in range(2000):
        tracker.log({"total": 1.0}, step)
    assert told == ["tracker Recorder: lost, the run goes on without it: no answer within 0.1 s"]
    backend.release.set()
    tracker.finish()
    assert [name for name, *_ in backend.calls] == ["start", "log"]


def test_no_tracker_does_nothing(tmp_path) -> None:
    threads = threading.active_count()
    with open_tracker(None, tmp_path, {}) as tracker:
        tracker.log({"total": 1.0}, 1)
        assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_or_missing_tool_is_a_mistake_told_before_the_run(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"^train.tracker: unknown value 'wandbb'; did you mean 'wandb'\?$"):
        open_tracker("wandbb", tmp_path, {})
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / "trackio").mkdir()  # a folder of the tool's name is not the tool
    monkeypatch.setitem(sys.modules, "accelerate", sys)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(UserError, match=r"needs trackio; run: pip install 'mixstill\[track\]' trackio$"):
        check_tracker("trackio")
    check_tracker(None)


def session(tool: str, tmp_path: Path) -> Path:
    """Runs `SESSION` with an empty home and working directory; nothing may land there. The tool's folder."""
    for folder in ("home", "here"):
        (tmp_path / folder).mkdir()
    ours = ("WANDB_", "MLFLOW_", "TRACKIO_", "HF_", "XDG_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "RANK": "0", "LOCAL_RANK": "0"}
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SESSION, tool, "../a run"],
        cwd=tmp_path / "here",
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, "lost" in done.stderr) == (0, "whole\n", False), done.stderr
    assert list((tmp_path / "here").iterdir()) == []
    assert list((tmp_path / "home").iterdir()) == []
    assert [path.name for path in (tmp_path / "a run").iterdir()] == ["tracking"]
    return tmp_path / "a run" / "tracking" / tool


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_tensorboard_shows_the_run_and_its_resume_as_one(tmp_path) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(session("tensorboard", tmp_path)))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("distill/r56@2/3")]
    assert found == [(step, float(step if step <= 3 else 2 * step)) for step in STEPS]
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    optim.lr: 0.1\n    optim.betas: None"


def require(tool: str) -> None:
    try:
        version(tool)
        version("accelerate")
    except PackageNotFoundError:
        pytest.skip(f"{tool} is not installed")


def test_mlflow_keeps_one_run_in_a_database_of_the_run_directory(tmp_path) -> None:
    require("mlflow")
    with sqlite3.connect(session("mlflow", tmp_path) / "mlflow.db") as database:
        assert database.execute("select name, status from runs").fetchall() == [("a run", "FINISHED")]
        assert ("optim.lr", "0.1") in database.execute("select key, value from params").fetchall()
        found = database.execute("select key, step, value from metrics").fetchall()
    assert {key for key, *_ in found} == {"distill/r56_2/3"}
    assert {(step, value) for _, step, value in found} >= {(1, 1.0), (3, 3.0), (4, 8.0), (7, 14.0)}


def test_trackio_keeps_one_run_in_a_database_of_the_run_directory(tmp_path) -> None:
    require("trackio")
    with sqlite3.connect(session("trackio", tmp_path) / "mixstill.db") as database:
        found = database.execute("select run_name, step, metrics from metrics").fetchall()
        config = database.execute("select config from configs").fetchall()
    assert len({name for name, *_ in found}) == 1
    assert {step for _, step, _ in found} == set(STEPS)
    assert json.loads(found[0][2]) == {"distill/r56@2/3": 1.0}
    assert json.loads(config[0][0])["optim.lr"] == 0.1


def test_wandb_stays_offline_and_keeps_one_id(tmp_path) -> None:
    require("wandb")
    folder = session("wandb", tmp_path)
    runs = list((folder / "wandb").glob("offline-run-*"))
    assert {path.name.rpartition("-")[2] for path in runs} == {(folder / "id").read_text()}
    assert any(b"distill/r56@2/3" in file.read_bytes() for file in folder.rglob("*.wandb"))


def test_the_tools_of_the_config_are_those_there_are() -> None:
    assert all(tool in str(TrainConfig.__annotations__["tracker"]) for tool in TOOLS)
