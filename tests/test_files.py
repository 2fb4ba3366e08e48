"""Files are found whole or not at all."""

import json
import os

import pytest

from mixstill.files import write_atomically, write_json


def test_the_content_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_keeps_the_old_content(tmp_path, monkeypatch, step) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_reader_never_sees_a_part(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")
    seen = []
    synced = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(path.read_bytes()), synced(handle)))
    write_atomically(path, b"new")
    assert seen == [b"old", b"new"]  # the file is synced before it takes the name, the folder after


def test_json_is_written_whole(tmp_path) -> None:
    write_json(tmp_path / "a.json", {"top1": 12.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"top1": 12.5}
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"top1": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"top1": 12.5}
