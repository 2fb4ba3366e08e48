"""A data set of one's own: a folder per class, in a train and in a test folder or tar file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mixstill.config import DataConfig
from mixstill.data.factory import Listing, files, listing, open_with_timm
from mixstill.data.images import Part
from mixstill.data.photos import Members
from mixstill.errors import UserError

_TEST_NAMES = ("test", "val", "validation")


def list_folder(config: DataConfig, root: Path, part: Part) -> Listing:
    """Class folders in `root`/train and in `root`/test, /val or /validation, or in train.tar and in test.tar and so on.

    Classes come in the order of their names. Raises `UserError` where they are not so.
    """
    place = _places(root)[part]
    if place.suffix == ".tar":
        reader = open_with_timm(config, "", str(place), search_split=False).reader
        given = sorted(reader.class_name_to_idx, key=reader.class_name_to_idx.__getitem__)
        names = sorted(given)
        order = np.array([names.index(name) for name in given])  # timm sorts 10 behind 9
        return listing(config, Members(str(place), reader.samples, order[reader.targets]), names)
    found = open_with_timm(config, "torch/image_folder", str(place), search_split=False)
    return listing(config, files(found), found.classes)


def _places(root: Path) -> dict[Part, Path]:
    """Where the splits lie. Raises `UserError` unless there are both and, if folders, they have the same classes."""
    names = ("train", *_TEST_NAMES)
    found = {name: root / f"{name}.tar" for name in names if (root / f"{name}.tar").is_file()}
    found |= {name: root / name for name in names if (root / name).is_dir()}
    test = next((found[name] for name in _TEST_NAMES if name in found), None)
    if "train" not in found or test is None:
        absent = "train folder" if "train" not in found else "test folder"
        raise UserError(
            f"data.data_dir: {str(root)!r} has no {absent}; expected are train/CLASS/IMAGE and test/CLASS/IMAGE "
            "(val or validation will do for test, a tar file for a folder)"
        )
    places: dict[Part, Path] = {"train": found["train"], "test": test}
    if all(place.is_dir() for place in places.values()):
        train_names, test_names = (
            {path.name for path in place.iterdir() if path.is_dir()} for place in places.values()
        )
        if train_names != test_names:
            differing = sorted(train_names ^ test_names)
            shown = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
            raise UserError(f"data.data_dir: {found['train']} and {test} differ in {len(differing)} classes: {shown}")
    return places
