"""A stratified part of a split: each class has its share."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from mixstill import rng
from mixstill.data.resident import Resident
from mixstill.data.split import Split
from mixstill.data.splits import SPLIT_SEED, first_per_class
from mixstill.data.streaming import Stream


def stratified(split: Split, count: int) -> Split | None:
    """A part of about `count` samples in which each class has its share, rounded up; the same in every call.

    All of the split where it has no more; None where its labels are not known before its images are read.
    """
    if isinstance(split, Resident):
        labels = split.labels.cpu()[split.ids]
    elif isinstance(split, Stream) and split.photos.labels is not None:
        labels = split.photos.labels[split.ids]
    else:
        return None
    sizes = torch.bincount(labels, minlength=len(split.classes)).tolist()
    share = min(1.0, count / len(labels))
    order = rng.permutation(SPLIT_SEED, rng.Domain.SUBSET, 0, len(labels))
    return replace(split, ids=split.ids[first_per_class(labels, order, [math.ceil(share * size) for size in sizes])])
