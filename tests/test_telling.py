"""What cannot be shown is lost, and no more."""

import io
import subprocess
import sys

import pytest

from mixstill import cli, telling


class Dead(io.StringIO):
    """A stream behind which nobody is any more."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    def flush(self) -> None:
        raise OSError(5, "Input/output error")


def test_a_line_that_cannot_be_written_is_lost(monkeypatch, capsys) -> None:
    for stream in (Dead(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        telling.tell("lost")
    assert capsys.readouterr().out == ""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    telling.tell("lost")


def test_only_what_is_shown_is_lost(monkeypatch) -> None:
    with telling.showing():
        raise BrokenPipeError
    with pytest.raises(ValueError, match="boom"), telling.showing():
        raise ValueError("boom")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_ends_though_nobody_sees_it(mixstill, tiny_recipe, tmp_path, monkeypatch, terminal) -> None:
    recipe = tiny_recipe({"train.epochs": 1})
    stream = Dead()
    stream.isatty = lambda: terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    assert cli.main(["train", recipe, "--output", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_result_that_is_only_printed_and_cannot_be_is_a_failure(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", Dead())
    assert cli.main(["recipes"]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_exit_codes_are_the_commands_own_where_streams_are_full_or_closed() -> None:
    def code(words: str, streams: str) -> int:
        line = f'exec "{sys.executable}" -m mixstill {words} {streams}'
        return subprocess.run(["sh", "-c", line], check=False).returncode

    assert code("nonsense", "2>/dev/full") == 2
    assert code("recipes", ">/dev/full") == 1
    assert code("recipes", ">/dev/null 2>&-") == 0


def test_what_a_terminal_would_obey_is_shown_as_an_escape(capsys) -> None:
    telling.tell("a\x1b[2Jb \u202etxt.exe")
    assert capsys.readouterr().err == "a\\x1b[2Jb \\u202etxt.exe\n"
    assert telling.deceives("b\x1b[31m")
    assert telling.deceives("a\nb")
    assert not telling.deceives("Größe नि‍क")
