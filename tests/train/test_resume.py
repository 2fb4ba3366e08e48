"""Runs that are killed go on bit for bit: real processes, real signals."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch

# Imports once, then forks a process for each command: what is killed is a process of its own, and starts quickly.
SERVER = """
import json, os, signal, sys
import mixstill.cli, mixstill.commands.train, mixstill.teaching, mixstill.train.run
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # perhaps ignored, under nohup
        os.dup2(os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        code = mixstill.cli.main(job["argv"])
        sys.stdout.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
STEPS = 24  # 6 epochs of 4


@dataclass
class Launcher:
    """Runs `mixstill train` in processes, and may end them."""

    server: subprocess.Popen[str]
    folder: Path

    def run(self, *argv: str, until: Callable[[], bool] | None = None, by: int = 0) -> tuple[int, str]:
        """The exit code (negative: the signal that killed it) and what it printed; the signal `by` is sent `until`."""
        log = self.folder / "log"
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps({"argv": ["train", *argv], "log": str(log)}), file=self.server.stdin, flush=True)
        child = int(self.server.stdout.readline())
        if until is not None:
            wait_for(until)
            os.kill(child, by)
        return int(self.server.stdout.readline()), log.read_text()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        yield Launcher(server, tmp_path_factory.mktemp("launcher"))
        server.kill()


def reached(run: Path, step: int) -> Callable[[], bool]:
    """Whether the run has written the line of `step`."""

    def look() -> bool:
        file = run / "metrics.jsonl"
        return file.exists() and f'{{"step": {step}, ' in file.read_text()

    return look


def lines(run: Path) -> list[dict]:
    """The metrics without the speed, which no two runs share."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in found]


def same(one: object, other: object) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def check_same_end(run: Path, straight: Path) -> None:
    for name in ("weights.safetensors", "ema.safetensors"):
        one, other = (safetensors.torch.load_file(path / name) for path in (run, straight))
        assert same(one, other), name
    one, other = (torch.load(path / "checkpoints" / "last.pt", weights_only=True) for path in (run, straight))
    assert set(one) >= {"student", "optimizer", "ema", "information", "step"}
    assert same(one, other)
    visible = [file.name for file in (run / "checkpoints").iterdir() if not file.name.startswith(".")]
    assert sorted(visible) == ["last.pt", "previous.pt"]


@pytest.fixture(scope="module")
def straight(launcher, tiny, teachers, tmp_path_factory):
    """For each kind of regulariser: the recipe file, and the run that nothing interrupted."""
    from mixstill.schema import write_yaml

    known = {}

    def run(every: str) -> tuple[str, Path]:
        if every not in known:
            folder = tmp_path_factory.mktemp(every)
            options = {
                "distill.teachers": [f"{teachers['small']}@last"],
                "mi.weight": 0.1,
                "mi.every": every,
                "mi.width": 8,
                "mi.lr": 0.01,
                "model.drop_path": 0.1,
                "views.mixup": 0.8,
                "train.ema_decay": 0.9,
                "train.device_batch_size": 6,
                "train.epochs": STEPS // 4,
                "train.eval_interval": 2,
                "train.checkpoint_interval": 5,
            }
            write_yaml(tiny(options), folder / "recipe.yaml")
            code, said = launcher.run(str(folder / "recipe.yaml"), "--output", str(folder / "straight"))
            assert code == 0, said
            known[every] = str(folder / "recipe.yaml"), folder / "straight"
        return known[every]

    return run


@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(launcher, straight, tmp_path, every) -> None:
    recipe, uninterrupted = straight(every)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    draw = random.Random(seed)
    run = tmp_path / "run"
    for step in sorted(draw.sample(range(2, STEPS - 6), 2)):
        wait = draw.random() * 0.01

        def late(step: int = step, wait: float = wait) -> bool:
            if not reached(run, step)():
                return False
            time.sleep(wait)  # anywhere in a step, an evaluation or the writing of a checkpoint
            return True

        code, said = launcher.run(recipe, "--output", str(run), "--resume", until=late, by=signal.SIGKILL)
        assert code == -signal.SIGKILL, f"killed after step {step}: {said}"
        assert not (run / "summary.json").exists()
    code, said = launcher.run("--output", str(run), "--resume")
    assert code == 0, said
    check_same_end(run, uninterrupted)
    assert [line["step"] for line in lines(run) if "eval" not in line] == list(range(1, STEPS + 1))
    assert lines(run) == lines(uninterrupted)
    one, other = (json.loads((path / "summary.json").read_text()) for path in (run, uninterrupted))
    assert one["heads"] == other["heads"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_after_a_checkpoint_from_which_it_goes_on(
    launcher, straight, tmp_path, number, code
) -> None:
    recipe, uninterrupted = straight("step")
    run = tmp_path / "run"
    found, said = launcher.run(recipe, "--output", str(run), until=reached(run, 7), by=number)
    assert found == code, said
    last = said.splitlines()[-1]
    step = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"]
    assert last == f"mixstill: stopped at step {step}; go on with: mixstill train --resume --output {run}"
    assert 7 <= step < STEPS
    assert lines(run)[-1]["step"] == step
    assert "Traceback" not in said

    found, said = launcher.run(recipe, "--output", str(run))
    assert found == 2
    assert said.count("\n") == 1
    assert "already holds a run; go on with --resume" in said

    found, said = launcher.run("--output", str(run), "--resume")
    assert found == 0, said
    assert f"resumed at step {step} of {STEPS}" in said
    check_same_end(run, uninterrupted)
    assert [line["step"] for line in lines(run) if "eval" not in line] == list(range(1, STEPS + 1))


def test_what_cannot_be_resumed_is_told_in_one_line(straight, refused, mixstill, tmp_path) -> None:
    recipe, _ = straight("step")
    code = mixstill("train", recipe, "--output", tmp_path / "run", "--max-steps", 2, "--quiet").code
    assert code == 0
    resume = ("train", "--resume", "--output", tmp_path / "run")
    said = refused(*resume, "--lr", "0.5", "--distill.kind", "soft")
    assert said.endswith("distill.kind: 'hard' -> 'soft'; optim.lr: 0.01 -> 0.5")
    kept = [tmp_path / "run" / "checkpoints" / name for name in ("last.pt", "previous.pt")]
    for checkpoint in kept:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-5000])
    said = refused(*resume, "--max-steps", "none", "--quiet")
    for checkpoint in kept:
        assert f"checkpoint {checkpoint}: cannot be resumed from: it is no whole archive" in said
    assert said.endswith("; put a copy in its place, or begin anew with another --output")
    assert refused("train", "--resume").startswith("resume: say which run by --output DIR")
    assert "holds no run (no config.yaml)" in refused("train", "--resume", "--output", tmp_path / "none")
