"""metrics.jsonl: means over windows, and a file that a killed run may leave in any state."""

import json
import math

import pytest
import torch

from mixstill.errors import RunError, UserError
from mixstill.train.journal import Journal


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_window_is_the_mean_of_each_term_over_the_steps_that_have_it(tmp_path) -> None:
    journal = Journal(tmp_path / "m.jsonl", 0)
    journal.add(1, {"total": torch.tensor(1.0), "class": torch.tensor(4.0, dtype=torch.float64)})
    journal.add(2, {"total": torch.tensor(2.0), "once": torch.tensor(7.0, requires_grad=True)})
    assert journal.close_window() == {"total": 1.5, "class": 4.0, "once": 7.0}
    assert journal.close_window() == {}
    journal.add(3, {"total": torch.tensor(9.0)})
    assert journal.close_window() == {"total": 9.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_term_that_is_not_finite_names_its_step_and_itself(tmp_path, value) -> None:
    journal = Journal(tmp_path / "m.jsonl", 0)
    journal.add(6, {"class": torch.tensor(1.0), "total": torch.tensor(1.0)})
    journal.add(7, {"class": torch.tensor(1.0), "distill/a@last": torch.tensor(value)})
    journal.add(8, {"class": torch.tensor(value)})
    with pytest.raises(RunError, match=r"^step 7: the term 'distill/a@last' is (nan|inf|-inf); "):
        journal.close_window()


def test_a_resumed_run_drops_the_lines_of_steps_that_it_will_do_again(tmp_path) -> None:
    path = tmp_path / "m.jsonl"
    journal = Journal(path, 0)
    for step in (1, 2, 3, 4):
        journal.write({"step": step})
    again = Journal(path, 2)
    again.write({"step": 3, "again": True})
    assert lines(path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


@pytest.mark.parametrize("half", ['{"step": 2, "to', '{"step": 2', "{", '{"step": 2}\n{"ste'])
def test_a_half_written_last_line_is_dropped(tmp_path, half) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n' + half)
    Journal(path, 5).write({"step": 6})
    assert lines(path)[0] == {"step": 1}
    assert lines(path)[-1] == {"step": 6}
    assert len(lines(path)) == 2 + ("\n" in half)


@pytest.mark.parametrize(
    "line", ["3", "[]", "null", "{}", '{"step": "x"}', '{"step": NaN}', "[" * 100_000, "9" * 5000, "\0", "{"]
)
def test_a_damaged_line_before_the_last_is_told_and_nothing_is_dropped(tmp_path, line) -> None:
    path = tmp_path / "metrics.jsonl"
    content = f'{{"step": 1}}\n{line}\n{{"step": 2}}\n'
    path.write_text(content)
    with pytest.raises(UserError, match=r"metrics.jsonl: line 2 is damaged \(.*\); take it out"):
        Journal(path, step=2)
    assert path.read_text() == content


def test_a_run_from_the_start_begins_a_new_file(tmp_path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n')
    Journal(path, 0)
    assert path.read_text() == ""
