"""A named pipe, a device or a loop of links in every place where a file is read: told in one line, never waited for."""

import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixstill.schema import write_yaml

TRAPS = ("pipe", "zero", "loop")


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    signal.alarm(60)  # its default action ends the process, which is better than waiting for ever
    yield
    signal.alarm(0)


@pytest.fixture(params=TRAPS)
def trap(request, tmp_path: Path) -> Callable[[Path], Path]:
    """Puts the trap in the place of a file."""

    def put(place: Path) -> Path:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        if request.param == "pipe":
            os.mkfifo(place)
        else:
            place.symlink_to("/dev/zero" if request.param == "zero" else place.name)
        return place

    return put


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def photos(root: Path, count: int = 2) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((9, 9, 3), 60 * number + 50, np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def test_in_the_place_of_a_recipe(refused, trap, tmp_path) -> None:
    path = trap(tmp_path / "r.yaml")
    for command in ("train", "check", "demo"):
        assert str(path) in refused(command, path, "--output", tmp_path / "out")
    below = tmp_path / "below.yaml"
    below.write_text(f"base: {path}\n")
    assert str(path) in refused("train", below, "--output", tmp_path / "out")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".tar"])
def test_in_the_place_of_a_weights_file(refused, trap, tmp_path, suffix) -> None:
    path = trap(tmp_path / f"w{suffix}")
    for words in (["eval", path], ["predict", path, path], ["strip", path, tmp_path / "out"]):
        assert str(path) in refused(*words)
    for words in (["--init-from", path], ["--teachers", f"{path}@last"], ["--teachers", f"resnet18={path}@last"]):
        said = refused("train", "digits", *words, "--output", tmp_path / "out")
        assert str(path) in said or str(path.readlink()) in said  # a teacher is told by where it lies


@pytest.mark.parametrize("name", ["weights.safetensors", "ema.safetensors"])
def test_in_a_run_that_is_asked(refused, trap, run, name) -> None:
    path = trap(run / name)
    said = refused("eval", run, *(["--use-ema"] if name.startswith("ema") else []))
    assert str(run) in said
    assert path.name in said or "is not finished" in said or "keeps no moving average" in said


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.jsonl", "checkpoints/last.pt"])
def test_in_a_run_that_is_gone_on_with(mixstill, trap, tiny, tmp_path, name) -> None:
    recipe, run = tmp_path / "tiny.yaml", tmp_path / "run"
    write_yaml(tiny(), recipe)
    assert mixstill("train", recipe, "--max-steps", 1, "--output", run, "--quiet").code == 0
    trap(run / name)
    said = mixstill("train", "--resume", "--output", run, "--quiet", "--max-steps", "2")
    assert said.code in (0, 2)  # 0: what is not needed, or can be made again
    warned = " warning: checkpoint " in said.err and " the run goes on from the one before it" in said.err
    assert warned == (name == "checkpoints/last.pt")
    assert said.err.count("\n") == (said.code == 2 or warned)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_in_a_folder_of_timms(mixstill, refused, trap, run, tmp_path, name) -> None:
    assert mixstill("strip", run, tmp_path / "plain").code == 0
    trap(tmp_path / "plain" / name)
    refused("eval", tmp_path / "plain", "--dataset", "digits")


def test_in_the_place_of_an_image(refused, trap, finished, tmp_path) -> None:
    path = trap(tmp_path / "a.png")
    assert str(path) in refused("predict", finished, path)


@pytest.mark.parametrize("resident", ["true", "false"])
def test_among_photos_it_is_a_corrupt_image(mixstill, refused, trap, tiny, tmp_path, resident) -> None:
    recipe, root = tmp_path / "tiny.yaml", photos(tmp_path / "photos")
    write_yaml(tiny({"data.samples_per_class": None}), recipe)
    words = ["train", recipe, "--dataset", "folder", "--data-dir", root, "--input-size", 8, "--workers", 0]
    words += ["--data.resident", resident, "--max-steps", 1, "--quiet", "--output"]
    path = trap(root / "train" / "cat" / "9.png")
    if os.path.lexists(path) and not path.exists():
        pytest.skip("a loop of links is no file of the folder's")
    said = mixstill(*words, tmp_path / "none")
    assert said.code in (1, 2)
    assert "9.png" in said.err
    assert mixstill(*words, tmp_path / "left-out", "--max-corrupt", 1).code == 0


@pytest.mark.parametrize("name", ["train.tar", "test.tar", "train", "test"])
def test_in_the_place_of_a_tar_file_or_a_folder_of_photos(refused, trap, tmp_path, name) -> None:
    root = photos(tmp_path / "photos")
    part = name.removesuffix(".tar")
    if name.endswith(".tar"):
        with tarfile.open(root / name, "w") as tar:
            tar.add(root / part, ".")
    shutil.rmtree(root / part)
    trap(root / name)
    words = ["--dataset", "folder", "--data-dir", root, "--input-size", 8, "--output", tmp_path / "out"]
    assert str(root) in refused("train", "digits", "--teachers", "none", *words)


def test_in_the_place_of_a_parquet_file(refused, trap, tmp_path) -> None:
    for part in ("train", "test"):
        trap(tmp_path / "data" / f"{part}-00000-of-00001.parquet")
    words = ["--dataset", "cifar10", "--data-dir", tmp_path / "data", "--output", tmp_path / "out"]
    assert "cannot be read as Parquet" in refused("train", "digits", "--teachers", "none", *words)


def test_in_the_place_of_torchvisions_pickles(refused, trap, tmp_path) -> None:
    for name in ("batches.meta", "data_batch_1", "test_batch"):
        trap(tmp_path / "data" / "cifar-10-batches-py" / name)
    words = ["--dataset", "cifar10", "--data-dir", tmp_path / "data", "--output", tmp_path / "out"]
    assert "is incomplete or corrupt" in refused("train", "digits", "--teachers", "none", *words)


def test_in_the_place_of_a_shard(refused, trap, tmp_path) -> None:
    pytest.importorskip("webdataset")
    trap(tmp_path / "data" / "a.tar")
    words = ["--dataset", "wds/x", "--data-dir", tmp_path / "data", "--train-split", "a.tar", "--val-split", "a.tar"]
    words += ["--num-samples", 10, "--num-classes", 10, "--workers", 0, "--output", tmp_path / "out"]
    refused("train", "digits", "--teachers", "none", *words)


@pytest.mark.parametrize("name", ["pipe", "zero", "loop"])
def test_in_the_place_of_an_output(refused, tmp_path, trap, name) -> None:
    path = trap(tmp_path / "out")
    refused("train", "digits", "--teachers", "none", "--output", path)
    refused("train", "digits", "--teachers", "none", "--output", path / "below")
