"""The campaign of benchmarks/students.py, in short: one batch of made images, learnt in a few steps.

With MIXSTILL_CIFAR100, a folder that holds CIFAR-100, it is 50 steps of the real images at the published sizes, too.
"""

import importlib
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mixstill import recipes
from mixstill.distill.classifier import Facts, build_student, save_student
from mixstill.normalisation import CIFAR100
from mixstill.schema import from_dict, merge, to_dict

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
students = importlib.import_module("students")

REAL = os.environ.get("MIXSTILL_CIFAR100")
NARROW = {"depth": 3, "embed_dim": 24, "num_heads": 3}
MICRO = {name: {} for name in students.FORMS if "micro" in name} | {"DeiT-Ti/4": NARROW, "DeiT-Ti/4, token": NARROW}


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_images(folder: Path) -> None:
    """Eight images of noise in each split, of eight classes."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        images = [{"bytes": png(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)), "path": None} for _ in range(8)]
        table = pa.table({"img": pa.array(images), "fine_label": pa.array(range(0, 80, 10), pa.int64())})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> list[str]:
    """Two ResNets whose weights were made up."""
    files = []
    for width in (4, 6):
        config = recipes.load("cifar100-micro-teacher", {"model": {"kwargs": {"width": width}}})
        student = build_student(config, 100)
        torch.nn.init.normal_(student.backbone.fc.weight)  # so that not all images are of one class to it
        files.append(tmp_path_factory.getbasetemp() / f"teacher{width}.safetensors")
        save_student(files[-1], student, config, Facts(100, None, *CIFAR100, 32))
    return list(map(str, files))


def over_and_over(config, kwargs):
    """The run sees its only batch again and again, as it is."""
    plain = {"pad": 0, "hflip": 0.0, "aa": None, "reprob": 0.0, "mixup": 0.0, "cutmix": 0.0}
    model = {"kwargs": kwargs, "drop_path": 0.0}
    return from_dict(merge(to_dict(config), {"model": model, "views": plain, "mi": {"width": 16}}))


@pytest.fixture(scope="module")
def rows(untrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("students")
    write_images(folder / "data")
    configs = {name: students.configured(name, folder / "data", untrained, 6) for name in MICRO}
    return students.campaign({name: over_and_over(configs[name], MICRO[name]) for name in MICRO}, folder)


def check(row, first, second) -> None:
    assert row["teachers"] == [f"teacher4@{first}", f"teacher6@{second}"]
    assert row["last"] < row["first"] < 100
    assert row["unused"] == []
    assert row["resume_equal"]
    assert row["strip_equal"]
    assert students.sound(row)


@pytest.mark.parametrize("name", MICRO)
def test_a_student_learns_resumes_and_is_stripped(name, rows) -> None:
    check(rows[name], *students.FORMS[name].places)


@pytest.mark.parametrize("name", [name for name in students.FORMS if name not in MICRO])
def test_no_parameter_of_a_small_student_is_unused(name, untrained, tmp_path) -> None:
    write_images(tmp_path / "data")
    torch.manual_seed(0)
    student = build_student(students.configured(name, tmp_path / "data", untrained, 1), 100).eval()  # no drop path
    for value in student.parameters():
        if not value.any():  # a class head of zeros hides what is before it
            torch.nn.init.normal_(value, std=0.02)
    output = student(torch.randn(2, 3, 32, 32))
    losses = [F.cross_entropy(logits, torch.tensor([1, 2])) for logits in (output.logits, *output.heads)]
    assert len(losses) == 3
    torch.stack(losses).sum().backward()
    assert [name for name, value in student.named_parameters() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize(
    ("change", "fine"),
    [
        ({}, True),
        ({"last": 2.0}, False),
        ({"last": float("nan")}, False),
        ({"unused": ["a"]}, False),
        ({"resume_equal": False}, False),
        ({"strip_equal": False}, False),
    ],
)
def test_what_went_wrong_is_seen(change, fine) -> None:
    row = {"first": 2.0, "last": 1.0, "unused": [], "resume_equal": True, "strip_equal": True}
    assert students.sound(row | change) is fine


def test_the_docs_show_the_campaign_that_was_run() -> None:
    found = json.loads((ROOT / "results" / "students.json").read_text(encoding="utf-8"))
    assert set(found["students"]) == set(students.FORMS)
    assert all(map(students.sound, found["students"].values()))
    assert students.table(found) in (ROOT / "docs" / "students.md").read_text(encoding="utf-8")


@pytest.mark.skipif(REAL is None, reason="needs MIXSTILL_CIFAR100, a folder with CIFAR-100")
@pytest.mark.parametrize("name", students.FORMS)
def test_fifty_steps_of_the_real_images(name, untrained, tmp_path) -> None:
    students.cut(Path(REAL), tmp_path / "data")
    config = students.configured(name, tmp_path / "data", untrained, 50)
    check(students.campaign({name: config}, tmp_path)[name], *students.FORMS[name].places)
