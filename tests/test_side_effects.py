"""A library leaves the process as it finds it, and two runs at once are two runs one after the other."""

import inspect
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mixstill.distill.classifier import load_classifier
from mixstill.distill.sizes import size_of
from mixstill.train import device, memory
from mixstill.train.build import build
from mixstill.train.run import train
from mixstill.train.step import Stepper

DRAWING = {  # dropout, drop path, the regulariser and a moving average
    "model.kwargs": {"num_blocks": 2, "embed_dim": 8, "drop_rate": 0.2, "proj_drop_rate": 0.2},
    "model.drop_path": 0.2,
    "mi.weight": 0.1,
    "mi.width": 16,
    "train.ema_decay": 0.9,
    "train.epochs": 1,
}


def process() -> dict[str, Any]:
    """What is the same for a whole process."""
    kept = random.getstate()
    logs = [logging.getLogger(), *map(logging.getLogger, sorted(logging.root.manager.loggerDict))]
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "python": json.loads(json.dumps(kept)),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
        "environment": {name: text for name, text in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "warnings": [str(each) for each in warnings.filters],
        "logs": {log.name: (log.level, [str(each) for each in log.handlers], log.disabled) for log in logs},
        "excepthook": str(sys.excepthook),
        "folder": str(Path.cwd()),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What another would find otherwise; loggers that were asked for by their names are no change by themselves."""
    fresh = {name: (0, [], False) for name in after["logs"]} | before["logs"]
    return [name for name in before if after[name] != (fresh if name == "logs" else before[name])]


@pytest.fixture
def unchanged(monkeypatch):
    """Checks that the process is as it was, and that no memory was kept and no thread number set meanwhile."""
    calls: list[str] = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: calls.append("memory"))
    monkeypatch.setattr(device, "keep_freed_memory", lambda: calls.append("memory"))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: calls.append("threads"))
    torch.manual_seed(11)
    np.random.seed(12)
    random.seed(13)
    before = process()
    yield
    assert changed(before, process()) == []
    assert calls == []


CHILD = f"""
import json, logging, os, random, signal, sys, warnings
import numpy as np
import timm, torch
from pathlib import Path
from pathlib import Path
from typing import Any

{inspect.getsource(process)}
{inspect.getsource(changed)}
before = process()
import mixstill
assert timm.is_model("std_mixer_s16_224")
print(changed(before, process()))
"""


def test_an_import_changes_nothing() -> None:
    found = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("[]\n", 0), found.stderr


def test_a_classifier_is_loaded_without_a_trace(unchanged, teachers) -> None:
    for source in teachers.values():
        load_classifier(source)
    load_classifier(teachers["small"], input_size=12)


def test_a_size_is_measured_without_a_trace(unchanged) -> None:
    size_of("std_mixer_digits", 3)


def test_an_image_is_classified_without_a_trace(unchanged, mixstill, teachers, tmp_path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    assert mixstill("predict", teachers["small"], tmp_path / "image.png", "--device", "cpu").code == 0


def test_a_run_leaves_no_trace_and_its_own_threads_to_the_command(unchanged, tiny, teachers, tmp_path) -> None:
    options = DRAWING | {"distill.teachers": [f"{teachers['small']}@1/2"], "train.threads": 2}
    train(tiny(options), tmp_path / "run", quiet=True)
    train(tiny(options | {"mi.every": "epoch"}), tmp_path / "report", quiet=True)
    train(tiny(options), tmp_path / "run", quiet=True, resume=True)


def test_a_failed_run_leaves_no_trace(unchanged, tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Stepper, "_learn", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny(), tmp_path / "run", quiet=True)


def test_what_a_model_draws_from_numpy_and_python_is_the_steps_own(tiny, monkeypatch) -> None:
    """Volo's own mixing draws from numpy."""
    drawn: list[tuple[float, float]] = []
    learn = Stepper._learn

    def watched(self, *args):
        drawn.append((float(np.random.rand()), random.random()))
        return learn(self, *args)

    monkeypatch.setattr(Stepper, "_learn", watched)
    for _ in range(2):
        job = build(tiny())
        job.state.student.train()
        for index, parts in enumerate(job.batches.run(0, 3)):
            job.stepper.step(job.state, parts, 1, epoch=0, index=index, rate=1e-3)
        np.random.rand()
    assert drawn[:3] == drawn[3:]
    assert len(set(drawn)) == 3


def test_two_runs_in_two_threads_are_two_runs_one_after_the_other(tiny, teachers, tmp_path, monkeypatch) -> None:
    configs = [tiny(DRAWING | {"distill.teachers": [f"{teachers['small']}@1/2"], "train.seed": s}) for s in (3, 4)]
    met, each = threading.Barrier(2), Stepper.step

    def run(place: str, seed: int) -> dict[str, torch.Tensor]:
        path = tmp_path / f"{place}{seed}"
        train(configs[seed], path, quiet=True)
        return {file: load_file(path / f"{file}.safetensors") for file in ("weights", "ema")}

    straight = [run("straight", seed) for seed in range(2)]

    def together(self, *args, **options):
        met.wait(60)
        return each(self, *args, **options)

    monkeypatch.setattr(Stepper, "step", together)
    with ThreadPoolExecutor(2) as pool:
        threaded = list(pool.map(run, ("threaded",) * 2, range(2)))
    for one, other in zip(straight, threaded, strict=True):
        for file in one:
            assert all(torch.equal(value, other[file][name]) for name, value in one[file].items())
    assert not torch.equal(*(next(iter(found["weights"].values())) for found in straight))
