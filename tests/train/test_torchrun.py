"""A real torchrun: a rank that dies ends the run, and torchrun's restart goes on from the last checkpoint."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS = 30
OPTIONS = {
    "train.batch_size": 8,
    "train.epochs": STEPS // 5,
    "train.eval_interval": 3,
    "train.checkpoint_interval": 4,
    "train.ema_decay": 0.9,
    "model.drop_path": 0.2,
    "views.mixup": 0.8,
    "data.samples_per_class": 4,
    "mi.weight": 0.2,
    "mi.width": 8,
}


def losses(run: Path) -> dict[int, float]:
    file = run / "metrics.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {line["step"]: line["total"] for line in found if "total" in line}


def children(parent: int) -> dict[int, int]:
    """The rank of each child process, by the pid."""
    pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ranks = {int(pid): re.search(rb"\0RANK=(\d+)\0", b"\0" + Path(f"/proc/{pid}/environ").read_bytes()) for pid in pids}
    return {pid: int(rank[1]) for pid, rank in ranks.items() if rank is not None}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
@pytest.mark.slow
def test_torchrun_goes_on_after_a_rank_was_killed(tiny, teachers, tmp_path) -> None:
    from mixstill.schema import write_yaml
    from mixstill.train.run import train

    config = tiny(OPTIONS | {"distill.teachers": [f"{teachers['small']}@last"]})
    write_yaml(config, tmp_path / "recipe.yaml")
    train(config, tmp_path / "straight", quiet=True)

    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    command += ["--monitor-interval", "0.1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += ["-m", "mixstill", "train", str(tmp_path / "recipe.yaml"), "--output", str(run), "--resume"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        launcher = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 180
        while max(losses(run), default=0) < 7:
            assert launcher.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.002)
        (victim,) = [pid for pid, rank in children(launcher.pid).items() if rank == 1]
        os.kill(victim, signal.SIGKILL)
        code = launcher.wait(timeout=240)
    finally:
        launcher.kill()
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    assert re.search(r"run: resumed at step (4|8|12|15|16|20|24|28) of 30", said), said
    assert said.count("done at step 30") == 1, said  # one process speaks
    assert losses(run) == {step: pytest.approx(loss, rel=1e-4) for step, loss in losses(tmp_path / "straight").items()}
    one, other = (json.loads((path / "summary.json").read_text()) for path in (run, tmp_path / "straight"))
    assert (one["processes"], one["n"], one["step"]) == (2, other["n"], STEPS)
