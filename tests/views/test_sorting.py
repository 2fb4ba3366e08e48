"""Sorting samples by kind and back."""

import torch

from mixstill.views.sorting import Sorting


def test_kinds_are_slices_of_the_sorted_batch_and_the_way_back_is_exact():
    kinds = torch.tensor([3, 0, 5, 3, 0, 0, 1])
    values = torch.arange(14).view(7, 2)
    sorting = Sorting(kinds)
    ordered = sorting.sort(values, values.device)
    parts = dict(sorting.parts())
    assert list(parts) == [0, 1, 3, 5]
    for kind, part in parts.items():
        assert torch.equal(ordered[part], values[kinds == kind])
    assert list(dict(sorting.parts(first=2))) == [3, 5]
    assert torch.equal(sorting.restore(ordered), values)
