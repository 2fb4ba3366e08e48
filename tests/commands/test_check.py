"""`mixstill check`: what a run will be, told without a trace, and each thing that would spoil it in one line."""

import json
import shutil
from collections import namedtuple

import pytest

from mixstill import recipes
from mixstill.commands import check as module
from mixstill.distill import teachers as distilling
from mixstill.distill.classifier import load_classifier, save_student
from mixstill.schema import write_yaml
from mixstill.train import build as building
from mixstill.train.run import train

SECTIONS = ["student", "data", "teachers", "loss", "time", "memory", "disk"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A teacher of the digits after 3 epochs, as a run."""
    path = tmp_path_factory.mktemp("teacher") / "able"
    train(recipes.load("digits-teacher", {"train": {"epochs": 3, "eval_interval": 3}}), path, quiet=True)
    return path


@pytest.fixture
def broken(trained, tmp_path):
    """The teacher with its classes in another order."""
    found = load_classifier(str(trained))
    head = found.model.backbone.fc
    head.weight.data, head.bias.data = head.weight.data.roll(1, 0), head.bias.data.roll(1, 0)
    path = tmp_path / "turned.safetensors"
    save_student(path, found.model, found.config, found.facts)
    return path


@pytest.fixture
def check(mixstill, tmp_path, monkeypatch):
    """Runs `check` with few steps and 64 images in a folder of its own, which it must leave empty."""
    monkeypatch.setattr(module, "SAMPLES", 64)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*argv):
        before = sorted(folder.rglob("*"))
        said = mixstill("check", *argv, "--steps", 2)
        assert sorted(folder.rglob("*")) == before
        return said

    return run


def sections(text: str) -> dict[str, list[str]]:
    """The lines of each section, without its name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name = line[:10].strip()
        current = name or current  # noqa: F821
        found.setdefault(current, []).append(line[10:])
    return found


def test_every_section_is_told_with_the_run_s_own_numbers(check, tiny_recipe, trained) -> None:
    recipe = tiny_recipe({"distill.teachers": [f"{trained}@0", f"{trained}@last"], "train.device_batch_size": 5})
    said = check(recipe)
    assert (said.code, said.err) == (0, "")
    found = sections(said.out)
    uneven, over = found.pop("warning")
    assert uneven.startswith("a batch of 10 does not split evenly over 1 process in 2 passes: parts of [4, 6]")
    assert over == "train.device_batch_size 5 cannot be kept: 6 samples at once"
    assert list(found) == SECTIONS
    assert found["student"] == [
        "mixer_digits at 8 pixels: 3,150 parameters, 1,674 without its 2 modules",
        "able@0: after block 1 of 2, tokens C = 8, N = 16",
        "able@last: after block 2 of 2, tokens C = 8, N = 16",
    ]
    assert found["data"] == [
        "digits: 40 train, 596 test images of 10 classes",
        "batches of 10, 4 steps per epoch, 8 in 2 epochs",
        "data.samples_per_class 4: 1161 of 1201 training images are left out; --data.samples_per_class none takes all",
        "a batch of 10 is worked on by 1 process in 2 passes, 6 samples at once",
    ]
    top1, facts = found["teachers"]
    assert top1.startswith("able: 9")
    assert top1.endswith(" % by chance")
    assert facts == "  8 pixels, mean 0.305/0.305/0.305, std 0.376/0.376/0.376; class names fit"
    assert found["loss"][0] == (
        "L = 0.5 CE(class, y~) + 0.5 [w_1 CE(head able@0, argmax able) + w_2 CE(head able@last, argmax able)]"
    )
    assert found["time"][3].endswith(" in all: 8 steps, 2 evaluations, 3 checkpoints")
    assert found["disk"][0].split(" in ")[1].startswith("'runs/tiny': ")


def test_json_is_one_object_of_the_same(check, tiny_recipe, trained, tmp_path) -> None:
    said = check(tiny_recipe({"distill.teachers": [f"{trained}@last"], "train.ema_decay": 0.9}), "--json")
    assert (said.code, said.err) == (0, "")
    about = json.loads(said.out)
    assert list(about) == [*SECTIONS, "warnings"]
    assert about["warnings"] == []
    student, data, (teacher,), spent = about["student"], about["data"], about["teachers"], about["time"]
    assert student["modules"] == [{"name": "able@last", "block": 1, "blocks": 2, "channels": 8, "patches": 16}]
    assert student["parameters"] > student["backbone_parameters"] == 1674
    assert data["images"] == {"train": 40, "test": 596}
    assert (data["steps_per_epoch"], data["steps"], data["passes"], data["processes"]) == (4, 8, 1, 1)
    assert (teacher["name"], teacher["trained"], teacher["n"], teacher["differing_class"]) == ("able", True, 70, None)
    assert 80 < teacher["top1"] <= 100
    assert about["loss"]["equation"] == "L = 0.5 CE(class, y~) + 0.5 [CE(head able@last, argmax able)]"
    assert spent["steps_timed"] == 2
    assert spent["images_per_second"] == pytest.approx(10 / spent["step"])
    assert spent["total"] > 8 * spent["step"] + 3 * spent["evaluation"]  # of each epoch, and of the moving average
    assert sum(spent["shares"].values()) == pytest.approx(1)
    assert 0 < about["memory"]["peak"] < about["memory"]["there"]
    disk = about["disk"]
    assert disk["files"] > 3 * disk["checkpoint"] > 0
    assert disk["answers"] == 1 * 2 * (40 * 10 * 2 + 4 * 4)  # teachers, epochs, (samples, K, bytes + steps, checksum)
    assert disk["answers_there"] == 0
    assert disk["free"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_without_teachers_the_loss_is_plain(check, tiny_recipe) -> None:
    found = sections(check(tiny_recipe()).out)
    assert found["teachers"] == ["none"]
    assert found["loss"] == ["L = CE(class, y~)", "y~ = 0.9 y + 0.1 / K; y: the label"]
    assert found["student"] == ["mixer_digits at 8 pixels: 1,674 parameters"]


def test_a_recipe_without_a_run_is_taken_untrained_and_a_finished_one_is_examined(check, shelf, tmp_path) -> None:
    said = check("digits")
    assert said.code == 0
    assert sections(said.out)["teachers"] == [
        "digits-teacher: not trained yet: mixstill train trains it first (its own time: mixstill check digits-teacher)",
        "  8 pixels, mean 0.305/0.305/0.305, std 0.376/0.376/0.376",
    ]
    (teacher,) = json.loads(check("digits", "--json").out)["teachers"]
    assert (teacher["name"], teacher["trained"]) == ("digits-teacher", False)
    train(recipes.load("digits-teacher"), tmp_path / "runs" / "digits-teacher", quiet=True)
    said = check("digits", "--output", tmp_path / "runs" / "digits")
    assert "digits-teacher: " in said.out
    assert "not trained yet" not in said.out
    assert not (tmp_path / "runs" / "digits").exists()


class Unsized:
    """A split that does not tell its size, as that of a stream."""

    def __init__(self, split) -> None:
        self.split = split

    def __getattr__(self, name):
        return getattr(self.split, name)

    def __len__(self) -> int:
        return 0


def test_a_test_split_of_unknown_size_is_told(check, tiny_recipe, trained, monkeypatch) -> None:
    load = building.load_splits

    def unsized(*given, **named):
        splits = load(*given, **named)
        return splits | {"test": Unsized(splits["test"])}

    monkeypatch.setattr(building, "load_splits", unsized)
    recipe = tiny_recipe({"distill.teachers": [f"{trained}@last"], "train.ema_decay": 0.9})
    said = check(recipe)
    assert (said.code, said.err) == (0, "")
    found = sections(said.out)
    assert found["data"][0] == "digits: 40 train images of 10 classes; size of test not known"
    warning = "size of test not known: evaluating it is forecast from what was timed, and may take longer"
    assert found["warning"] == [warning]
    about = json.loads(check(recipe, "--json").out)
    assert about["data"]["images"] == {"train": 40, "test": None}
    assert about["warnings"] == [warning]
    assert about["time"]["total"] > 8 * about["time"]["step"] + 3 * about["time"]["evaluation"] > 0


def test_each_teacher_is_loaded_once(check, tiny_recipe, trained, monkeypatch) -> None:
    load, loaded = distilling.load_classifier, []
    monkeypatch.setattr(distilling, "load_classifier", lambda source: loaded.append(source) or load(source))
    said = check(tiny_recipe({"distill.teachers": [f"{trained}@0", f"{trained}@last"]}))
    assert said.code == 0
    assert "class names fit" in said.out
    assert loaded == [str(trained)]


def test_a_teacher_of_classes_in_another_order_ends_it(check, tiny_recipe, broken) -> None:
    said = check(tiny_recipe({"distill.teachers": [f"{broken}@last"]}))
    assert said.code == 2
    assert list(sections(said.out)) == ["student", "data", "teachers"]
    assert said.err.startswith("mixstill: distill.teachers: turned has its classes in another order than the data: ")
    assert " held-out images right, 9" in said.err
    assert said.err.count("\n") == 1
    said = check(tiny_recipe({"distill.teachers": [f"{broken}@last"]}), "--json")
    assert (said.code, said.out) == (2, "")


def test_untrained_teachers_are_told_together(check, tiny_recipe, teachers) -> None:
    said = check(tiny_recipe({"distill.teachers": [f"{teachers[name]}@last" for name in teachers]}))
    assert said.code == 2
    for name in teachers:
        assert f"{name} is at chance: " in said.err
    assert said.err.count("or its weights are untrained") == 2
    assert "large: " in said.out
    assert "; it does not name its classes" in said.out


def test_a_full_disk_is_told(check, tiny_recipe, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 20_000, 20_000))
    said = check(tiny_recipe())
    assert said.code == 2
    assert said.err.startswith("mixstill: output: 'runs/tiny' needs ")
    assert said.err.endswith(" kB, but only 20.0 kB are free there\n")


def test_a_run_that_is_there_already_is_warned_of(check, tiny_recipe, tiny, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    write_yaml(tiny(), tmp_path / "run" / "config.yaml")
    said = check(tiny_recipe(), "--output", tmp_path / "run")
    assert said.code == 0
    assert sections(said.out)["warning"][0].startswith(f"output: '{tmp_path / 'run'}' already holds a run")
    assert len(list((tmp_path / "run").iterdir())) == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a", "b"], "check: takes one recipe, got a b"),
        (["digits", "--steps", "0"], "--steps: '0' is not valid; it must be a whole number, 1 or more"),
        (["digits", "--stesp", "2"], "option: unknown value '--stesp'; did you mean '--steps'?"),
        (["digits", "--train.device", "gpu"], "train.device: unknown device 'gpu'"),
        (["digits", "--teachers", "digits-teachr@last"], "distill.teachers: unknown value 'digits-teachr'"),
        (["digits", "--teachers", "none", "--model", "mixer_digit"], "model: unknown value 'mixer_digit'"),
    ],
)
def test_mistakes_are_told_in_one_line(refused, argv, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("check", *argv).startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", [True, False])
def test_a_run_that_starts_from_another_is_checked_as_it_will_be(mixstill, tiny_recipe, tmp_path, recipe) -> None:
    path = tiny_recipe()
    assert mixstill("train", path, "--output", tmp_path / "run", "--quiet").code == 0
    words = [*[path] * recipe, "--init-from", tmp_path / "run", "--input-size", 16, "--output", tmp_path / "more"]
    told = json.loads(mixstill("check", *words, "--json").out)
    done = json.loads(mixstill("train", *words, "--json", "--quiet").out)
    assert told["student"]["parameters"] == done["parameters"]
    assert told["student"]["input_size"] == 16
