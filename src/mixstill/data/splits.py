"""Fixed splits: which samples of each class, the same for every run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Fixed splits are draws of seed 0, the same for every run; each kind has its own epoch number.
SPLIT_SEED = 0
DIGITS_TEST_SPLIT, VALIDATION_SPLIT = 0, 1


def first_per_class(labels: Tensor, order: Tensor, counts: Sequence[int]) -> Tensor:
    """The first `counts[k]` samples of each class k in `order` (int64 [n] positions in `labels`), sorted."""
    ordered = labels[order]
    by_class = torch.sort(ordered, stable=True)
    limits = torch.tensor(counts)
    starts = torch.searchsorted(by_class.values, torch.arange(len(counts)))
    place = torch.arange(len(order)) - starts[by_class.values]  # within the class
    return order[by_class.indices[place < limits[by_class.values]]].sort().values
