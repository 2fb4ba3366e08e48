"""Each ImageNet recipe trains two steps as it stands, on a folder of a few photos.

What is smaller than in earnest: the batch, and the channels of students and teachers; all their blocks are there, and
all of the pixels. The teachers' weights are drawn at random and read from files. A recipe that goes on from a run goes
on from one of a single step.
"""

import json
import math
from dataclasses import replace

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.models import deit, mlp_mixer, regnet, resnet, swin_transformer

from mixstill import recipes
from mixstill.distill.classifier import load_classifier
from mixstill.distill.placement import Placement
from mixstill.models import cyclemlp, write_weights, zoo

IMAGENET = [name for name in recipes.names() if name.startswith("imagenet-")]
CLASSES = ("china", "flower")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two classes: three photos each to train on, one to measure on, no two of one size."""
    folder = tmp_path_factory.mktemp("photos")
    for name, pixels in zip(CLASSES, load_sample_images().images, strict=True):
        for index in range(4):
            path = folder / ("val" if index == 3 else "train") / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[40 * index :, 50 * index :]).save(path)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Models get 8 channels in place of hundreds; a file of random weights for every teacher that a recipe names."""
    patch = pytest.MonkeyPatch()

    def narrow(module, **widths):
        build = module.build_model_with_cfg
        patch.setattr(module, "build_model_with_cfg", lambda *args, **kwargs: build(*args, **kwargs | widths))

    narrow(mlp_mixer, embed_dim=8)
    narrow(zoo, embed_dim=8)
    narrow(cyclemlp, embed_dims=(8, 8, 8, 8))
    narrow(deit, embed_dim=8, num_heads=1)
    narrow(resnet, channels=(8, 8, 8, 8), stem_width=4)
    narrow(regnet, model_cfg=replace(regnet.model_cfgs["regnety_160"], w0=8, wa=4.25, group_size=4, stem_width=8))
    narrow(swin_transformer, embed_dim=8, num_heads=(1, 1, 1, 1))
    folder = tmp_path_factory.mktemp("teachers")
    placements = [Placement.parse(text) for name in IMAGENET for text in recipes.load(name).distill.teachers]
    files = {placement.teacher: folder / f"{placement.teacher}.safetensors" for placement in placements}
    torch.manual_seed(0)
    for teacher, file in files.items():
        write_weights(file, timm.create_model(teacher.partition(".")[0], num_classes=len(CLASSES)).state_dict())
    yield files
    patch.undo()


@pytest.mark.parametrize("name", IMAGENET)
@pytest.mark.slow
def test_an_imagenet_recipe_trains(name, photos, weights, mixstill, tmp_path) -> None:
    run, words = tmp_path / "run", []
    placements = [Placement.parse(text) for text in recipes.load(name).distill.teachers]
    if placements:
        words = ["--teachers", *(f"{at.teacher}={weights[at.teacher]}@{at.place}" for at in placements)]
    taught = words[1:]
    words += ["--data-dir", photos, "--device", "cpu", "--workers", 0, "-b", 4, "--quiet"]
    if "--init-from" in recipes.header(name)["command"]:
        before = name.rpartition("-")[0]
        assert mixstill("train", before, "--output", tmp_path / "before", "--max-steps", 1, *words).code == 0
        words += ["--init-from", tmp_path / "before"]
    said = mixstill("train", name, "--output", run, "--max-steps", 2, "--log-interval", 1, *words)
    assert said.code == 0, said
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["total"] for line in lines if "total" in line]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    for ema in (False, True):
        trained = load_classifier(str(run), ema=ema)
        assert trained.facts.classes == CLASSES
        assert trained.facts.input_size == recipes.load(name).data.input_size
        assert [str(at) for at in trained.model.placements] == taught
