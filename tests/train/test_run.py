"""A run is a directory: what it holds, what it refuses, and what resuming it does."""

import json
import math

import pytest
import safetensors
import safetensors.torch
import torch

from mixstill.distill.classifier import load_classifier
from mixstill.errors import RunError, UserError
from mixstill.schema import from_dict, read_yaml, to_dict, write_yaml
from mixstill.train.build import student_pixels
from mixstill.train.run import saved_config, saved_summary, train


@pytest.fixture
def taught(teachers):
    return {"distill.teachers": [f"{teachers['small']}@1/2", f"{teachers['large']}@last"]}


def metrics(path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_config_metrics_summary_checkpoint_and_weights(tiny, taught, tmp_path) -> None:
    config, path = tiny(taught | {"train.ema_decay": 0.9}), tmp_path / "deep" / "run"
    summary = train(config, path, quiet=True)
    assert {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()} == {
        "config.yaml",
        "metrics.jsonl",
        "summary.json",
        "weights.safetensors",
        "ema.safetensors",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        ".lock",
    }
    assert saved_config(path) == from_dict(read_yaml(path / "config.yaml")) == config
    assert saved_summary(path) == json.loads(json.dumps(summary))
    assert torch.load(path / "checkpoints" / "last.pt", weights_only=True)["step"] == 8


def test_the_summary_names_every_number(tiny, taught, tmp_path) -> None:
    config = tiny(taught | {"train.ema_decay": 0.9, "data.val_fraction": 0.1})
    summary = train(config, tmp_path / "run", quiet=True)
    assert (summary["complete"], summary["step"], summary["steps"], summary["epochs"]) == (True, 8, 8, 2)
    for heads in (summary["heads"], summary["ema"]):
        assert list(heads) == ["val", "test"]
        assert list(heads["test"]) == ["average", "class", "distill"]
        assert {key for score in heads["test"].values() for key in score} == {"top1", "top5", "loss", "n"}
    average = summary["heads"]["test"]["average"]
    assert average == {key: summary[key] for key in average}
    assert summary["split"] == "test"
    assert summary["n"] == 596
    state = safetensors.torch.load_file(tmp_path / "run" / "weights.safetensors")
    assert summary["parameters"] == sum(value.numel() for value in state.values())
    backbone = sum(value.numel() for name, value in state.items() if name.startswith("backbone."))
    assert summary["backbone_parameters"] == backbone < summary["parameters"]
    assert summary["teachers"] == dict(zip(("small@1/2", "large@last"), config.distill.teachers, strict=True))
    assert summary["config"] == to_dict(config)
    assert summary["machine"]["versions"]["torch"]
    assert summary["seconds"] >= 0


def test_the_weights_of_a_run_say_how_to_build_it(tiny, taught, tmp_path) -> None:
    config = tiny(taught)
    train(config, tmp_path / "run", quiet=True)
    classifier = load_classifier(str(tmp_path / "run"))
    assert classifier.config == config
    assert classifier.facts.classes == tuple("0123456789")
    state = safetensors.torch.load_file(tmp_path / "run" / "weights.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in classifier.model.state_dict().items())


def test_evaluations_while_training_are_on_the_validation_split_where_there_is_one(tiny, tmp_path) -> None:
    train(tiny({"data.val_fraction": 0.1}), tmp_path / "val", quiet=True)
    train(tiny(), tmp_path / "test", quiet=True)
    counts = [
        next(line["eval"]["class"]["n"] for line in metrics(tmp_path / name) if "eval" in line)
        for name in ("val", "test")
    ]
    assert counts[0] < counts[1] == 596


def test_a_run_is_not_written_over(tiny, tmp_path) -> None:
    train(tiny({"train.max_steps": 1}), tmp_path / "run", quiet=True)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"output: '.*run' already holds a run; go on with --resume"):
        train(tiny(), tmp_path / "run", quiet=True)
    assert before == {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output: '.*file' is not a directory"):
        train(tiny(), tmp_path / "file", quiet=True)


def test_nothing_is_left_where_the_run_cannot_begin(tiny, tmp_path) -> None:
    for options in (
        {"distill.teachers": ["nobody@last"]},
        {"model.name": "mixer_digit"},
        {"data.dataset": "cifar10", "data.data_dir": str(tmp_path / "none")},
    ):
        with pytest.raises(UserError):
            train(tiny(options), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_resuming_lists_what_differs_and_lets_the_harmless_differ(tiny, tmp_path) -> None:
    train(tiny({"train.max_steps": 2}), tmp_path / "run", quiet=True)
    with pytest.raises(UserError) as error:
        train(tiny({"train.max_steps": 4, "optim.lr": 0.5, "train.seed": 3}), tmp_path / "run", resume=True, quiet=True)
    assert "optim.lr: 0.01 -> 0.5; train.seed: 0 -> 3" in str(error.value)
    assert "max_steps" not in str(error.value)


def test_the_step_limit_may_grow_and_the_run_is_the_same(tiny, tmp_path) -> None:
    train(tiny(), tmp_path / "straight", quiet=True)
    first = train(tiny({"train.max_steps": 3}), tmp_path / "run", quiet=True)
    assert (first["complete"], first["step"]) == (False, 3)
    second = train(tiny({"train.max_steps": 5}), tmp_path / "run", resume=True, quiet=True)
    assert (second["complete"], second["step"]) == (False, 5)
    third = train(tiny(), tmp_path / "run", resume=True, quiet=True)
    assert (third["complete"], third["step"]) == (True, 8)
    one, other = (safetensors.torch.load_file(tmp_path / n / "weights.safetensors") for n in ("run", "straight"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert [line["step"] for line in metrics(tmp_path / "run") if "eval" not in line] == list(range(1, 9))


def test_resuming_a_complete_run_only_gives_its_summary(tiny, tmp_path, capsys) -> None:
    summary = train(tiny(), tmp_path / "run", quiet=True)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
    assert train(tiny(), tmp_path / "run", resume=True) == json.loads(json.dumps(summary))
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
    assert capsys.readouterr() == ("", "")


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again(tiny, tmp_path) -> None:
    train(tiny(), tmp_path / "straight", quiet=True)
    (tmp_path / "run").mkdir()
    write_yaml(tiny(), tmp_path / "run" / "config.yaml")
    (tmp_path / "run" / "metrics.jsonl").touch()
    train(tiny(), tmp_path / "run", resume=True, quiet=True)
    one, other = (safetensors.torch.load_file(tmp_path / n / "weights.safetensors") for n in ("run", "straight"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_that_leaves_the_finite_numbers_fails_and_keeps_an_earlier_checkpoint(tiny, tmp_path) -> None:
    options = {"optim.lr": 1e30, "train.checkpoint_interval": 1}
    with pytest.raises(RunError, match=r"^step (\d): the term '\w+' is (nan|inf)") as error:
        train(tiny(options), tmp_path / "run", quiet=True)
    step = int(str(error.value).split()[1].rstrip(":"))
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["step"] < step
    assert saved_summary(tmp_path / "run") is None
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert all(math.isfinite(line["total"]) for line in metrics(tmp_path / "run"))


def test_the_size_a_student_sees_is_the_backbones_own_or_the_one_asked_for(tiny) -> None:
    assert student_pixels(tiny()) == 8
    assert student_pixels(tiny({"data.input_size": 16})) == 16
    assert student_pixels(tiny({"model.kwargs": {"img_size": 12, "num_blocks": 1, "embed_dim": 8}})) == 12


def test_a_run_shows_where_it_stands(tiny, tmp_path, capsys) -> None:
    train(tiny({"train.max_steps": 2}), tmp_path / "run")
    train(tiny({"train.max_steps": 5}), tmp_path / "run", resume=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "run: 40 training images, 4 steps per epoch, on cpu\n" in err
    assert "run: step 1/2  loss" in err
    assert "run: stopped at step 2: * Acc@1" in err
    assert "run: resumed at step 2 of 8\n" in err
    assert "run: epoch 1/2 * Acc@1" in err
