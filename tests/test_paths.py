"""What a user names on disk: texts that are no path, and files that are not opened."""

import errno
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixstill.errors import UserError
from mixstill.paths import check_regular, open_regular, path_of, read_regular


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    signal.alarm(10)  # its default action ends the process, which is better than waiting for a pipe
    yield
    signal.alarm(0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no file or folder"),
        ("a\0b", "has a character that no path has"),
        ("\ud800", "has a character that no path has"),
        ("~nobody-here/x", "begins with a user who has no home"),
        ("x" * 300, "the path is too long"),
        ("x/" * 3000, "the path is too long"),
        ("loop", "its links go round in a circle"),
        ("loop/below", "its links go round in a circle"),
    ],
)
def test_a_text_that_is_no_path_is_the_users_mistake(tmp_path, monkeypatch, text, reason) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(UserError, match=reason) as error:
        path_of(text, "output")
    assert str(error.value).startswith("output: ")
    assert len(str(error.value)) < 400


def test_a_folder_that_may_not_be_looked_into_is_told(tmp_path, monkeypatch) -> None:
    def refuse(self, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(UserError, match="there is no permission to look there"):
        path_of("a/b", "output")


def test_a_path_need_not_be_there_and_a_home_is_found(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of("~/runs/x", "output") == tmp_path / "runs" / "x"
    (tmp_path / "file").write_text("")
    assert path_of(tmp_path / "file" / "below", "output") == tmp_path / "file" / "below"
    (tmp_path / "dangling").symlink_to("nowhere")
    assert path_of(tmp_path / "dangling", "output") == tmp_path / "dangling"
    name = os.fsdecode(b"\xff")  # a file name of other times
    assert path_of(name, "output") == Path(name)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "link to a pipe"])
@pytest.mark.parametrize("reader", [check_regular, open_regular, read_regular])
def test_only_a_regular_file_is_opened(tmp_path, monkeypatch, kind, reader) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("link to a pipe").symlink_to("pipe")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    path = "/dev/zero" if kind == "device" else kind
    words = {"folder": "Is a directory", "link to a pipe": "a named pipe, not a regular file"}
    with pytest.raises(OSError, match=words.get(kind, "not a regular file")) as error:
        reader(path)
    assert error.value.filename == path


def test_a_file_that_is_exchanged_for_a_pipe_meanwhile_is_seen(tmp_path, monkeypatch) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    monkeypatch.setattr("mixstill.paths.check_regular", lambda path: None)
    with pytest.raises(OSError, match="a named pipe, not a regular file"):
        open_regular(path)


def test_a_regular_file_is_read_whole_or_up_to_a_limit(tmp_path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(path)
    assert read_regular(tmp_path / "link") == b"12345"
    assert read_regular(str(path), most=5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_regular(path, most=4)
    with open_regular(path) as file:
        assert (file.read(2), file.seek(0), file.read(1)) == (b"12", 0, b"1")
