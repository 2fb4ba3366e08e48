"""Tables in Markdown."""

from mixstill.markdown import grid


def test_a_grid_has_a_heading_and_a_line_for_each_row() -> None:
    assert grid([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"


def test_no_rows_are_no_table() -> None:
    assert grid([]) == ""
