"""Folders of small photos, made of scikit-learn's two."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

CLASSES = ("ant", "bee", "cow")


def photo(seed: int) -> Image.Image:
    """Some part of a photo, of a size of its own."""
    draw = np.random.default_rng(seed)
    height, width = draw.integers(60, 120, 2)
    top, left = draw.integers(0, 427 - height), draw.integers(0, 640 - width)
    return Image.fromarray(load_sample_images().images[seed % 2][top : top + height, left : left + width])


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.fixture(scope="session")
def encoded_photos() -> list[bytes]:
    """Twelve photos as JPEG."""
    return [jpeg(photo(seed)) for seed in range(12)]


@pytest.fixture(scope="session")
def write_folder(encoded_photos: list[bytes]) -> Callable[[Path], Path]:
    """Writes train and val, three classes of four photos and of two; a photo's class is its number modulo three."""

    def write(root: Path) -> Path:
        for part, count in (("train", 12), ("val", 6)):
            for number, content in enumerate(encoded_photos[:count]):
                place = root / part / CLASSES[number % 3]
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{number:02}.jpg").write_bytes(content)
        return root

    return write


@pytest.fixture(scope="session")
def photo_folder(write_folder: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a folder, only to be read."""
    return write_folder(tmp_path_factory.mktemp("photos"))
