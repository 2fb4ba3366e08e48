"""The walk of benchmarks/families.py again, family by family, from what it wrote; and that it finds what is amiss."""

import importlib
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from mixstill.errors import UserError
from mixstill.models.create import create_backbone

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
walk = importlib.import_module("families")

FOUND = json.loads((ROOT / "results" / "families.json").read_text(encoding="utf-8"))
ROWS = FOUND["families"]
same_timm = pytest.mark.skipif(
    timm.__version__ != FOUND["machine"]["versions"]["timm"], reason="the file is of another version of timm"
)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row["slow"]])
@pytest.mark.slow
def test_a_family_can_be_what_the_file_says(name) -> None:
    row = ROWS[name]
    assert walk.judge(row["model"], row["kwargs"], row["pixels"], row["drop_path"]) == row["reasons"]
    assert {role: row[role] for role in walk.ROLES} == {role: role not in row["reasons"] for role in walk.ROLES}
    if not row["drop_path"]:
        with pytest.raises(UserError, match="drop_path_rate"):
            create_backbone(row["model"], walk.CLASSES, drop_path=walk.RATE, kwargs=row["kwargs"])


@same_timm
def test_no_family_is_missing() -> None:
    there = walk.families()
    assert list(ROWS) == list(there)
    assert all(row["model"] in there[name] for name, row in ROWS.items())
    assert {name for names in there.values() for name in names} >= set(FOUND["no_classifiers"])


@same_timm
def test_the_walk_takes_the_smallest_classifier_at_the_smallest_size() -> None:
    models = ["deepseek_vit_412m_align", "deepseek_vit_412m_enc", "deepseek_vit_412m", "deepseek"]
    family, others = walk.look("deepseek_vit", models)
    told = others.pop("deepseek")
    assert told.startswith("model: unknown value 'deepseek'")
    assert others.items() <= FOUND["no_classifiers"].items()
    row = ROWS["deepseek_vit"]
    assert {key: row[key] for key in vars(family)} == vars(family)
    assert (family.model, family.pixels, [*others]) == ("deepseek_vit_412m", 56, ["deepseek_vit_412m_enc"])


def test_the_walk_writes_what_it_found(tmp_path, monkeypatch, capsys) -> None:
    few = {"vision_transformer": ["test_vit2", "test_vit"], "xception": [], "mlp_mixer": ["gmlp_ti16_224"]}
    monkeypatch.setattr(walk, "families", lambda: few)
    monkeypatch.setattr(walk, "ProcessPoolExecutor", lambda count, _, *start: ThreadPoolExecutor(count, "", *start))
    output = tmp_path / "found.json"
    options = ["mlp_mixer", "vision_transformer", "--workers", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["benchmarks/families.py", *options])
    walk.main()
    found = json.loads(output.read_text())
    assert found["counts"] == {"families": 2, "student": 2, "teacher": 2}
    assert found["command"] == f"python benchmarks/families.py {' '.join(options)}"
    assert found["families"] == {name: ROWS[name] for name in options[:2]}
    assert capsys.readouterr().out.endswith("of 2 families 2 can be a student, 2 a teacher\n")


# --- what stands in the docs ---


def test_the_docs_give_the_counts_of_the_file() -> None:
    text = " ".join((ROOT / "docs" / "timm.md").read_text(encoding="utf-8").split())
    said = re.search(r"Of the (\d+) families of timm ([\d.]+), (\d+) can be a student and (\d+) a teacher", text)
    assert said is not None
    students, teachers = (sum(row[role] for row in ROWS.values()) for role in walk.ROLES)
    assert FOUND["counts"] == {"families": len(ROWS), "student": students, "teacher": teachers}
    version = FOUND["machine"]["versions"]["timm"]
    assert said.groups() == (str(len(ROWS)), version, str(students), str(teachers))
    refused = {name for name, row in ROWS.items() if row["reasons"]}
    assert all(f"`{name}`" in text for name in refused | set(FOUND["no_classifiers"]))


# --- what the walk finds amiss ---


class Faulty(nn.Module):
    """A small classifier that can be asked to be no good."""

    num_classes, pretrained_cfg = walk.CLASSES, {"input_size": (3, 8, 8)}

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.head = nn.Linear(4, walk.CLASSES)
        self.extra = nn.Linear(4, 4)

    def forward_intermediates(self, images, indices=(0, 1), norm=False, output_fmt="NLC"):
        maps = self.stem(images)
        return maps, [maps.flatten(2).transpose(1, 2) for _ in indices]

    def forward_head(self, maps):
        logits = self.head(maps.mean(dim=(2, 3)))
        return logits * torch.inf if self.fault == "infinite" else logits

    def forward(self, images):
        maps = self.stem(images)
        if self.fault == "unused":
            maps = maps + self.extra(maps.mean(dim=(2, 3)))[:, :, None, None].mul(0)
        logits = self.forward_head(maps)
        shifted = self.fault == ("training" if self.training else "evaluation")
        answers = {"tuple": (logits, logits), "wide": logits.repeat(1, 2), "same": logits[:1].expand_as(logits)}
        return answers.get(self.fault, logits + shifted)


@pytest.mark.parametrize(
    ("fault", "as_student", "as_teacher"),
    [
        ("", None, None),
        ("evaluation", "has other class logits in evaluation", None),
        ("training", "has other class logits in training", None),
        ("unused", "leaves unused: backbone.extra.bias, backbone.extra.weight", None),
        ("tuple", "gives tuple, not logits [2, 5]", "gives tuple, not logits [2, 5]"),
        ("wide", "gives [2, 10], not logits [2, 5]", "gives [2, 10], not logits [2, 5]"),
        ("same", "gives all images the same logits", "gives all images the same logits"),
        ("infinite", "gives logits that are not finite", "gives logits that are not finite"),
    ],
)
def test_a_faulty_model_is_found_out(fault, as_student, as_teacher) -> None:
    torch.manual_seed(0)
    assert walk.why_not(walk.train, Faulty(fault)) == as_student
    assert walk.why_not(walk.teach, Faulty(fault)) == as_teacher


def test_a_family_whose_features_cannot_be_read_can_only_teach(monkeypatch) -> None:
    monkeypatch.delattr(Faulty, "forward_intermediates")
    reason = "model: Faulty has no forward_intermediates, so no token module can read its features"
    assert walk.why_not(walk.train, Faulty()) == reason
    assert walk.why_not(walk.teach, Faulty()) is None


def test_a_model_that_cannot_be_built_can_be_nothing() -> None:
    reasons = walk.judge("test_vit", {}, 30, True)
    told = "data.input_size: 30 pixels are not divisible by the patch of 16 of 'test_vit'; try 16 or 32"
    assert reasons == {"student": told, "teacher": told}
