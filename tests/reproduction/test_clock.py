"""The minutes of a run over all processes that worked on it."""

from mixstill.reproduction.clock import minutes, note


def test_minutes_are_the_sum_of_what_was_noted(tmp_path) -> None:
    note(tmp_path / "run", 90.0)
    note(tmp_path / "run", 60.04)
    assert minutes(tmp_path / "run", {"seconds": 7.0}) == 2.5


def test_without_a_note_they_are_those_of_the_summary(tmp_path) -> None:
    assert minutes(tmp_path / "run", {"seconds": 120.0}) == 2.0
