"""One command at a time works in an output."""

import errno
import subprocess
import sys

import pytest

from mixstill.errors import UserError
from mixstill.lock import locked

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
