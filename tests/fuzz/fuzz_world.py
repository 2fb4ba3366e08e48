"""What the fuzz starts from: one whole thing of each sort that a user may name, made once and never written to."""

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mixstill.distill.classifier import load_classifier
from mixstill.distill.strip import strip
from mixstill.schema import from_dict, write_yaml
from mixstill.train.run import train

# A student that trains in a blink, on 2 images of each digit.
TINY: dict[str, dict[str, Any]] = {
    "model": {"name": "mixer_digits", "kwargs": {"num_blocks": 1, "embed_dim": 4}},
    "data": {"samples_per_class": 2, "workers": 0},
    "views": {"pad": 1},
    "optim": {"warmup_epochs": 0.0},
    "train": {"epochs": 1, "batch_size": 10, "device": "cpu", "log_interval": 1, "compile": "never", "max_steps": 1},
}


@dataclass(frozen=True)
class World:
    """Where the whole things lie."""

    root: Path

    @property
    def recipe(self) -> Path:
        """A YAML file."""
        return self.root / "tiny.yaml"

    @property
    def run(self) -> Path:
        """A run that was stopped after one of its two steps, weights and checkpoint in it."""
        return self.root / "run"

    @property
    def cache(self) -> Path:
        """The run's answers as a teacher to the first step of another one's views."""
        return self.root / "cache"

    @property
    def pickled(self) -> Path:
        """Its weights as a PyTorch file."""
        return self.root / "weights.pt"

    @property
    def folder(self) -> Path:
        """Its backbone in the layout of timm's hub."""
        return self.root / "stripped"

    @property
    def image(self) -> Path:
        """A small photo."""
        return self.root / "photo.png"

    @property
    def photos(self) -> Path:
        """Three photos of each of two classes, in a train and in a test folder."""
        return self.root / "photos"

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file, to see that none was written to."""
        found = {str(path): path.lstat() for path in sorted(self.root.rglob("*"))}
        return {name: (about.st_size, about.st_mtime_ns) for name, about in found.items()}


def build_world(root: Path) -> World:
    """Make all of it in `root`."""
    world, config = World(root), from_dict(TINY)
    write_yaml(config, world.recipe)
    train(config, world.run, quiet=True)
    taught = {"distill": {"teachers": [f"{world.run}@last"], "cache": str(world.cache)}}
    train(from_dict(TINY | taught), root / "taught", quiet=True)
    classifier = load_classifier(str(world.run))
    strip(classifier, world.folder)
    torch.save({"state_dict": classifier.model.state_dict(), "arch": "mixer_digits"}, world.pickled)
    draw = np.random.default_rng(0)
    for number in range(12):
        place = world.photos / ("train", "test")[number // 6] / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(_photo(draw))
    world.image.write_bytes(_photo(draw))
    return world


def _photo(draw: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def copied(source: Path, place: Path) -> Path:
    """A copy of a file or folder, to be damaged."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, place)
    else:
        shutil.copy(source, place)
    return place
