"""Mean and spread over seeds, and how they are shown."""

import math

import pytest

from mixstill.spread import shown, spread


def test_the_spread_is_the_sample_standard_deviation() -> None:
    found = spread([1.0, 2.0, 6.0])
    assert found["mean"] == 3.0
    assert found["std"] == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert found["values"] == [1.0, 2.0, 6.0]


def test_one_value_has_no_spread() -> None:
    assert spread([4.5]) == {"mean": 4.5, "std": None, "values": [4.5]}


def test_values_that_are_all_the_same_have_a_spread_of_nothing() -> None:
    assert spread((2.0, 2.0)) == {"mean": 2.0, "std": 0.0, "values": [2.0, 2.0]}


@pytest.mark.parametrize(
    ("values", "sign", "text"),
    [
        ([70.0, 70.5], "", "70.25 ± 0.35"),
        ([70.126], "", "70.13"),
        ([4.0, 5.0], "+", "+4.50 ± 0.71"),
        ([-4.0], "+", "-4.00"),
        ([-4.0, -5.0], "", "-4.50 ± 0.71"),
        ([0.0], "+", "+0.00"),
    ],
)
def test_it_is_shown_with_two_digits_and_as_a_difference_with_its_sign(values, sign, text) -> None:
    assert shown(spread(values), sign) == text


def test_nothing_is_shown_as_a_dash() -> None:
    assert shown(None) == shown(None, "+") == "-"
