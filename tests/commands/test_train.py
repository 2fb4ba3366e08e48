"""`mixstill train`: what it prints, where the run goes, and that options go over the recipe."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mixstill.commands.train import output_of
from mixstill.distill.starting import starting_config
from mixstill.overrides import parse
from mixstill.schema import from_dict, read_yaml
from mixstill.train.build import build
from mixstill.train.run import saved_config


def test_the_result_is_one_line_and_progress_goes_to_the_error_stream(mixstill, tiny_recipe, tmp_path) -> None:
    run = tmp_path / "run"
    said = mixstill("train", tiny_recipe(), "--output", run)
    assert said.code == 0
    summary = json.loads((run / "summary.json").read_text())
    line = "* Acc@1 {top1:.3f} Acc@5 {top5:.3f} loss {loss:.3f}".format(**summary)
    assert said.out == f"{line}  {run}\n"
    assert "run: epoch 1/2 * Acc@1" in said.err
    quiet = mixstill("train", tiny_recipe(), "--output", tmp_path / "quiet", "--quiet")
    assert (quiet.out, quiet.err) == (f"{line}  {tmp_path / 'quiet'}\n", "")


def test_json_is_the_summary(mixstill, tiny_recipe, tmp_path) -> None:
    said = mixstill("train", tiny_recipe(), "--output", tmp_path / "run", "--json", "--max-steps", 1)
    assert json.loads(said.out) == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_options_go_over_the_recipe_by_field_and_by_alias(mixstill, tiny_recipe, tiny, teachers, tmp_path) -> None:
    options = {
        "train.seed": 7,
        "train.batch_size": 20,
        "train.smoothing": 0.2,
        "optim.opt": "sgd",
        "optim.clip_grad": 1.0,
        "optim.opt_betas": [0.8, 0.9],
        "views.mixup": 0.5,
        "distill.teachers": [f"{teachers['small']}@0", f"{teachers['large']}@last"],
        "distill.kind": "soft",
        "distill.tau": 2.0,
        "model.kwargs": {"num_blocks": 1, "embed_dim": 8},
        "train.max_steps": 1,
    }
    words = ["--seed", 7, "-b", 20, "--train.smoothing=0.2", "--opt", "sgd", "--clip-grad", 1, "--opt-betas", 0.8, 0.9]
    words += ["--mixup", 0.5, "--teachers", *options["distill.teachers"], "--distillation-type", "soft"]
    words += ["--distillation-tau", 2, "--model.kwargs.num_blocks", 1, "--max-steps", 1]
    said = mixstill("train", tiny_recipe(), "--output", tmp_path / "run", "--quiet", *words)
    assert said.code == 0, said
    assert from_dict(read_yaml(tmp_path / "run" / "config.yaml")) == tiny(options)


def test_a_run_goes_to_the_recipes_name_under_runs(mixstill, shelf, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = mixstill("train", "--max-steps", 1, "--quiet")
    assert said.code == 0, said
    assert said.out.endswith("  runs/digits\n")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"digits"}
    assert saved_config(tmp_path / "runs" / "digits").distill.teachers == (
        f"{tmp_path}/runs/digits/teachers/digits-teacher@last",
    )


def test_a_teacher_that_is_a_recipe_is_taken_from_the_run_beside(mixstill, shelf, tmp_path) -> None:
    assert mixstill("train", "digits-teacher", "--output", tmp_path / "digits-teacher").code == 0
    said = mixstill("train", "digits", "--output", tmp_path / "digits")
    assert said.code == 0
    assert "digits-teacher:" not in said.err
    assert saved_config(tmp_path / "digits").distill.teachers == (f"{tmp_path / 'digits-teacher'}@last",)
    assert not (tmp_path / "digits" / "teachers").exists()


@pytest.mark.parametrize("named", [True, False])
def test_resuming_goes_on_by_the_output_alone_or_with_the_recipe(mixstill, tiny_recipe, tmp_path, named) -> None:
    run, recipe = tmp_path / "run", tiny_recipe()
    assert mixstill("train", recipe, "--output", run, "--max-steps", 3).code == 0
    words = [recipe] if named else ["--max-steps", "none"]
    said = mixstill("train", *words, "--output", run, "--resume", "--json")
    assert said.code == 0, said
    summary = json.loads(said.out)
    assert (summary["complete"], summary["step"]) == (True, 8)
    assert "run: resumed at step 3 of 8" in said.err


def test_resuming_where_there_is_nothing_begins(mixstill, tiny_recipe, tmp_path) -> None:
    said = mixstill("train", tiny_recipe(), "--output", tmp_path / "run", "--resume", "--max-steps", 1)
    assert said.code == 0
    assert re.match(r"\* Acc@1 \d+\.\d{3} Acc@5 \d+\.\d{3} loss \d+\.\d{3}  ", said.out)


def test_a_recipe_may_be_a_file_that_builds_on_another(mixstill, tiny_recipe, tmp_path) -> None:
    (tmp_path / "more.yaml").write_text(f"base: {tiny_recipe()}\ntrain:\n  max_steps: 1\n  seed: 5\n")
    assert mixstill("train", tmp_path / "more.yaml", "--output", tmp_path / "run", "--quiet").code == 0
    assert saved_config(tmp_path / "run").train.seed == 5


def test_an_output_that_is_a_file_is_told(refused, tiny_recipe, tmp_path) -> None:
    (tmp_path / "file").touch()
    said = refused("train", tiny_recipe(), "--output", tmp_path / "file")
    assert said == f"output: '{tmp_path / 'file'}' is not a directory; choose another --output"


# --- from the weights of another run ---


@pytest.fixture
def begun(mixstill, tiny_recipe, teachers, tmp_path):
    """A run on the digits at 8 pixels with two teachers."""
    path, placed = tmp_path / "begun", [f"{teachers['small']}@1/2", f"{teachers['large']}@last"]
    said = mixstill("train", tiny_recipe({"distill.teachers": placed}), "--output", path, "--quiet")
    assert said.code == 0, said
    return path


@pytest.mark.parametrize("size", [16, 12])
def test_a_run_goes_on_at_another_resolution_and_is_resumed_without_the_first(mixstill, begun, tmp_path, size) -> None:
    run, straight = tmp_path / "run", tmp_path / "straight"
    words = ("train", "--init-from", begun, "--input-size", size)
    before = json.loads(mixstill("eval", begun, "--input-size", size, "--json", "--device", "cpu").out)
    overrides = {"model": {"init_from": str(begun)}, "data": {"input_size": size}}
    job = build(starting_config(None, overrides))
    first = asdict(job.score(job.state.student, "test")["average"])
    assert {key: before[key] for key in first} == first
    assert mixstill(*words, "--output", straight, "--quiet").code == 0
    said = mixstill(*words, "--output", run, "--max-steps", 3)
    assert said.code == 0, said
    assert f"run: starts from the weights of begun, resized from 8 to {size} pixels\n" in said.err
    shutil.move(begun, tmp_path / "gone")
    for more in (["train", "--resume", "--max-steps", 5], [*words, "--resume", "--max-steps", "none"]):
        said = mixstill(*more, "--output", run)
        assert said.code == 0, said
        assert "starts from" not in said.err
    ends = [safetensors.torch.load_file(path / "weights.safetensors") for path in (run, straight)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    config = saved_config(run)
    assert (config.model.init_from, config.data.input_size) == (str(begun), size)
    assert config.model.kwargs.get("mlp_ratio") == ([2.0, 4.0] if size == 16 else None)
    assert config.distill.teachers == saved_config(tmp_path / "gone").distill.teachers
    summary = json.loads((run / "summary.json").read_text())
    score = json.loads(mixstill("eval", run, "--json", "--device", "cpu").out)
    assert {key: score[key] for key in ("top1", "top5", "n")} == {key: summary[key] for key in ("top1", "top5", "n")}
    assert mixstill("eval", run, "--input-size", 8).code == 0


def test_the_same_words_go_on_with_a_run_of_that_name(mixstill, begun, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("train", "--init-from", "begun", "--input-size", 12, "--resume")
    assert mixstill(*words, "--max-steps", 1).code == 0
    said = mixstill(*words, "--max-steps", 2)
    assert said.code == 0, said
    assert "resumed at step 1" in said.err
    assert mixstill("train", "--init-from", "begun/weights.safetensors", "--max-steps", 1).out.endswith("begun-tuned\n")


@pytest.mark.parametrize("file", ["weights.safetensors", "ema.safetensors"])
def test_a_runs_own_files_give_its_name(file) -> None:
    assert output_of(parse(["--init-from", f"begun/{file}"]), None) == Path("runs/begun-tuned")
    assert output_of(parse(["--init-from", "begun/own.safetensors"]), None) == Path("runs/own-tuned")


def test_teachers_of_the_first_run_are_found_and_its_modules_go_on(mixstill, shelf, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mixstill("train", "digits", "--quiet").code == 0
    said = mixstill("train", "digits", "--init-from", "runs/digits", "--input-size", 16, "--output", "far/away")
    assert said.code == 0, said
    assert "anew" not in said.err
    assert not (tmp_path / "far" / "away" / "teachers").exists()


def test_weights_that_do_not_fit_are_told_before_a_teacher_is_trained(
    mixstill, refused, shelf, begun, tmp_path
) -> None:
    words = ("--init-from", begun, "--model.kwargs.num_blocks", 1, "--output", tmp_path / "none")
    assert "does not fit" in refused("train", "digits", *words)
    assert not (tmp_path / "none").exists()


def test_other_teachers_or_none_may_teach_the_run_that_goes_on(mixstill, begun, teachers, tmp_path) -> None:
    words = ("train", "--finetune", begun, "--max-steps", 1)
    said = mixstill(
        *words, "--teachers", f"{teachers['large']}@last", f"{teachers['large']}@1/2", "--output", tmp_path / "a"
    )
    assert f"a: token modules begin anew: {teachers['large']}@1/2\n" in said.err
    said = mixstill(*words, "--teachers", "none", "--output", tmp_path / "b")
    assert said.code == 0
    assert "anew" not in said.err
    found = safetensors.torch.load_file(tmp_path / "b" / "weights.safetensors")
    assert {name.partition(".")[0] for name in found} == {"backbone"}


def test_a_run_that_goes_on_has_a_directory_of_its_own(
    mixstill, refused, begun, tiny_recipe, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("train", "--init-from", "begun", "--max-steps", 1)
    for more, path in (
        (["--input-size", 4], "runs/begun-4px"),
        ([], "runs/begun-tuned"),
        (["--teachers", "none", "--img-size=8"], "runs/begun-8px"),
    ):
        assert mixstill(*words, *more).out.endswith(f"  {path}\n")
    assert mixstill("train", tiny_recipe(), *words[1:]).out.endswith("  runs/tiny\n")
    words_of_tiny = ("train", tiny_recipe(), "--init-from", "runs/tiny", "--max-steps", 1)
    assert mixstill(*words_of_tiny).out.endswith("  runs/tiny-tuned\n")
    assert mixstill(*words_of_tiny, "--input-size", 12).out.endswith("  runs/tiny-12px\n")
    said = refused(*words)
    assert said == "output: 'runs/begun-tuned' already holds a run; go on with --resume, or choose another --output"
    assert "already holds a run" in refused(*words, "--output", begun)
    files = {file: file.stat().st_mtime_ns for file in begun.rglob("*")}
    assert refused(*words, "--output", begun, "--resume").startswith("resume: the config is not the one of ")
    assert {file: file.stat().st_mtime_ns for file in begun.rglob("*")} == files


def test_resuming_what_is_not_there_starts_from_the_weights(mixstill, begun, tmp_path) -> None:
    said = mixstill("train", "--init-from", begun, "--output", tmp_path / "run", "--resume", "--max-steps", 1)
    assert said.code == 0
    assert "a new one begins\n" in said.err
    assert "run: starts from the weights of begun\n" in said.err


def test_what_a_run_cannot_start_from_is_one_line(refused, begun, tmp_path) -> None:
    words = ("train", "--output", tmp_path / "run", "--init-from")
    said = refused(*words, tmp_path / "nothing")
    way = "name a run directory, a weights file or a stripped folder"
    assert said == f"model.init_from: there is no '{tmp_path / 'nothing'}'; {way}"
    said = refused(*words, begun, "--input-size", 9)
    assert said == "data.input_size: 9 pixels are not divisible by the patch of 2 of 'mixer_digits'; try 8 or 10"
    assert "unexpected keyword argument 'embed_dimm'" in refused(*words, begun, "--model.kwargs.embed_dimm", 9)
    said = refused(*words, begun, "--pretrained")
    assert said == "model.pretrained: True is not valid; it must be false where model.init_from is given"
    (begun / "weights.safetensors").unlink()
    said = refused(*words, begun)
    assert said.startswith(f"model.init_from: source: the run '{begun}' is not finished; mixstill train --resume")
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_moved_goes_on_with_the_teachers_that_moved_with_it(mixstill, shelf, tmp_path) -> None:
    run, moved = tmp_path / "run", tmp_path / "elsewhere" / "moved"
    assert mixstill("train", "digits", "--output", run, "--quiet", "--max-steps", 1).code == 0
    moved.parent.mkdir()
    run.rename(moved)
    said = mixstill("train", "--resume", "--output", moved, "--quiet", "--max-steps", 2)
    assert said.code == 0, said
    assert f"{moved}/teachers/digits-teacher@last" in (moved / "config.yaml").read_text()


def test_a_field_without_effect_is_refused_on_resume_too(mixstill, refused, tiny_recipe, tmp_path) -> None:
    assert mixstill("train", tiny_recipe(), "--output", tmp_path / "run", "--quiet", "--max-steps", 1).code == 0
    said = refused("train", "--resume", "--output", tmp_path / "run", "--data-dir", "/x")
    assert said == "data.data_dir: '/x' has no effect with the data set digits"
    assert refused("train", "") == "option: an empty word stands before the options; leave it out"


@pytest.mark.parametrize("wrong", [{"top1": "x"}, {"loss": None}, {"complete": 1}])
def test_a_summary_of_a_wrong_type_is_told(mixstill, refused, tiny_recipe, tmp_path, wrong) -> None:
    assert mixstill("train", tiny_recipe(), "--output", tmp_path / "run", "--quiet", "--max-steps", 1).code == 0
    file = tmp_path / "run" / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    said = refused("train", "--resume", "--output", tmp_path / "run")
    assert said.startswith(f"{file}: cannot be read: its {next(iter(wrong))} is no ")
