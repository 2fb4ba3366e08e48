"""What is trained on: a whole split, decoded once into uint8 pixels. Reads only; where a sample lies is its id.

Shapes: N samples of a split, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

from mixstill.config import DataConfig
from mixstill.data.cifar import load_cifar
from mixstill.data.digits import load_digits
from mixstill.data.folder import load_folder
from mixstill.data.images import Source, Split
from mixstill.errors import UserError


def load_source(config: DataConfig, split: Split, size: int | None) -> Source:
    """The whole `split` of `config.dataset`.

    A folder's images are resized to `size` pixels per side; the other sets keep their own size.
    Raises `UserError` where the data is missing, incomplete, corrupt or another set than was asked for, and `RunError`
    where a download fails.
    """
    if config.dataset == "digits":
        return load_digits(split)
    if config.data_dir is None:
        raise UserError(f"data.data_dir: None is not valid; {config.dataset} needs the folder that it lies in")
    root = Path(config.data_dir).expanduser()
    if not config.download or config.dataset == "folder":
        if not root.is_dir():
            raise UserError(f"data.data_dir: {str(root)!r} is not a folder")
        if not any(root.iterdir()):
            raise UserError(f"data.data_dir: {str(root)!r} is empty")
    return load_folder(config, root, split, size) if config.dataset == "folder" else load_cifar(config, root, split)
