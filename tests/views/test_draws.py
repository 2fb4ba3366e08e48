"""Random words as chances, integers, numbers and normal numbers: their ends and their distributions."""

import torch
from scipy import stats

from mixstill import rng
from mixstill.views.draws import below, between, chance, normal, unit

ENDS = torch.tensor([0, 2**32 - 1])
WORDS = rng.bits(0, rng.Domain.VIEW, 0, torch.arange(5000), 2)


def test_a_chance_of_zero_never_holds_and_one_of_one_always():
    assert chance(ENDS, 0.0).tolist() == [False, False]
    assert chance(ENDS, 1.0).tolist() == [True, True]
    assert chance(torch.tensor([2**31 - 1, 2**31]), 0.5).tolist() == [True, False]


def test_numbers_stay_within_their_interval():
    assert below(ENDS, torch.tensor([7, 7])).tolist() == [0, 6]
    assert 0 < unit(ENDS)[0] < unit(ENDS)[1] < 1
    assert -2 < between(ENDS, -2.0, 3.0)[0] < between(ENDS, -2.0, 3.0)[1] < 3


def test_normal_numbers_are_normal_and_finite():
    assert stats.kstest(normal(*WORDS.unbind(1)), "norm").pvalue > 1e-3
    assert normal(ENDS, ENDS).isfinite().all()
