"""The command line as a whole: exit codes, and that whatever is amiss is one line that says what would be right."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path

import pytest
import torch

from mixstill import cli, overrides, recipes
from mixstill.distill.classifier import Facts, build_student, save_student


@pytest.fixture
def refused_run(refused: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """Runs `train` with an output; it must be refused in one line, and leave nothing of a run behind."""

    def run(*argv: object) -> str:
        said = refused("train", *argv, "--output", tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return said

    return run


# --- what is asked for ---


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(mixstill, command, flag) -> None:
    said = mixstill(command, flag)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"usage: mixstill {command}")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_in_a_commands_help_is_one_that_it_takes(monkeypatch, command) -> None:
    module = import_module(f"mixstill.commands.{command}")
    told = re.findall(r"(--[\w.-]+)( [A-Z]\b)?", re.sub(r"--(FIELD|help)\b", "", module.USAGE))
    assert told
    own = {}

    def look(argv, flags=(), values=()):
        own.update(dict.fromkeys(flags, False), **dict.fromkeys(values, True))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "parse", look)
    with pytest.raises(KeyboardInterrupt):
        module.main([])
    for option in own:
        assert f"--{option}" in module.USAGE, "an option that the help does not tell"
    flags, values = ([name for name in own if own[name] is takes] for takes in (False, True))
    for option, _ in told:
        name = option.removeprefix("--")
        words = [option] if name in flags else [option, *(["1", "2"] if "betas" in name else ["1"])]
        overrides.parse(words, flags, values)


def test_the_overview_names_every_command(mixstill) -> None:
    said = mixstill("--help")
    assert said.code == 0
    for command, about in cli.COMMANDS.items():
        assert re.search(rf"^  {command} +{re.escape(about)}$", said.out, re.MULTILINE)
    nothing = mixstill()
    assert (nothing.code, nothing.out) == (2, said.out)


def test_the_version_is_the_packages(mixstill) -> None:
    assert mixstill("--version").out == metadata.version("mixstill") + "\n"


def test_the_module_is_the_program_and_its_exit_code_the_processs() -> None:
    command = [sys.executable, "-m", "mixstill"]
    assert subprocess.run([*command, "recipes"], capture_output=True, text=True, check=True).stderr == ""
    wrong = subprocess.run([*command, "recipe"], capture_output=True, text=True, check=False)
    said = "mixstill: command: unknown value 'recipe'; did you mean 'recipes'?\n"
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", said)


def test_recipes_tells_of_each_shipped_recipe_what_it_is_for_and_what_it_reached(mixstill) -> None:
    shown = mixstill("recipes").out
    told = json.loads(mixstill("recipes", "--json").out)
    assert list(told) == recipes.names()
    for name, header in told.items():
        assert list(header) == ["what", "source", "command", "measured"]
        block = re.search(rf"^{name}\n((?:  .*\n)+)", shown, re.MULTILINE)[1]
        assert block.splitlines() == [f"  {key + ':':<10}{text}" for key, text in header.items()]
        assert header["command"].startswith(f"mixstill train {name}")


# --- what is amiss ---


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "command: unknown value 'trian'; did you mean 'train'?"),
        (
            ["xyz"],
            "command: unknown value 'xyz'; "
            "choose from cache, check, demo, eval, models, predict, recipes, reproduce, strip, train",
        ),
        (["--versoin"], "command: unknown value '--versoin'; "),
        (["recipes", "digits"], "recipes: takes no arguments, got digits"),
        (["recipes", "--lr", "1"], "recipes: takes no arguments, got optim"),
        (["models", "a", "b"], "models: takes one GLOB, got a b"),
        (["models", "std_mixer_s4_23"], "model: unknown value 'std_mixer_s4_23'; did you mean 'std_mixer_s4_32'?"),
        (["models", "--num-classes", "0"], "--num-classes: '0' is not valid; it must be a whole number, 1 or more"),
        (["demo", "a", "b"], "demo: takes one recipe, got a b"),
        (["demo", "digit"], "recipe: unknown value 'digit'; did you mean 'digits'?"),
        (
            ["demo", "digits-teacher"],
            "demo: the recipe 'digits-teacher' has no teachers to compare with; name them by ",
        ),
        (["demo", "--seeds", "two"], "--seeds: 'two' is not valid; it must be a whole number, 1 or more"),
        (["predict", "resnet18"], "predict: takes a SOURCE and one IMAGE or more, got resnet18"),
        (["predict", "a", "b", "--top", "0"], "--top: '0' is not valid; it must be a whole number, 1 or more"),
        (["predict", "a", "b", "--dataset", "digits"], "predict: does not take the config field data.dataset"),
        (["predict", "resnet18x", "b"], "source: 'resnet18x' is no run directory, weights file, timm name or hub id; "),
    ],
)
def test_a_mistake_is_one_line(refused, tmp_path, monkeypatch, argv, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(*argv).startswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digit"], "recipe: unknown value 'digit'; did you mean 'digits'?"),
        (["none.yaml"], "recipe: 'none.yaml': there is no such file"),
        (["digits", "digits"], "train: takes one recipe, got digits digits"),
        (["--train.sead", "3"], "option: unknown value '--train.sead'; did you mean '--train.seed'?"),
        (["--optim.lr", "-1"], "optim.lr: -1.0 is not valid; it must be positive"),
        (["--optim.lr", "fast"], "optim.lr: "),
        (["--epochs", "1.5"], "train.epochs: "),
        (["--opt", "adamx"], "optim.opt: unknown value 'adamx'; did you mean 'adamax'?"),
        (["--distill.tokens", "both"], "distill.tokens: unknown value 'both'; choose from channel, none, spatial, "),
        (["--dataset", "cifar1"], "data.dataset: unknown value 'cifar1'; did you mean 'cifar10'?"),
        (["--dataset", "mnist"], "data.dataset: unknown value 'mnist'; choose from cifar10, cifar100, digits, folder"),
        (["--device", "gpu", "--teachers", "none"], "train.device: unknown device 'gpu'; choose auto, cpu, cuda or "),
        (["--device", "gpu"], "train.device: unknown device 'gpu'; choose auto, cpu, cuda or cuda:N"),
        (["--model", "mixer_digit"], "model: unknown value 'mixer_digit'; did you mean 'mixer_digits'?"),
        (["--model.kwargs.num_block", "2"], "model: 'mixer_digits' cannot be built with "),
        (
            ["--input-size", "9"],
            "data.input_size: 9 pixels are not divisible by the patch of 2 of 'mixer_digits'; try 8 or 10",
        ),
        (["--teachers", "resnet57"], "distill.teachers: unknown value 'resnet57'; did you mean 'resnet5"),
        (["--teachers", "digits-teachr@1/2"], "distill.teachers: unknown value 'digits-teachr'; did you mean 'digits-"),
        (["--teachers", "digits-teacher@last", "nobodys@last"], "distill.teachers: unknown value 'nobodys'; "),
        (["--teachers", "@last"], "distill.teachers: '@last' is not of the form TEACHER@PLACE, such as resnet56@2/3"),
        (
            ["--teachers", "digits-teacher@7"],
            "distill.teachers: digits-teacher@7: the place is out of range; it must be a block index 0 to 1, "
            "a fraction of the depth such as 2/3, or 'last', 'class', 'token'",
        ),
        (["--teachers", "digits-teacher@end"], "distill.teachers: digits-teacher@end: 'end' is no place; it must be "),
        (["--teachers", "digits-teacher@3/2"], "distill.teachers: digits-teacher@3/2: the place is out of range; "),
        (["--data.samples_per_class", "999"], "data.samples_per_class: 999 is not valid; class "),
        (["--max-steps", "0"], "train.max_steps: 0 is not valid; it must be positive"),
        (
            ["digits", "--dataset", "cifar10", "--teachers", "none"],
            "data.data_dir: None is not valid; cifar10 lies in a folder: --data-dir DIR",
        ),
    ],
)
def test_a_run_that_cannot_be_is_one_line_and_leaves_nothing(refused_run, words, message) -> None:
    assert refused_run(*words).startswith(message)


def test_a_missing_and_an_empty_data_folder_are_named(refused_run, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("cifar10", "cifar100", "folder"):
        words = ("digits", "--dataset", name, "--teachers", "none", "--input-size", "32", "--data-dir")
        assert refused_run(*words, tmp_path / "none") == f"data.data_dir: '{tmp_path / 'none'}' is not a folder"
        assert refused_run(*words, tmp_path / "empty") == f"data.data_dir: '{tmp_path / 'empty'}' is empty"


def test_a_teacher_of_other_classes_is_told_with_both_counts(refused_run, tiny, tmp_path) -> None:
    file = tmp_path / "four.safetensors"
    save_student(file, build_student(tiny(), 4), tiny(), Facts(4, None, (0.5,) * 3, (0.5,) * 3, 8))
    said = refused_run("--teachers", f"{file}@last")
    assert said.startswith("distill.teachers: four has 4 classes, but the data have 10; train it on these first: ")


@pytest.mark.parametrize("kind", ["truncated", "foreign", "malicious", "missing"])
def test_a_bad_file_as_a_teacher_is_told_before_any_training(refused_run, teachers, malicious, tmp_path, kind) -> None:
    whole = Path(teachers["small"]).read_bytes()
    file = tmp_path / ("bad.pt" if kind == "malicious" else "bad.safetensors")
    if kind == "malicious":
        torch.save({"state_dict": malicious(tmp_path / "mark")}, file)
    elif kind != "missing":
        file.write_bytes(whole[: len(whole) // 2] if kind == "truncated" else b"<html>404</html>")
    reason = {
        "truncated": "damaged, or not a safetensors file: ",
        "foreign": "damaged, or not a safetensors file: ",
        "malicious": "refused: it holds more than tensors; save its state dict alone",
        "missing": "cannot be read: No such file or directory",
    }[kind]
    for words in ([f"{file}@last"], ["digits-teacher@last", f"{file}@0"]):
        assert refused_run("--teachers", *words).startswith(f"distill.teachers: {file}: {reason}")
    assert not (tmp_path / "mark").exists()


def test_a_run_is_not_written_over(mixstill, refused, tiny_recipe, tmp_path) -> None:
    words = ("train", tiny_recipe(), "--max-steps", 1, "--output", tmp_path / "run")
    assert mixstill(*words).code == 0
    assert "already holds a run; go on with --resume" in refused(*words)


# --- what fails ---


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"),
            1,
            "the device is out of memory; try --train.device_batch_size, or a smaller --batch-size",
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b.pt"), 1, "a/b.pt: No space left on device"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "output: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_of_the_machine_is_one_line(mixstill, monkeypatch, error, code, message) -> None:
    monkeypatch.setattr("mixstill.recipes.header", failing(error))
    said = mixstill("recipes")
    assert (said.code, said.out, said.err) == (code, "", f"mixstill: {message}\n")


@pytest.mark.parametrize("error", [RuntimeError("shapes\nand more"), KeyError("x"), RecursionError("deep")])
def test_a_bug_is_one_line_with_an_exit_code_of_its_own(mixstill, monkeypatch, error) -> None:
    monkeypatch.setattr("mixstill.recipes.header", failing(error))
    said = mixstill("recipes")
    text = " ".join(str(error).split())
    line = f"mixstill: internal error: {type(error).__name__}: {text}; run again with --debug and report it\n"
    assert (said.code, said.out, said.err) == (70, "", line)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(mixstill, monkeypatch, place) -> None:
    words = ["recipes", "--json"]
    words.insert(place, "--debug")
    assert mixstill(*words).code == 0
    monkeypatch.setattr("mixstill.recipes.header", failing(KeyError("x")))
    said = mixstill(*words)
    assert said.code == 70
    assert said.err.startswith("Traceback (most recent call last):\n")
    assert said.err.endswith("mixstill: internal error: KeyError: 'x'; run again with --debug and report it\n")
    wrong = mixstill("recipes", "x", "--debug")
    assert wrong.code == 2
    assert wrong.err.startswith("Traceback")


@pytest.mark.parametrize("error", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.EROFS, errno.ENOTDIR])
def test_a_path_that_cannot_be_used_is_the_users_mistake(mixstill, monkeypatch, error) -> None:
    monkeypatch.setattr("mixstill.recipes.header", failing(OSError(error, os.strerror(error), "a/b")))
    said = mixstill("recipes")
    assert (said.code, said.err) == (2, f"mixstill: a/b: {os.strerror(error)}\n")


def test_a_name_that_the_terminal_cannot_show_is_escaped(monkeypatch) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr("mixstill.recipes.header", lambda name: {"what": "\udcff ± x"})
    assert cli.main(["recipes"]) == 0
    out.flush()
    assert b"\\udcff \\xb1 x" in out.buffer.getvalue()


@pytest.mark.parametrize("after", [0, 2])
def test_a_full_disk_ends_a_run_with_one_line(mixstill, tiny_recipe, tmp_path, monkeypatch, after) -> None:
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    recipe = tiny_recipe()
    monkeypatch.setattr(os, "fsync", fsync)
    said = mixstill("train", recipe, "--output", tmp_path / "run", "--quiet")
    assert said.code == 1
    assert re.fullmatch(r"mixstill: .*No space left on device\n", said.err)
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_loss_that_is_not_finite_ends_a_run_with_one_line(mixstill, tiny_recipe, tmp_path) -> None:
    recipe = tiny_recipe({"optim.lr": 1e30})
    said = mixstill("train", recipe, "--output", tmp_path / "run", "--quiet", "--device", "cpu")
    assert (said.code, said.out) == (1, "")
    assert re.fullmatch(r"mixstill: step \d+: the term '\w+' is (nan|inf).*\n", said.err)
