"""Files are found whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from mixstill import files
from mixstill.errors import RunError
from mixstill.files import to_json, write_atomically, write_json


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


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"kept")
    (tmp_path / f".a.bin.{os.getpid()}.partial").symlink_to(other)
    write_atomically(tmp_path / "a.bin", b"new")
    assert (other.read_bytes(), (tmp_path / "a.bin").read_bytes()) == (b"kept", b"new")


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


def test_json_has_no_number_that_is_not_finite(tmp_path) -> None:
    value = {"a": [1.5, {"b": float("nan")}], "c": float("inf")}
    for write in (to_json, lambda value: write_json(tmp_path / "a.json", value)):
        with pytest.raises(RunError, match=r"^a\.1\.b: nan is not finite, and so no answer$"):
            write(value)
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(RunError, match=r"^output: -inf is not finite"):
        to_json(-float("inf"))
    assert json.loads(to_json(found := {"a": [1, None, True, "é", {"b": 1.5}], "c": (1e300,)})) == found | {
        "c": [1e300]
    }


def test_everything_that_leaves_as_json_goes_through_it() -> None:
    kept = {
        "distill/cache.py",
        "data/fingerprint.py",
        "files.py",
        "models/weights.py",
        "schema.py",
        "typed.py",
    }  # what is digested or compared, and the function
    source = Path(files.__file__).parent
    found = {file.relative_to(source).as_posix() for file in source.rglob("*.py") if "json.dump" in file.read_text()}
    assert found - kept == {"commands/reproduce.py"}  # words of a command
