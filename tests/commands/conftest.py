"""What the tests of the commands share: a finished run, a shelf of recipes that train in a blink, CIFAR on disk."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mixstill import recipes
from mixstill.config import Config
from mixstill.schema import write_yaml
from mixstill.train.run import train


@pytest.fixture(scope="session")
def finished(tiny: Callable[..., Config], teachers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits, with a teacher, a validation split and a moving average."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    options = {"distill.teachers": [f"{teachers['small']}@last"], "train.ema_decay": 0.9, "data.val_fraction": 0.1}
    train(tiny(options), path, quiet=True)
    return path


@pytest.fixture
def shelf(tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the shipped recipes: `digits`, taught by `digits-teacher`, in a few steps."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    write_yaml(tiny({"distill.teachers": ["digits-teacher@last"]}), folder / "digits.yaml")
    small = {"model.name": "cifar_resnet8", "model.kwargs": {"width": 4}, "data.input_size": 8, "train.epochs": 1}
    write_yaml(tiny(small), folder / "digits-teacher.yaml")
    monkeypatch.setattr(recipes, "_FOLDER", folder)
    return folder


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """uint8 [40,32,32,3]: noise round colours that differ little, so that answers hang on the normalisation."""
    draw = np.random.default_rng(3)
    colours = draw.integers(110, 146, (40, 1, 1, 3))
    noise = draw.normal(0, 50, (40, 32, 32, 3))
    return np.clip(colours + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def write_cifar10(pictures: np.ndarray, tmp_path: Path) -> Callable[[Sequence[int]], Path]:
    """Writes the pictures with labels in the hub's Parquet layout, as the test split."""

    def write(labels: Sequence[int]) -> Path:
        folder = tmp_path / "cifar10"
        (folder / "plain_text").mkdir(parents=True)
        images = pa.array([{"bytes": png(picture), "path": None} for picture in pictures])
        table = pa.table({"img": images, "label": pa.array(list(labels), pa.int64())})
        pq.write_table(table, folder / "plain_text" / "test-00000-of-00001.parquet")
        return folder

    return write


@pytest.fixture
def bad_file(finished: Path, malicious: Callable[[Path], object], tmp_path: Path) -> Callable[[str], Path]:
    """A weights file with something amiss: truncated, foreign, empty or malicious. A malicious one makes `mark`."""

    def write(kind: str) -> Path:
        whole = (finished / "weights.safetensors").read_bytes()
        path = tmp_path / f"{kind}.safetensors"
        if kind == "malicious":
            path = tmp_path / "malicious.pt"
            torch.save({"state_dict": malicious(tmp_path / "mark")}, path)
        elif kind == "truncated.pt":
            path = tmp_path / "truncated.pt"
            torch.save({"fc.weight": torch.zeros(100, 100)}, path)
            path.write_bytes(path.read_bytes()[:-9000])
        else:
            contents = {"truncated": whole[: len(whole) // 2], "foreign": b"<html>404</html>", "empty": b""}
            path.write_bytes(contents[kind])
        return path

    return write
