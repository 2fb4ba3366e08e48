"""What a run shows: lines in a file, a bar on a terminal, nothing when it is to be quiet."""

import io

import pytest
from rich.console import Console

from mixstill.train import progress
from mixstill.train.progress import Display


def show(display: Display) -> None:
    with display.running(2, 4):
        display.say("resumed at step 2 of 4 [x]")
        for step in (3, 4):
            display.advance(10)
            display.metrics(step, 4, {"total": 1.25})


def test_without_a_terminal_it_prints_plain_lines_on_standard_error(capsys) -> None:
    show(Display("run"))
    out, err = capsys.readouterr()
    assert out == ""
    first, third, fourth = err.splitlines()
    assert first == "run: resumed at step 2 of 4 [x]"
    assert third.startswith("run: step 3/4  loss 1.250  ")
    assert fourth.startswith("run: step 4/4  loss 1.250  ")
    assert third.endswith(" min left")
    assert "\x1b" not in err


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100, legacy_windows=False)
    )
    return screen


def test_on_a_terminal_it_draws_a_bar_and_leaves_the_cursor_on(terminal, capsys) -> None:
    show(Display("run"))
    drawn = terminal.getvalue()
    assert "run: resumed at step 2 of 4 [x]" in drawn
    assert "4/4" in drawn
    assert "loss 1.250" in drawn
    assert "images/s" in drawn
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    assert capsys.readouterr() == ("", "")


def test_the_terminal_is_put_back_when_the_run_fails(terminal) -> None:
    display = Display("run")
    with pytest.raises(ValueError, match="boom"), display.running(0, 4):
        raise ValueError("boom")
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


def test_quiet_prints_nothing_wherever_it_is(terminal, capsys) -> None:
    show(Display("run", quiet=True))
    assert terminal.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_the_rate_is_of_this_process(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    display = Display("run", quiet=True)
    clock[0] = 150.0  # what came before the first step does not count
    with display.running(50, 100):
        display.advance(30)
        clock[0] = 152.0
        assert display.rate() == 15.0


def test_the_time_left_is_that_of_the_steps_left(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    display = Display("run")
    with display.running(50, 110):
        display.advance(10)
        clock[0] = 2.0
        display.metrics(51, 110, {"total": 1.0})
    assert capsys.readouterr().err == "run: step 51/110  loss 1.000  5 images/s  2.0 min left\n"
