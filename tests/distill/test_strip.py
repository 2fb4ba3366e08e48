import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from mixstill.config import Config
from mixstill.distill.classifier import Classifier, Facts, build_student, load_classifier
from mixstill.distill.strip import strip
from mixstill.errors import RunError, UserError
from mixstill.models import read_weights
from mixstill.schema import from_dict

FACTS = Facts(3, ("ant", "bee", "cat"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 32)
SMALL_DEIT = {"patch_size": 8, "depth": 2, "embed_dim": 12, "num_heads": 3}
# name -> kwargs, pixels, teachers
STUDENTS = {
    "resnet10t": ({"channels": [8, 8, 16, 16], "stem_width": 8}, 32, ["a@2/3", "b@last"]),
    "mixer_s32_224": ({"mlp_ratio": [0.25, 0.5]}, 64, ["a@last"]),
    "deit_tiny_patch16_224": (SMALL_DEIT, 32, ["a@last", "b@class"]),
    "deit_tiny_distilled_patch16_224": (SMALL_DEIT, 32, ["a@token", "b@last"]),
    "hiera_tiny_224": ({"embed_dim": 8, "stages": [1, 1, 1, 1]}, 96, ["a@last"]),
    "mixer_micro_32": ({"num_blocks": 2}, 40, ["a@last"]),
    "cyclemlp_micro_32": ({"stem_stride": 1}, 48, ["a@last"]),
}


def make(name: str) -> tuple[Classifier, torch.Tensor]:
    kwargs, size, teachers = STUDENTS[name]
    model = {"name": name, "kwargs": kwargs, "drop_path": 0.1}
    config: Config = from_dict({"model": model, "data": {"input_size": size}, "distill": {"teachers": teachers}})
    student = build_student(config, 3).eval()
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.05)
    return Classifier(student, replace(FACTS, input_size=size), "run", config), torch.randn(2, 3, size, size)


# What a fresh Python does with each checkpoint, first where mixstill cannot be imported, at last with it.
LOADER = """
import json, sys
jobs = json.load(open("jobs.json"))
sys.modules["mixstill"] = None
import timm, torch
torch.set_num_threads(1)  # as in the tests: sums are in the same order
for job in sorted(jobs, key=lambda job: not job["stock"]):
    if not job["stock"]:
        sys.modules.pop("mixstill", None)
    exec(job["load"].replace("timm.create_model", "model = timm.create_model"))
    logits, cfg = model.eval()(torch.load(job["images"])), model.pretrained_cfg
    told = [cfg["mean"], cfg["std"], cfg["input_size"], cfg.get("label_names"), cfg.get("crop_pct")]
    torch.save({"logits": logits, "cfg": json.loads(json.dumps(told))}, job["found"])
"""
OUTS = ("plain.safetensors", "plain")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(classifier, images, what was stripped, what a fresh Python finds in it) for each student and kind of file."""
    folder, made, jobs = tmp_path_factory.mktemp("stripped"), {}, []
    for name in STUDENTS:
        classifier, images = make(name)
        torch.save(images, folder / f"{name}.pt")
        for out in OUTS:
            stripped = strip(classifier, folder / name / out)
            made[name, out] = (classifier, images, stripped)
            files = {"images": f"{name}.pt", "found": f"{name}-{out}.found"}
            jobs.append({"load": stripped.load, "stock": stripped.stock} | files)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run([sys.executable, "-c", LOADER], cwd=folder, check=True)
    return {key: (*value, torch.load(folder / f"{key[0]}-{key[1]}.found")) for key, value in made.items()}


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("out", OUTS)
def test_stock_timm_loads_the_plain_student_bit_by_bit(name, out, loaded):
    classifier, images, stripped, found = loaded[name, out]
    assert stripped.stock is ("micro" not in name)
    assert stripped.architecture == name
    assert stripped.load.startswith("import mixstill; ") is not stripped.stock
    assert "drop_path" not in stripped.load
    assert torch.equal(found["logits"], classifier.model.backbone(images))
    if "distilled" not in name:
        assert torch.equal(found["logits"], classifier.model(images).logits)
    if out == "plain":
        size = classifier.facts.input_size
        assert found["cfg"] == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [3, size, size], ["ant", "bee", "cat"], 1.0]


def test_arguments_are_those_of_the_run_whatever_timm_remembers(tmp_path):
    classifier, _ = make("cyclemlp_micro_32")
    del classifier.model.backbone._model_args  # earlier versions of timm keep none
    assert "stem_stride=1" in strip(classifier, tmp_path / "plain.safetensors").load
    strip(classifier, tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["model_args"]["stem_stride"] == 1


def test_the_share_of_a_photo_that_is_looked_at_goes_along(tmp_path):
    classifier, _ = make("resnet10t")
    config = replace(classifier.config, data=replace(classifier.config.data, dataset="folder", crop_pct=0.8))
    strip(replace(classifier, config=config), tmp_path / "plain")
    told = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert told["pretrained_cfg"]["crop_pct"] == 0.8
    assert "drop_path_rate" not in told.get("model_args", {})


def test_mixstill_reads_the_folder_that_it_stripped(tmp_path):
    classifier, images = make("resnet10t")
    strip(classifier, tmp_path / "plain")
    found = load_classifier(str(tmp_path / "plain"))
    assert torch.equal(found.model(images), classifier.model(images).logits)
    assert found.facts == classifier.facts


def test_a_file_tells_its_architecture(tmp_path):
    strip(make("resnet10t")[0], tmp_path / "plain.safetensors")
    metadata = read_weights(tmp_path / "plain.safetensors").metadata
    told = json.loads(metadata.pop("pretrained_cfg"))
    assert metadata == {"arch": "resnet10t"}
    assert (told["mean"], told["std"], told["label_names"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], ["ant", "bee", "cat"])


def test_sizes_with_and_without_modules_are_told(tmp_path):
    classifier, _ = make("resnet10t")
    stripped = strip(classifier, tmp_path / "plain")
    student = classifier.model
    modules = sum(parameter.numel() for parameter in student.token_modules.parameters())
    assert stripped.student_params - stripped.params == modules > 0
    assert stripped.params == sum(parameter.numel() for parameter in student.backbone.parameters())


def test_what_has_no_modules_is_refused(tmp_path):
    classifier, _ = make("resnet10t")
    with pytest.raises(UserError, match="'run' is no student of mixstill"):
        strip(replace(classifier, model=classifier.model.backbone), tmp_path / "plain")


def test_nothing_is_written_over(tmp_path):
    classifier, _ = make("resnet10t")
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(UserError, match="is there already"):
        strip(classifier, taken)
    assert list(taken.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_told(tmp_path):
    classifier, _ = make("resnet10t")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        strip(classifier, tmp_path / "file" / "plain")
