"""What is refused before a run begins, and what a run keeps to: found by trying to break it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mixstill.distill.classifier import Facts, build_student, save_student
from mixstill.errors import InterruptedRun, RunError, UserError
from mixstill.train.run import CHECKPOINT, saved_summary, train
from mixstill.train.signals import StopSignal

FACTS = Facts(10, tuple("abcdefghij"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 8)


def refused_run(config, path) -> str:
    """The line that refuses the run; nothing is left behind."""
    with pytest.raises(UserError) as error:
        train(config, path, quiet=True)
    assert not path.exists()
    return str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"model.kwargs": {"num_blocks": 1, "embed_dim": 8, "in_chans": 1}},
        {"model.kwargs": {"num_blocks": 1, "embed_dim": 8, "global_pool": ""}},
        {"model.name": "convnext_atto", "model.kwargs": {}, "data.input_size": 8},
    ],
)
def test_a_student_that_cannot_read_the_images_is_refused_before_the_run_exists(tiny, tmp_path, options) -> None:
    assert "cannot be trained on 8 pixels in RGB: " in refused_run(tiny(options), tmp_path / "run")


@pytest.mark.parametrize("options", [{"train.batch_size": 1}, {"mi.every": "epoch", "train.batch_size": 1}])
def test_a_regulariser_without_pairs_is_refused_before_the_run_exists(tiny, teachers, tmp_path, options) -> None:
    taught = {"distill.teachers": [f"{teachers['small']}@last"], "mi.weight": 0.1, "mi.width": 8}
    assert refused_run(tiny(taught | options), tmp_path / "run").startswith(
        "mi.weight: the regulariser needs 2 samples"
    )


def test_a_teacher_of_other_classes_is_refused_though_their_number_fits(tiny, tmp_path) -> None:
    config = tiny()
    save_student(tmp_path / "letters.safetensors", build_student(config, 10), config, FACTS)
    animals = tmp_path / "animals"
    for split in ("train", "test"):
        for name in ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"):
            folder = animals / split / name
            folder.mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
    options = {
        "distill.teachers": [f"{tmp_path / 'letters.safetensors'}@last"],
        "data.dataset": "folder",
        "data.data_dir": str(animals),
    }
    said = refused_run(tiny(options), tmp_path / "run")
    told = "distill.teachers: letters was trained on other classes: class 0 is 'a' and 'ant' in the data; name another"
    assert said == f"{told} teacher"


def test_left_out_images_stand_in_the_summary(tiny, tmp_path) -> None:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(5):
                Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
    (tmp_path / "data" / "train" / "ant" / "broken.png").write_bytes(b"no image")
    options = {"data.dataset": "folder", "data.data_dir": str(tmp_path / "data"), "data.max_corrupt": 1}
    summary = train(tiny(options | {"train.max_steps": 1}), tmp_path / "run", quiet=True)
    assert len(summary["corrupt"]) == 1
    assert "broken.png" in summary["corrupt"][0]


def test_a_checkpoint_without_its_config_is_no_free_place(tiny, tmp_path) -> None:
    run = tmp_path / "run"
    train(tiny({"train.max_steps": 1}), run, quiet=True)
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match="already holds checkpoints of a run, but no config"):
        train(tiny(), run, quiet=True)
    assert (run / CHECKPOINT).exists()


def test_a_damaged_summary_is_told(tiny, tmp_path) -> None:
    (tmp_path / "summary.json").write_text('{"complete": tr')
    with pytest.raises(UserError, match=r"summary.json: cannot be read: "):
        saved_summary(tmp_path)
    assert saved_summary(tmp_path / "none") is None


def test_a_signal_in_the_last_step_still_ends_the_run(tiny, tmp_path, monkeypatch) -> None:
    entered = StopSignal.__enter__

    def signalled(self):
        entered(self).number = 15
        return self

    monkeypatch.setattr(StopSignal, "__enter__", signalled)
    with pytest.raises(InterruptedRun, match="stopped at step 1"):
        train(tiny({"train.max_steps": 1}), tmp_path / "run", quiet=True)
    monkeypatch.undo()
    assert train(tiny({"train.max_steps": 1}), tmp_path / "run", resume=True, quiet=True)["step"] == 1


def test_weights_that_end_as_nan_are_a_failed_run_without_a_summary(tiny, tmp_path, monkeypatch) -> None:
    config = tiny({"train.max_steps": 1})
    step = torch.optim.AdamW.step

    def broken(self, *args):
        step(self, *args)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(RunError, match=r"^step 1, test: the loss of the class head is nan"):
        train(config, tmp_path / "run", quiet=True)
    assert saved_summary(tmp_path / "run") is None


@pytest.mark.parametrize(
    "change",
    [
        {"mean": (0.5,)},
        {"mean": ("a", "b", "c")},
        {"std": (0.0, 1.0, 1.0)},
        {"input_size": "8"},
        {"num_classes": 0},
        {"classes": ("a",)},
    ],
)
def test_facts_that_make_no_sense_are_refused(change) -> None:
    with pytest.raises(ValueError, match=r"."):
        replace(FACTS, **change)


def test_a_resumed_student_keeps_the_teacher_that_it_began_with(mixstill, tiny, tmp_path, monkeypatch) -> None:
    from mixstill import recipes
    from mixstill.schema import write_yaml

    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setattr(recipes, "_FOLDER", shelf)
    write_yaml(tiny({"train.epochs": 3}), shelf / "master.yaml")
    write_yaml(tiny({"distill.teachers": ["master@last"]}), shelf / "pupil.yaml")
    run = tmp_path / "pupil"
    assert mixstill("train", "pupil", "--output", run, "--max-steps", 2, "--quiet").code == 0
    weights = run / "teachers" / "master" / "weights.safetensors"
    before = weights.read_bytes()
    said = mixstill("train", "pupil", "--output", run, "--resume", "--quiet")
    assert said.code == 0, said
    assert json.loads((run / "summary.json").read_text())["complete"]
    assert weights.read_bytes() == before

    # a changed config is refused before a teacher is trained for it, and only what was changed is named
    shutil.rmtree(run / "teachers")
    said = mixstill("train", "pupil", "--output", run, "--resume", "--val-fraction", 0.1)
    assert said.code == 2
    assert said.err.endswith(f"{str(run)!r}: data.val_fraction: 0.0 -> 0.1\n")
    assert not (run / "teachers").exists()


def test_a_new_run_begins_where_there_is_none_to_resume_and_says_so(mixstill, tiny_recipe, tmp_path) -> None:
    said = mixstill("train", tiny_recipe(), "--output", tmp_path / "run", "--resume", "--max-steps", 1, "--quiet")
    assert said.code == 0
    assert said.err == f"mixstill: there is no run in {tmp_path / 'run'} to go on with; a new one begins\n"


def test_another_model_does_not_take_over_the_arguments_of_the_recipes(tiny_recipe) -> None:
    from mixstill import recipes

    assert recipes.load(tiny_recipe(), {"model": {"name": "resnet18"}}).model.kwargs == {}
    assert recipes.load(tiny_recipe(), {"model": {"name": "mixer_digits"}}).model.kwargs["num_blocks"] == 2


def test_an_option_without_its_section_is_told_with_it(refused) -> None:
    assert refused("train", "--eval-interval", 2) == "option: unknown value '--eval-interval'; did you mean " + (
        "'--train.eval_interval'?"
    )
    assert refused("train", "--teachers") == "--teachers: takes a value, or several, or none; got nothing"


def test_a_teacher_in_a_folder_with_a_space(mixstill, tiny_recipe, teachers, tmp_path) -> None:
    path = tmp_path / "my teacher.safetensors"
    shutil.copy(teachers["small"], path)
    said = mixstill(
        "train", tiny_recipe(), "--output", tmp_path / "run", "--teachers", f"{path}@last", "--max-steps", 1
    )
    assert said.code == 0, said


def test_eval_and_demo_refuse_fields_that_they_would_not_heed(refused, teachers) -> None:
    assert refused("eval", teachers["small"], "--lr", 5).startswith("eval: does not take the config field optim.lr; ")
    assert refused("demo", "--seed", 3) == "demo: takes --seeds N, not one --seed"


def test_a_data_set_that_is_not_the_one_that_the_run_began_with_is_refused_on_resume(tiny, tmp_path) -> None:
    for split, count in (("train", 5), ("test", 2)):
        for name in ("ant", "bee"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(np.full((9, 9, 3), 20 * index, np.uint8)).save(
                    tmp_path / "data" / split / name / f"{index}.png"
                )
    options = {"data.dataset": "folder", "data.data_dir": str(tmp_path / "data"), "data.samples_per_class": None}
    options |= {"data.workers": 0, "train.batch_size": 2}
    train(tiny(options | {"train.max_steps": 1}), tmp_path / "run", quiet=True)
    (tmp_path / "data" / "train" / "bee" / "0.png").unlink()
    with pytest.raises(
        UserError, match=r"data.data_dir: the run began with 10 images of 2 classes, but there are 9 ima"
    ):
        train(tiny(options), tmp_path / "run", resume=True, quiet=True)


def test_a_test_split_of_which_nothing_can_be_read_ends_the_run(tiny, tmp_path) -> None:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            file = tmp_path / "data" / split / name / "0.png"
            Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(file)
            if split == "test":
                file.write_bytes(b"no image")
    options = {"data.dataset": "folder", "data.data_dir": str(tmp_path / "data"), "data.samples_per_class": None}
    options |= {"data.workers": 0, "data.max_corrupt": 9, "train.batch_size": 2}
    with pytest.raises(RunError, match="there is no image to evaluate that can be read"):
        train(tiny(options), tmp_path / "run", quiet=True)
