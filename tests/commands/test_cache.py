"""`mixstill cache`: answers stored ahead, for any student that sees the same views."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mixstill.distill.diagnosis import Accuracy
from mixstill.schema import read_yaml
from mixstill.train import trial
from mixstill.train.filling import StopSignal


@pytest.fixture
def recipe(tiny_recipe, teachers, tmp_path, monkeypatch):
    """A recipe with a teacher and a cache, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tiny_recipe({"distill.teachers": [f"{teachers['small']}@last"]})


def test_what_it_stores_a_run_replays(mixstill, recipe, tmp_path) -> None:
    said = mixstill("cache", recipe, "--cache", "there")
    assert said.code == 0
    assert said.out == "there: 8 steps of small, 0.0 MB, 8 new\n"
    assert "cache: teachers' answers: 0 of 8 steps of small are in there\n" in said.err
    assert "cache: step 8/8  " in said.err
    assert not (tmp_path / "runs").exists()
    run = mixstill("train", recipe, "--cache", "there", "--output", "run", "--json", "--quiet")
    assert json.loads(run.out)["answers"] == {"replayed": 8, "asked": 0}


def test_a_run_goes_on_with_its_cache_from_any_folder_and_with_one_that_was_moved(
    mixstill, refused, recipe, tmp_path, monkeypatch
) -> None:
    run = tmp_path / "run"
    mixstill("train", recipe, "--cache", "there", "--output", run, "--quiet", "--max-steps", 4)
    for saved in (read_yaml(run / "config.yaml"), json.loads((run / "summary.json").read_text())["config"]):
        assert saved["distill"]["cache"] == str(tmp_path / "there")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ("train", "--resume", "--output", run, "--json", "--quiet", "--max-steps")
    assert json.loads(mixstill(*words, 6).out)["answers"] == {"replayed": 0, "asked": 2}
    (tmp_path / "there").rename(tmp_path / "moved")
    said = refused("train", "--resume", "--output", run, "--cache", "none")
    assert said.endswith(f"distill.cache: {str(tmp_path / 'there')!r} -> None")
    mixstill("cache", recipe, "--cache", "../moved", "--quiet")
    assert json.loads(mixstill(*words, 8, "--cache", "../moved").out)["answers"] == {"replayed": 2, "asked": 0}
    assert not (tmp_path / "there").exists()


def test_json_is_one_object_and_quiet_is_quiet(mixstill, recipe, tmp_path) -> None:
    said = mixstill("cache", recipe, "--cache", tmp_path / "there", "--json", "--quiet", "--distill.cache_top_k", 3)
    found = json.loads(said.out)
    assert (said.code, said.err) == (0, "")
    assert list(found) == ["cache", "teachers", "steps", "stored", "bytes", "seconds", "machine"]
    assert (found["teachers"], found["steps"], found["stored"]) == (["small"], 8, 8)
    assert found["bytes"] == sum(file.stat().st_size for file in (tmp_path / "there").rglob("*.bin"))
    again = mixstill("cache", recipe, "--cache", tmp_path / "there", "--json", "--distill.cache_top_k", 3)
    assert json.loads(again.out)["stored"] == 0


def test_teachers_that_are_recipes_are_trained_first(mixstill, shelf, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = mixstill("cache", "--cache", "there", "--output", "runs/student")
    assert said.code == 0
    assert (tmp_path / "runs" / "student" / "teachers" / "digits-teacher" / "summary.json").exists()
    run = mixstill("train", "--cache", "there", "--output", "runs/student", "--json", "--quiet")
    assert json.loads(run.out)["answers"] == {"replayed": 8, "asked": 0}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "distill.cache: None is not valid; say where the answers go by --cache DIR"),
        (("--cache", "there", "--teachers", "none"), "distill.teachers: none are given, so there is nothing to store"),
        (("--cache", "there", "--distill.cache_top_k", 10), "distill.cache_top_k: 10 is not valid; the data have 10"),
        (("--cache", "there", "--distill.cache_top_k", 0), "distill.cache_top_k: 0 is not valid; it must be positive"),
        (("--cach", "there"), "option: unknown value '--cach'; did you mean '--cache'?"),
        (("--cache", "tiny.yaml"), "distill.cache: 'tiny.yaml' cannot be written to, and holds nothing of small"),
    ],
)
def test_a_mistake_is_one_line(refused, recipe, tmp_path, argv, words) -> None:
    assert refused("cache", recipe, *argv).startswith(words)
    assert not (tmp_path / "there").exists()


def test_it_takes_one_recipe(refused) -> None:
    assert refused("cache", "one", "two") == "cache: takes one recipe, got one two"


def test_answers_to_other_views_are_refused(mixstill, refused, recipe) -> None:
    mixstill("cache", recipe, "--cache", "there", "--quiet")
    for command in ("cache", "train", "check"):
        said = refused(command, recipe, "--cache", "there", "--mixup", "0.8", "--output", "run")
        assert said == (
            "distill.cache: 'there' holds the answers of small to other views: views.mixup is 0.0 there, 0.8 here; "
            "give another folder"
        )


