"""A data set of one's own: a folder per class, in a train and in a test folder."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torchvision import datasets

from mixstill.config import DataConfig
from mixstill.data.images import STATISTICS, Source, Split, decode, fit
from mixstill.errors import UserError, one_line

_TEST_FOLDERS = ("test", "val", "validation")


def load_folder(config: DataConfig, root: Path, split: Split, size: int | None) -> Source:
    """Class folders in `root`/train and in `root`/test, /val or /validation; classes in the order of their names."""
    if size is None:
        raise UserError("data.input_size: None is not valid; a folder's images need the size to be brought to")
    places = _places(root)
    try:
        listing = datasets.ImageFolder(str(places[split]))
    except FileNotFoundError as error:
        raise UserError(f"data.data_dir: {places[split]}: {one_line(error)}") from error
    where = [path for path, _ in listing.samples]

    def read(index: int) -> Image.Image:
        with Image.open(where[index]) as image:
            return fit(image, size)

    pixels, kept, skipped = decode(read, where, size, config.skip_corrupt)
    return Source(pixels, torch.tensor(listing.targets)[kept], tuple(listing.classes), *STATISTICS["folder"], skipped)


def _places(root: Path) -> dict[Split, Path]:
    """Where the splits lie. Raises `UserError` unless there are both and they have the same classes."""
    found = {name: root / name for name in ("train", *_TEST_FOLDERS) if (root / name).is_dir()}
    test = next((found[name] for name in _TEST_FOLDERS if name in found), None)
    if "train" not in found or test is None:
        absent = "train folder" if "train" not in found else "test folder"
        raise UserError(
            f"data.data_dir: {str(root)!r} has no {absent}; expected are train/CLASS/IMAGE and test/CLASS/IMAGE "
            "(val or validation will do for test)"
        )
    places: dict[Split, Path] = {"train": found["train"], "test": test}
    train_names, test_names = ({path.name for path in place.iterdir() if path.is_dir()} for place in places.values())
    if train_names != test_names:
        differing = sorted(train_names ^ test_names)
        shown = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
        raise UserError(f"data.data_dir: {found['train']} and {test} differ in {len(differing)} classes: {shown}")
    return places
