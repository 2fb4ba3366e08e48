"""timm's own scripts, unmodified, on a student of mixstill. MIXSTILL_TIMM names a folder that holds them; else skipped.

They are in timm's repository, not in its package.
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

SCRIPTS = Path(os.environ.get("MIXSTILL_TIMM", "nowhere"))
pytestmark = pytest.mark.skipif(not (SCRIPTS / "train.py").exists(), reason="MIXSTILL_TIMM names no checkout of timm")
DOCS = Path(__file__).parents[1] / "docs" / "timm.md"


def one_liner() -> str:
    """The Python that the documentation gives to run a script of timm's after `import mixstill`."""
    found = re.search(r'python -c "(.+)" train\.py', DOCS.read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def run(folder: Path, script: str, *words: str) -> str:
    command = [sys.executable, "-c", one_liner(), str(SCRIPTS / script), *words, "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of small pictures, bright and dark, and a teacher for them."""
    folder, draw = tmp_path_factory.mktemp("timm"), np.random.default_rng(0)
    for split, count in (("train", 32), ("validation", 16)):
        for label, level in (("dark", 60), ("light", 190)):
            (folder / "data" / split / label).mkdir(parents=True)
            for index in range(count):
                noise = draw.integers(-50, 50, (32, 32, 3)) + level
                Image.fromarray(noise.astype(np.uint8)).save(folder / "data" / split / label / f"{index}.png")
    torch.manual_seed(0)
    save_for_hf(timm.create_model("cifar_resnet8", num_classes=2), str(folder / "teacher"), safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """What timm's train.py makes of a student in two epochs of token distillation."""
    data = ["--data-dir", "data", "--num-classes", "2", "-b", "16", "-j", "0"]
    distil = ["--kd-model-name", "local-dir:teacher", "--kd-distill-type", "token", "--kd-token-distill-type", "hard"]
    fit = ["--epochs", "2", "--opt", "adamw", "--lr", "3e-3", "--warmup-epochs", "0", "--output", "out"]
    run(folder, "train.py", "--model", "std_mixer_micro_32", *data, *distil, *fit, "--experiment", "x")
    return folder / "out" / "x"


def summary(trained: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((trained / "summary.csv").read_text().splitlines()))


def test_train_py_distils_a_student(trained):
    rows = summary(trained)
    assert len(rows) == 2
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    state = torch.load(trained / "last.pth.tar", map_location="cpu", weights_only=False)["state_dict"]
    fresh = timm.create_model("std_mixer_micro_32", num_classes=2)
    assert set(state) == set(fresh.state_dict())


def test_validate_py_scores_it(folder, trained):
    words = ["--checkpoint", str(trained / "last.pth.tar"), "--num-classes", "2", "-b", "16", "-j", "0"]
    shown = run(folder, "validate.py", "--data-dir", "data", "--model", "std_mixer_micro_32", *words)
    result = json.loads(shown.partition("--result")[2])
    assert result["top1"] == pytest.approx(float(summary(trained)[-1]["eval_top1"]))


def test_benchmark_py_measures_it(folder):
    words = ["--bench", "both", "-b", "2", "--num-bench-iter", "10", "--num-warm-iter", "1", "--precision", "float32"]
    shown = run(folder, "benchmark.py", "--model", "std_mixer_micro_32", *words)
    result = json.loads(shown.partition("--result")[2])
    assert result["infer_samples_per_sec"] > 0
    assert result["train_samples_per_sec"] > 0
