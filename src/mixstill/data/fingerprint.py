"""A short name for what a split holds: another one where its samples are others, or bear other numbers."""

from __future__ import annotations

import hashlib
import json
import os

import torch

from mixstill.data.resident import Resident
from mixstill.data.split import Split
from mixstill.data.streaming import Stream
from mixstill.errors import UserError

_NAMES = 1000  # photos whose names count, spread over the split
_BYTES = 2**27  # of pixels that are brought to the CPU at once


def fingerprint(split: Split) -> str:
    """A split in 16 hexadecimal digits: of pixels and labels where it is held, of names and labels where it is read.

    The numbers of the samples count, since views are functions of them; the device and the folder of the data do not.

    Raises:
        UserError: a split whose samples come in an order of their own, so that none can be had again by its number.
    """
    if isinstance(split, Resident):
        return _of_pixels(split)
    if isinstance(split, Stream):
        return _of_names(split)
    raise UserError(
        "data.dataset: its samples come in an order of their own, so that the answers to them cannot be cached; give a "
        "data set that is read by number"
    )


def _of_pixels(split: Resident) -> str:
    ids = split.ids.to(split.labels.device)
    digest = hashlib.sha256(json.dumps([split.classes, ids.tolist(), split.labels[ids].tolist()]).encode())
    for some in torch.split(ids, max(1, _BYTES // split.pixels[0].numel())):
        digest.update(split.pixels[some].cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _of_names(split: Stream) -> str:
    photos, ids = split.photos, split.ids
    chosen = ids[:: -(-len(ids) // _NAMES)].tolist()
    names = [photos.name(index) for index in chosen]
    folder = os.path.commonpath(names)
    about = [split.classes, ids.tolist(), None if photos.labels is None else photos.labels[ids].tolist()]
    return hashlib.sha256(json.dumps([*about, [name.removeprefix(folder) for name in names]]).encode()).hexdigest()[:16]
