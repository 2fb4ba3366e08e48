"""A data set of one's own: a folder per class, in a train and in a test folder or tar file, or Parquet files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import is_image_file

from mixstill.config import DataConfig
from mixstill.data.factory import Listing, files, listing, open_with_timm
from mixstill.data.images import Part
from mixstill.data.parquet import list_rows, shards_of
from mixstill.data.photos import Members
from mixstill.errors import UserError, many, one_line

TEST_NAMES = ("test", "val", "validation")


def list_folder(config: DataConfig, root: Path, part: Part) -> Listing:
    """A part of the photos in `root`, which lie in one of these ways.

    Class folders in `root`/train and in `root`/test, /val or /validation, or in train.tar and in test.tar and so on;
    class folders in `root` itself, or only in `root`/train: then there is no test part; the hub's Parquet files,
    train-*.parquet and so on. Class folders come in the order of their names; what is hidden is no part of it.

    Raises `UserError` where they are not so.
    """
    places = parts_of(root)
    if part not in places:
        raise UserError(
            f"data.data_dir: {str(root)!r} has no test folder; expected are train/CLASS/IMAGE and test/CLASS/IMAGE "
            "(val or validation will do for test, a tar file for a folder); --val-fraction 0.1 measures on a tenth of "
            "train instead, --split val evaluates on it"
        )
    place = places[part]
    if isinstance(place, list):
        held = {its: files for its, files in places.items() if isinstance(files, list)}
        return list_rows(config, held, part)
    if place.suffix == ".tar":
        return _list_tar(config, place)
    try:
        found = _Folder(place)
    except FileNotFoundError as error:  # torchvision's, of classes without images
        raise UserError(f"data.data_dir: {place}: {one_line(error, 200)}") from error
    return listing(config, files(found), found.classes)


def parts_of(root: Path) -> dict[Part, Path | list[Path]]:
    """Where the parts lie: a folder, a tar file or Parquet files.

    Raises `UserError` where there is no train part, and for folders whose classes differ.
    """
    names = ("train", *TEST_NAMES)
    found = {name: root / f"{name}.tar" for name in names if (root / f"{name}.tar").is_file()}
    found |= {name: root / name for name in names if (root / name).is_dir()}
    test = next((found[name] for name in TEST_NAMES if name in found), None)
    if not found:
        rows = {"train": shards_of(root, ["train"]), "test": shards_of(root, TEST_NAMES)}
        if rows["train"]:
            return {cast(Part, part): files for part, files in rows.items() if files}
        if holds_classes(root):
            return {"train": root}
    if "train" not in found:
        raise UserError(
            f"data.data_dir: {str(root)!r} has no train folder; expected are train/CLASS/IMAGE and test/CLASS/IMAGE "
            "(val or validation will do for test, a tar file for a folder), CLASS/IMAGE, or train-*.parquet"
        )
    if test is None:
        return {"train": found["train"]}
    if found["train"].is_dir() and test.is_dir():
        train_names, test_names = _classes(found["train"]), _classes(test)
        if train_names != test_names:
            differing = sorted(train_names ^ test_names)
            shown = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
            raise UserError(
                f"data.data_dir: {found['train']} and {test} differ in {many(len(differing), 'class')}: {shown}"
            )
    return {"train": found["train"], "test": test}


def holds_classes(root: Path) -> bool:
    """Whether two folders or more in `root` hold image files."""
    held = (any(is_image_file(file.name) for file in (root / name).iterdir()) for name in sorted(_classes(root)))
    return sum(islice((1 for images in held if images), 2)) == 2


class _Folder(ImageFolder):  # type: ignore[misc]
    """torchvision's, without what is hidden."""

    def __init__(self, place: Path) -> None:
        beyond = len(str(place))
        super().__init__(str(place), is_valid_file=lambda path: is_image_file(path) and not _hidden(path[beyond:]))

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """The folders in `directory`, by name. Raises `FileNotFoundError` where there are none."""
        names = sorted(_classes(Path(directory)))
        if not names:
            raise FileNotFoundError("there are no class folders")
        return names, {name: number for number, name in enumerate(names)}


def _list_tar(config: DataConfig, place: Path) -> Listing:
    nothing = UserError(f"data.data_dir: {place} has no images; expected are CLASS/IMAGE in it, as .png, .jpg or .jpeg")
    try:
        # timm keeps its list of a large tar beside it, as a pickle; it is neither read nor written
        reader = open_with_timm(config, "", str(place), search_split=False, cache_tarinfo=False).reader
    except UserError as error:
        if "not enough values to unpack" in str(error):  # of a list of no samples
            raise nothing from error
        raise
    seen = [not _hidden(f"/{inner.name if inner else ''}/{member.name}") for member, _, inner in reader.samples]
    if not any(seen):
        raise nothing
    targets = reader.targets[seen]
    given = sorted(reader.class_name_to_idx, key=reader.class_name_to_idx.__getitem__)
    names = sorted({given[target] for target in targets})
    order = np.array([names.index(name) if name in names else -1 for name in given])  # timm sorts 10 behind 9
    return listing(config, Members(str(place), reader.samples[seen], order[targets]), names)


def _hidden(path: str) -> bool:
    """Whether a name in a path that begins with a slash has a leading dot, the folder itself apart."""
    return "/." in path.replace("/./", "/")


def _classes(place: Path) -> set[str]:
    return {path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")}
