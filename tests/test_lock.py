"""One command at a time works in an output."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from mixstill.errors import UserError
from mixstill.lock import holder, locked
from mixstill.train.run import train

fcntl = pytest.importorskip("fcntl")


def test_a_folder_is_held_by_one_and_free_again_after(tmp_path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match="is being worked in by process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_process_that_inherits_it_holds_it_until_it_ends(tmp_path) -> None:
    words = [sys.executable, "-I", "-S", "-c", "input()"]
    with locked(tmp_path) as held:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[held])
    with pytest.raises(UserError, match="output: "), locked(tmp_path):
        pass
    process.communicate(b"\n")
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_holds_nothing_and_stops_nobody(tmp_path, monkeypatch) -> None:
    def flock(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path), locked(tmp_path):
        pass


def test_the_second_is_told_who_the_first_is(tmp_path) -> None:
    with locked(tmp_path):
        with pytest.raises(UserError) as error, locked(tmp_path):
            pass
        assert holder(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}; wait for it, or end it"
        assert str(error.value) == f"output: {str(tmp_path)!r} is being worked in by {holder(tmp_path)}"
    assert holder(tmp_path) is None


def test_what_killed_writers_left_is_cleared_and_what_others_write_is_not(tmp_path) -> None:
    ended = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    ended.wait()
    (tmp_path / "checkpoints").mkdir()
    left = [tmp_path / f".a.json.{ended.pid}.partial", tmp_path / "checkpoints" / f".last.pt.{ended.pid}.partial"]
    living = tmp_path / f".a.json.{os.getpid()}.partial"
    for file in (*left, living):
        file.touch()
    with locked(tmp_path):
        assert [file for file in (*left, living) if file.exists()] == [living]


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_directory_is_trained_in_by_one(tiny, tmp_path, resume) -> None:
    config, run = tiny({"train.max_steps": 1}), tmp_path / "run"
    if resume:
        train(config, run, quiet=True)
    run.mkdir(exist_ok=True)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    with locked(run), pytest.raises(UserError, match=f"is being worked in by process {os.getpid()} on "):
        train(tiny(), run, resume=resume, quiet=True)
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    train(tiny(), run, resume=resume, quiet=True)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(other)
    with pytest.raises(OSError, match=r"\.lock"), locked(tmp_path / "run"):
        pass
    assert other.read_text() == "precious"


def test_a_file_of_two_names_is_no_lock(tmp_path) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "run").mkdir()
    os.link(other, tmp_path / "run" / ".lock")
    with pytest.raises(UserError, match="is no file of its own"), locked(tmp_path / "run"):
        pass
    assert other.read_text() == "precious"
