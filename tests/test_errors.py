"""The two ends of a command, and the words for a value that is not among the valid ones."""

import pytest

from mixstill.errors import InterruptedRun, RunError, UserError, one_line, unknown


@pytest.mark.parametrize(
    ("value", "choices", "message"),
    [
        ("adamv", ["sgd", "adamw"], "opt: unknown value 'adamv'; did you mean 'adamw'?"),
        ("x", ["sgd", "adamw"], "opt: unknown value 'x'; choose from adamw, sgd"),
        (7, ["sgd", "adamw"], "opt: unknown value 7; choose from adamw, sgd"),
        ("x", map(str, range(100, 113)), "opt: unknown value 'x'; there are 13 choices, such as 100, 101, 102"),
    ],
)
def test_an_unknown_value_is_told_with_the_nearest_choice_or_the_choices(value, choices, message) -> None:
    error = unknown("opt", value, choices)
    assert isinstance(error, UserError)
    assert str(error) == message


def test_one_line_has_no_line_breaks_and_an_end() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("x" * 400)) == "x" * 299 + "…"
    assert one_line(ValueError("abcdef"), 4) == "abc…"


def test_the_two_ends_are_not_of_one_kind() -> None:
    assert not issubclass(UserError, RunError)
    assert not issubclass(RunError, UserError)
    assert InterruptedRun(15, "stopped").signal == 15
