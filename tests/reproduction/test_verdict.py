"""What a table says: a part that seeds tell apart from nothing or not, a figure beside the published one."""

import pytest

from mixstill.reproduction.verdict import ROW_TOLERANCE, TEACHER_TOLERANCE, against, sentences, worth
from mixstill.spread import spread


# Student's t at 0.975 is 12.706 for two seeds and 4.303 for three; the interval is mean ± t std / sqrt(n)
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([13.0, 15.0], "+14.00 ± 1.41 points over 2 seeds, more in each; 95 % interval +1.29 to +26.71: a gain"),
        (
            [3.0, 5.0],
            "+4.00 ± 1.41 points over 2 seeds, more in each; 95 % interval -8.71 to +16.71: not told apart from 0",
        ),
        ([3.0, 4.0, 5.0], "+4.00 ± 1.00 points over 3 seeds, more in each; 95 % interval +1.52 to +6.48: a gain"),
        ([-3.0, -4.0, -5.0], "-4.00 ± 1.00 points over 3 seeds, less in each; 95 % interval -6.48 to -1.52: a loss"),
        (
            [-1.0, -2.0, -3.0],
            "-2.00 ± 1.00 points over 3 seeds, less in each; 95 % interval -4.48 to +0.48: not told apart from 0",
        ),
        ([-1.0, 3.0], "+1.00 ± 2.83 points over 2 seeds; 95 % interval -24.41 to +26.41: not told apart from 0"),
        ([0.0, 0.0], "+0.00 ± 0.00 points over 2 seeds; 95 % interval +0.00 to +0.00: not told apart from 0"),
        ([4.0], "+4.00 points over 1 seed, so without a spread to hold it against"),
    ],
)
def test_a_difference_is_held_against_its_own_spread(values, text) -> None:
    assert worth(spread(values)) == text


@pytest.mark.parametrize(
    ("top1", "text"),
    [
        (70.0, "std: 70.00 agrees with the published 70.00 (+0.00, within 0.5)"),
        (70.5, "std: 70.50 agrees with the published 70.00 (+0.50, within 0.5)"),
        (69.5, "std: 69.50 agrees with the published 70.00 (-0.50, within 0.5)"),
        (70.75, "std: 70.75 above the published 70.00 (+0.75, by more than 0.5)"),
        (69.25, "std: 69.25 below the published 70.00 (-0.75, by more than 0.5)"),
    ],
)
def test_a_figure_agrees_with_the_published_one_or_lies_above_or_below(top1, text) -> None:
    assert against("std", top1, {"published": {"top1": 70.0}}, 0.5) == text


def test_a_figure_that_nobody_published_is_not_spoken_of() -> None:
    assert against("std", 70.0, {"published": None}, 0.5) == ""


@pytest.fixture
def table():
    """A teacher and a row 0.6 above what was published, a row of which nothing was, and one part."""
    return {
        "teachers": [{"name": "teacher", "top1": 72.6, "published": {"top1": 72.0}}],
        "rows": [
            {"name": "plain", "top1": spread([70.4, 70.8]), "published": {"top1": 70.0}},
            {"name": "std", "top1": spread([75.0]), "published": None},
        ],
        "parts": [{"what": "STD over plain", "rows": ["std", "plain"], "difference": spread([4.0])}],
        "missing": ["soft", "deit"],
    }


def test_the_summary_tells_of_every_part_and_every_published_figure(table) -> None:
    assert sentences(table, published=True) == [
        "STD over plain (std - plain): +4.00 points over 1 seed, so without a spread to hold it against",
        "Not trained: soft, deit.",
        "teacher: 72.60 agrees with the published 72.00 (+0.60, within 0.7)",
        "plain: 70.60 above the published 70.00 (+0.60, by more than 0.5)",
    ]
    assert (ROW_TOLERANCE, TEACHER_TOLERANCE) == (0.5, 0.7)


def test_a_scale_that_is_not_the_published_one_is_not_held_against_the_figures(table) -> None:
    part, note = sentences(table | {"missing": []}, published=False)
    assert part.startswith("STD over plain (std - plain): ")
    assert note == "The published figures are of the full scale, so these are not held against them."
