"""Which recipe is taken where none is named, and photos without one: all of them, measured on what there is."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixstill import recipes
from mixstill.commands.choice import FITTING, recipe_of
from mixstill.config import SCHEMES
from mixstill.errors import UserError
from mixstill.overrides import parse


@pytest.fixture
def photos(tmp_path) -> Path:
    """12 photos of each of two classes, in folders, and no test part."""
    draw = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(12):
            pixels = draw.integers(0, 256, (20, 24, 3)).astype("uint8")
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        (["digits", "--dataset", "folder"], "digits"),
        (["--dataset", "folder"], "photos"),
        (["--dataset", "hfds/some/name"], "photos"),
        (["--dataset", "cifar100"], "cifar100-micro"),
        (["--dataset", "digits"], "digits"),
        (["--data-dir", "nowhere"], "photos"),
        (["--init-from", "x", "--dataset", "folder"], None),
        (["--epochs", "3"], None),
        (["--dataset", "nonsense"], None),
    ],
)
def test_the_recipe_is_the_one_named_or_the_one_that_fits_the_data(words, recipe, capsys) -> None:
    assert recipe_of(parse(words)) == recipe
    said = capsys.readouterr().err
    assert said.count("\n") == (recipe is not None and words[0] != "digits")
    if said:
        assert said.startswith(f"mixstill: recipe {recipe}, as --")
    assert recipe_of(parse([*words, "--quiet"], flags=("quiet",))) == recipe
    assert capsys.readouterr().err == ""


def test_each_recipe_that_fits_is_one_for_such_data() -> None:
    for dataset, recipe in FITTING.items():
        config = recipes.load(recipe)
        assert config.data.dataset == ("folder" if dataset in SCHEMES else dataset)
        assert dataset == "digits" or config.data.samples_per_class is None


def test_a_folder_is_taken_for_what_lies_in_it(photos, write_cifar10) -> None:
    line = parse(["--data-dir", str(photos)])
    assert recipe_of(line) == "photos"
    assert line.config["data"]["dataset"] == "folder"
    with pytest.raises(UserError, match=r"none is shipped for cifar10; .*cifar100-mixer-s4 --dataset cifar10"):
        recipe_of(parse(["--data-dir", str(write_cifar10([row % 10 for row in range(40)]))]))


def test_photos_are_trained_on_without_a_recipe(mixstill, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--input-size", "16", "--model.kwargs.num_blocks", "1", "--model.kwargs.embed_dim", "8", "--device", "cpu"]
    short = ["--epochs", "1", "--batch-size", "11", "--workers", "0"]
    said = mixstill("train", "--data-dir", photos, *small, *short)
    assert said.code == 0, said.err
    first = said.err.splitlines()[0]
    assert first.startswith("mixstill: recipe photos, as --data-dir")
    assert "22 training images, 2 steps per epoch" in said.err
    assert "measured on val: 2 images, 0.1 of each class of train, as the data have no test part" in said.err
    assert said.out.startswith("* Acc@1 ")
    assert said.out.endswith("runs/photos\n")
    summary = json.loads((tmp_path / "runs" / "photos" / "summary.json").read_text())
    assert (summary["split"], summary["n"], summary["steps"]) == ("val", 2, 2)
    assert summary["config"]["data"]["val_fraction"] == 0.1
    score = json.loads(mixstill("eval", "runs/photos", "--json").out)
    assert (score["split"], score["n"], score["top1"]) == ("val", 2, summary["top1"])
    again = mixstill("train", "--data-dir", photos, *small, *short, "--resume", "--output", "runs/photos")
    assert (again.code, again.out) == (0, said.out)
    there = mixstill("train", "--data-dir", photos, *small, *short)
    assert there.code == 2
    assert "already holds a run" in there.err


def test_samples_that_a_recipe_leaves_out_are_told(mixstill, photos, tiny_recipe, tmp_path) -> None:
    recipe = tiny_recipe({"data.samples_per_class": 2, "data.workers": 0, "train.epochs": 1, "train.batch_size": 2})
    words = ["--dataset", "folder", "--data-dir", photos, "--val-fraction", "0.25", "--output", tmp_path / "run"]
    said = mixstill("train", recipe, *words)
    assert said.code == 0, said.err
    assert "data.samples_per_class 2: 14 of 18 training images are left out" in said.err
    said = mixstill("train", recipe, "--dataset", "folder", "--data-dir", photos, "--output", tmp_path / "other")
    assert said.code == 2
    assert "--val-fraction 0.1" in said.err
