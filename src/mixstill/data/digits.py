"""scikit-learn's handwritten digits, which come with the package: data for a demo without a download."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits as bundled_digits

from mixstill import rng
from mixstill.data.images import STATISTICS, Part, Source
from mixstill.data.splits import DIGITS_TEST_SPLIT, SPLIT_SEED, first_per_class


def load_digits(split: Part) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8; a third of each class, always the same, is the test split."""
    bunch = bundled_digits()
    labels = torch.from_numpy(bunch.target).long()
    grey = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)
    order = rng.permutation(SPLIT_SEED, rng.Domain.SPLIT, DIGITS_TEST_SPLIT, len(labels))
    chosen = first_per_class(labels, order, [count // 3 for count in torch.bincount(labels).tolist()])
    member = torch.zeros(len(labels), dtype=torch.bool).index_fill_(0, chosen, True)
    if split == "train":
        member = ~member
    pixels = grey[member].unsqueeze(1).repeat(1, 3, 1, 1)
    return Source(pixels, labels[member], tuple(str(name) for name in bunch.target_names), *STATISTICS["digits"])
