"""A whole part of a data set, decoded once into uint8 pixels. Reads only; where a sample lies is its id.

Shapes: N samples of a part, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from mixstill.config import DataConfig
from mixstill.data.cifar import load_cifar
from mixstill.data.digits import load_digits
from mixstill.data.factory import Listing, check_labels, open_listing
from mixstill.data.folder import list_folder
from mixstill.data.images import Part, Source, decode, fit, normalisation_of
from mixstill.errors import UserError
from mixstill.paths import path_of


def load_source(config: DataConfig, part: Part, size: int | None) -> Source:
    """The whole `part` of `config.dataset`, which is not an iterable one.

    Photos are brought to `size` pixels per side: of the train part the whole middle square, of the test part the
    share `config.crop` of it, as evaluation sees it. Digits and CIFAR keep their own size.
    Raises `UserError` where the data is missing, incomplete, corrupt or another set than was asked for, and `RunError`
    where a download fails.
    """
    if config.dataset == "digits":
        return load_digits(part)
    if config.dataset.startswith("cifar"):
        return load_cifar(config, _root(config), part)
    found = list_photos(config, part, size)
    photos, side = found.photos, size or 0
    labels = [0] * len(photos)

    def read(index: int) -> Image.Image:
        image, labels[index] = photos.open(index)
        return fit(image, side, config.crop if part == "test" else 1.0)

    pixels, kept, corrupt = decode(read, photos.name, len(photos), side, config.max_corrupt)
    known = torch.tensor(labels)
    check_labels(known, len(found.classes), photos.name)
    return Source(pixels, known[kept], found.classes, *normalisation_of(config), corrupt)


def list_photos(config: DataConfig, part: Part, size: int | None) -> Listing:
    """The photos of a part of a map-style data set, which are brought to `size` pixels per side."""
    if size is None:
        raise UserError("data.input_size: None is not valid; photos need the size to be brought to")
    return list_folder(config, _root(config), part) if config.dataset == "folder" else open_listing(config, part)


def _root(config: DataConfig) -> Path:
    if config.data_dir is None:
        raise UserError(f"data.data_dir: None is not valid; {config.dataset} lies in a folder: --data-dir DIR")
    root = path_of(config.data_dir, "data.data_dir")
    if not config.download or config.dataset == "folder":
        if not root.is_dir():
            raise UserError(f"data.data_dir: {str(root)!r} is not a folder")
        if not any(root.iterdir()):
            raise UserError(f"data.data_dir: {str(root)!r} is empty")
    return root
