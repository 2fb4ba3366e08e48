"""`mixstill train`: what it prints, where the run goes, and that options go over the recipe."""

import json
import re

import pytest

from mixstill.schema import from_dict, read_yaml
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
    assert said == f"output: '{tmp_path / 'file'}' is not a directory"
