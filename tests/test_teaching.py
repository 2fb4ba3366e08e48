"""Teachers that are recipes: found where they are, trained where they are not, never taken where they differ."""

import json
from dataclasses import replace

import pytest

from mixstill import recipes
from mixstill.distill.classifier import load_classifier
from mixstill.errors import UserError
from mixstill.schema import write_yaml
from mixstill.teaching import resolve_teachers, teachers_as_they_stand
from mixstill.train.run import saved_config, train

SMALL = {"model.name": "cifar_resnet8", "model.kwargs": {"width": 4}, "data.input_size": 8, "train.epochs": 1}


@pytest.fixture
def shelf(tiny, tmp_path, monkeypatch):
    """Two recipes, `small` and `other`, in the place of the shipped ones."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name, seed in (("small", 3), ("other", 4)):
        write_yaml(tiny(SMALL | {"train.seed": seed}), folder / f"{name}.yaml")
    monkeypatch.setattr(recipes, "_FOLDER", folder)
    return folder


def student(tiny, **options):
    return tiny(
        {"distill.teachers": ["small@last"]} | {name.replace("__", "."): value for name, value in options.items()}
    )


def files(folder) -> dict:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_a_teacher_is_trained_on_demand_in_the_output_and_only_once(tiny, shelf, tmp_path) -> None:
    config = student(tiny, distill__teachers=["small@0", "other@1/2", "small@last"])
    found = resolve_teachers(config, tmp_path / "run", quiet=True)
    small, other = (tmp_path / "run" / "teachers" / name for name in ("small", "other"))
    assert found.distill.teachers == (f"{small}@0", f"{other}@1/2", f"{small}@last")
    assert replace(found, distill=config.distill) == config
    for run, seed in ((small, 3), (other, 4)):
        assert json.loads((run / "summary.json").read_text())["complete"]
        assert saved_config(run) == tiny(SMALL | {"train.seed": seed})
    before = files(tmp_path / "run")
    assert resolve_teachers(config, tmp_path / "run", quiet=True) == found
    assert files(tmp_path / "run") == before


def test_a_teacher_is_trained_on_the_students_data_and_step_limit(tiny, shelf, tmp_path) -> None:
    config = student(
        tiny, data__data_dir=str(tmp_path), data__val_fraction=0.2, data__max_corrupt=3, train__max_steps=2
    )
    own = {"data.data_dir": str(tmp_path), "data.val_fraction": 0.2, "data.max_corrupt": 3, "train.max_steps": 2}
    resolve_teachers(config, tmp_path / "run", seed=9, quiet=True)
    assert saved_config(tmp_path / "run" / "teachers" / "small") == tiny(SMALL | own | {"train.seed": 9})
    assert json.loads((tmp_path / "run" / "teachers" / "small" / "summary.json").read_text())["step"] == 2


def test_a_teacher_is_trained_on_the_students_device(tiny, shelf, tmp_path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("mixstill.teaching.train", lambda config, run, **_: asked.append((config, run)))
    resolve_teachers(student(tiny, train__device="auto", data__download=True), tmp_path / "run")
    config, run = asked.pop()
    assert (config.train.device, config.data.download) == ("auto", True)
    assert run == tmp_path / "run" / "teachers" / "small"


def test_a_finished_equal_run_beside_the_output_is_taken(tiny, shelf, tmp_path) -> None:
    train(recipes.load("small"), tmp_path / "small", quiet=True)
    found = resolve_teachers(student(tiny), tmp_path / "run", quiet=True)
    assert found.distill.teachers == (f"{tmp_path / 'small'}@last",)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("amiss", ["config", "unfinished"])
def test_a_run_beside_the_output_that_differs_is_not_taken(tiny, shelf, tmp_path, amiss) -> None:
    config = recipes.load("small", {"optim": {"lr": 0.02}} if amiss == "config" else {"train": {"max_steps": 2}})
    train(config, tmp_path / "small", quiet=True)
    before = files(tmp_path / "small")
    found = resolve_teachers(student(tiny), tmp_path / "run", quiet=True)
    assert found.distill.teachers == (f"{tmp_path / 'run' / 'teachers' / 'small'}@last",)
    assert files(tmp_path / "small") == before


def test_a_teacher_whose_training_was_broken_off_is_trained_on(tiny, shelf, tmp_path) -> None:
    own = tmp_path / "run" / "teachers" / "small"
    train(recipes.load("small", {"train": {"max_steps": 2}}), own, quiet=True)
    resolve_teachers(student(tiny), tmp_path / "run", quiet=True)
    assert json.loads((own / "summary.json").read_text())["complete"]
    lines = [json.loads(line) for line in (own / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval" not in line] == [1, 2, 3, 4]


def test_other_sources_stay_as_they_are(tiny, shelf, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()  # a path goes before a recipe of its name
    teachers = ["a/b.pt@0", "cifar_resnet8=c.th@1/2", "resnet18@last", "hf-hub:timm/resnet18@0", "small@last"]
    config = student(tiny, distill__teachers=teachers)
    here = f"{tmp_path / 'small'}@last"  # found from any folder when the run is resumed
    assert resolve_teachers(config, tmp_path / "run").distill.teachers == (*teachers[:-1], here)
    assert resolve_teachers(tiny(), tmp_path / "run") == tiny()


def test_whatever_is_amiss_is_told_before_a_teacher_is_trained(tiny, shelf, teachers, tmp_path) -> None:
    for options, message in (
        (
            {"distill.teachers": ["small@last", "smal@0"]},
            "distill.teachers: unknown value 'smal'; did you mean 'small'",
        ),
        ({"distill.teachers": ["small@last", "x.pt@0"]}, "distill.teachers: x.pt: cannot be read"),
        ({"distill.teachers": ["small@last", "small@5"]}, "distill.teachers: small@5: the place is out of range"),
        ({"data.samples_per_class": 999}, "data.samples_per_class: 999 is not valid"),
        ({"data.dataset": "cifar10", "data.data_dir": "x"}, "distill.teachers: 'small' is a recipe for digits"),
        ({"train.device": "gpu"}, "train.device: unknown device 'gpu'"),
    ):
        with pytest.raises(UserError) as error:
            resolve_teachers(tiny({"distill.teachers": ["small@last"]} | options), tmp_path / "run")
        assert str(error.value).startswith(message)
        assert not (tmp_path / "run").exists()


def test_teachers_as_they_stand_are_finished_runs_or_untrained_models(tiny, shelf, tmp_path) -> None:
    train(recipes.load("small"), tmp_path / "small", quiet=True)
    config = student(tiny, distill__teachers=["small@0", "other@1/2", "resnet18@last", "other@last"])
    folder = tmp_path / "folder"
    folder.mkdir()
    found, untrained = teachers_as_they_stand(config, tmp_path / "run", folder)
    (path,) = untrained
    assert untrained == {path: "other"}
    assert found.distill.teachers == (f"{tmp_path / 'small'}@0", f"{path}@1/2", "resnet18@last", f"{path}@last")
    assert [str(file) for file in folder.iterdir()] == [path]
    assert not (tmp_path / "run").exists()
    stand_in, run = load_classifier(path), load_classifier(str(tmp_path / "small"))
    assert stand_in.facts == run.facts
    assert {n: v.shape for n, v in stand_in.model.state_dict().items()} == {
        n: v.shape for n, v in run.model.state_dict().items()
    }


def test_unknown_teachers_are_refused_as_they_stand_too(tiny, shelf, tmp_path) -> None:
    with pytest.raises(UserError, match="did you mean 'small'"):
        teachers_as_they_stand(student(tiny, distill__teachers=["smal@0"]), tmp_path / "run", tmp_path)