def test_a_full_disk_is_one_line(mixstill, recipe, monkeypatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    said = mixstill("cache", recipe, "--cache", "there", "--quiet")
    assert (said.code, said.out, said.err) == (1, "", "mixstill: there/small/epoch-0001.bin: No space left on device\n")
    said = mixstill("train", recipe, "--cache", "there", "--output", "run")
    assert said.code == 0
    assert said.err.count("there/small/epoch-0001.bin: No space left on device; no more of them are stored\n") == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two pages: the description of a cache, and one epoch of the recipe's."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={2 * os.sysconf('SC_PAGE_SIZE')}", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_after_an_epoch_keeps_it_and_the_run_ends_right(
    mixstill, recipe, small_disk, tmp_path
) -> None:
    words = ("train", recipe, "--json", "--output")
    straight = json.loads(mixstill(*words, "straight", "--quiet", "--cache", tmp_path / "large").out)
    said = mixstill(*words, "run", "--cache", small_disk)
    assert said.code == 0
    told = f"{small_disk}/small/epoch-0002.bin: No space left on device; no more of them are stored\n"
    assert said.err.count(told) == said.err.count("No space") == 1
    found = json.loads(said.out)
    assert (found["heads"], found["answers"]) == (straight["heads"], {"replayed": 0, "asked": 8})
    said = mixstill("cache", recipe, "--cache", small_disk, "--quiet")
    line = f"mixstill: {small_disk}/small/epoch-0002.bin: No space left on device\n"
    assert (said.code, said.out, said.err) == (1, "", line)
    again = json.loads(mixstill(*words, "again", "--quiet", "--cache", small_disk).out)
    assert (again["heads"], again["answers"]) == (straight["heads"], {"replayed": 4, "asked": 4})


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_an_interrupted_one_goes_on_by_the_same_command(mixstill, recipe, monkeypatch, number, code) -> None:
    enter = StopSignal.__enter__

    def interrupted(self):
        enter(self)
        self.number = number
        return self

    monkeypatch.setattr(StopSignal, "__enter__", interrupted)
    said = mixstill("cache", recipe, "--cache", "there", "--quiet")
    assert said.code == code
    assert said.err == "mixstill: stopped after 1 of 8 steps; give the same command again to go on\n"
    monkeypatch.undo()
    monkeypatch.chdir(Path(recipe).parent)
    assert mixstill("cache", recipe, "--cache", "there").out.endswith(" 7 new\n")


@pytest.fixture
def _able(monkeypatch):
    """No teacher is at chance."""
    monkeypatch.setattr(Accuracy, "at_chance", False)


@pytest.mark.usefixtures("_able")
def test_check_tells_its_size_first(mixstill, recipe) -> None:
    plain = mixstill("check", recipe, "--steps", 1).out.splitlines()
    assert plain[-1].strip() == "the teachers' answers would take 1.6 kB in a cache (--cache DIR)"
    mixstill("cache", recipe, "--cache", "there", "--quiet", "--max-steps", 2)
    told = mixstill("check", recipe, "--cache", "there", "--steps", 1).out.splitlines()
    assert told[-1].strip().startswith("1.6 kB of teachers' answers in 'there', 408 B of them already; ")
    about = json.loads(mixstill("check", recipe, "--cache", "there", "--steps", 1, "--json").out)["disk"]
    assert (about["answers"], about["answers_there"]) == (8 * 204, 2 * 204)
    assert about["cache_free"] > 0


@pytest.mark.usefixtures("_able")
def test_check_warns_that_its_time_is_that_of_steps_whose_answers_are_there_or_not(mixstill, recipe) -> None:
    words = ("check", recipe, "--cache", "there", "--steps", 1, "--json")
    for steps, expected in ((None, 0), (2, 1), (8, 0)):
        if steps is not None:
            mixstill("cache", recipe, "--cache", "there", "--quiet", "--max-steps", steps)
        warnings = json.loads(mixstill(*words).out)["warnings"]
        text = "distill.cache: it holds 25 % of the answers; the time is that of the first steps, be they there or not"
        assert warnings == [text] * expected


@pytest.mark.usefixtures("_able")
@pytest.mark.parametrize("words", [(), ("--cache", "there", "--teachers", "none")])
def test_check_passes_over_a_top_k_that_nothing_uses_as_train_does(mixstill, recipe, words) -> None:
    top_k = ("--distill.cache_top_k", 10)
    assert mixstill("check", recipe, *words, *top_k, "--steps", 1).code == 0
    assert mixstill("train", recipe, *words, *top_k, "--output", "run", "--quiet").code == 0


@pytest.mark.usefixtures("_able")
def test_check_refuses_a_cache_that_will_not_fit(mixstill, recipe, monkeypatch) -> None:
    monkeypatch.setattr(trial, "free_space", lambda path: 1000 if path.name == "there" else 10**9)
    said = mixstill("check", recipe, "--cache", "there", "--steps", 1)
    assert said.code == 2
    assert said.err == (
        "mixstill: distill.cache: 'there' needs 1.6 kB more, but only 1.0 kB are free there; "
        "--distill.cache_top_k keeps fewer classes\n"
    )


def test_check_leaves_a_cache_alone_whose_teacher_is_not_trained_yet(mixstill, shelf, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    mixstill("cache", "--cache", "there", "--output", "runs/student", "--quiet")
    said = mixstill("check", "--cache", "there", "--output", "elsewhere/student", "--steps", 1)
    assert said.code == 0
    assert "distill.cache: it is not looked into, as what it holds depends on the teachers' weights" in said.out
    assert said.out.splitlines()[-1].strip().startswith("1.6 kB of teachers' answers in 'there', 0 B of them already; ")


def test_check_refuses_a_cache_that_will_not_fit_before_its_teacher_is_trained(
    mixstill, shelf, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "free_space", lambda path: 1000 if path.name == "there" else 10**9)
    said = mixstill("check", "--cache", "there", "--output", "elsewhere/student", "--steps", 1)
    assert said.code == 2
    assert said.err.startswith("mixstill: distill.cache: 'there' needs 1.6 kB more, but only 1.0 kB are free there; ")
