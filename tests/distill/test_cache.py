"""One teacher's records on disk: what is there, what is damaged, whose answers they are, and who else writes them."""

import errno
import json
import os
import signal
import threading
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from mixstill.distill.cache import Cache, record_bytes, weights_digest
from mixstill.distill.form import Form
from mixstill.errors import RunError, UserError

ROWS, STEPS, FORM = 4, 3, Form(6)
HEAD, SIZE = STEPS * 4, ROWS * FORM.width  # bytes of all checksums, and of the answers to a batch
KEY = {"format": 1, "teacher": {"weights": "ab"}, "views": {"mixup": 0.8, "scale": (0.1, 1.0)}}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", "small", KEY, ROWS, STEPS, FORM)


def answers(seed: int) -> np.ndarray:
    drawn = torch.randn(ROWS, FORM.classes, generator=torch.Generator().manual_seed(seed))
    return FORM.encode(drawn).numpy()


def test_what_is_stored_is_there_and_nothing_else(cache, tmp_path) -> None:
    assert not cache.folder.exists()
    cache.store(2, 1, answers(0))
    assert np.array_equal(cache.load(2, 1), answers(0))
    assert cache.load(2, 0) is None
    assert cache.load(0, 1) is None
    assert cache.there(2).tolist() == [False, True, False]
    assert cache.there(0).tolist() == [False] * 3
    assert sorted(file.name for file in (tmp_path / "cache" / "small").iterdir()) == ["cache.json", "epoch-0003.bin"]
    assert (cache.folder / "epoch-0003.bin").stat().st_size == STEPS * record_bytes(ROWS, 6)


def test_an_epoch_is_all_checksums_and_then_the_answers(cache) -> None:
    cache.store(0, 1, answers(0))
    content = (cache.folder / "epoch-0001.bin").read_bytes()
    key = {"format": 1.0, "teacher": {"weights": "ab"}, "views": {"mixup": 0.8, "scale": [0.1, 1.0]}}
    data = json.dumps(key, sort_keys=True).encode() + b"0 1" + answers(0).tobytes()
    checksum = zlib.crc32(data).to_bytes(4, "little")
    assert content == bytes(4) + checksum + bytes(4) + bytes(SIZE) + answers(0).tobytes() + bytes(SIZE)


def test_a_record_is_its_checksum_and_the_answers() -> None:
    assert record_bytes(128, 100) == 4 + 128 * 100 * 2
    assert record_bytes(1024, 1000, 10) == 4 + 1024 * 10 * 4
    assert record_bytes(1024, 40000, 10) == 4 + 1024 * 10 * 6


def test_another_run_finds_it_and_may_write_over_it(cache) -> None:
    cache.store(0, 0, answers(0))
    again = replace(cache)
    again.store(0, 0, answers(1))
    assert np.array_equal(cache.load(0, 0), answers(1))


@pytest.mark.parametrize("place", [4, 7, HEAD + SIZE, HEAD + SIZE + 30, HEAD + 2 * SIZE - 1])
def test_a_damaged_record_is_told_and_not_taken(cache, place) -> None:
    for index in range(STEPS):
        cache.store(0, index, answers(index))
    file = cache.folder / "epoch-0001.bin"
    content = bytearray(file.read_bytes())
    content[place] ^= 16
    file.write_bytes(content)
    told: list[str] = []
    assert cache.load(0, 1, damaged=lambda: told.append("damaged")) is None
    assert told == ["damaged"]
    assert [cache.load(0, index) is not None for index in (0, 2)] == [True, True]
    assert cache.there(0).all()


def test_answers_whose_checksum_is_0_are_there_too(cache, monkeypatch) -> None:
    monkeypatch.setattr(zlib, "crc32", lambda *_: 0)
    cache.store(0, 1, answers(0))
    assert cache.there(0).tolist() == [False, True, False]
    assert cache.load(0, 1) is not None


def test_a_record_that_is_being_written_is_not_damaged(cache, monkeypatch) -> None:
    write, found = os.pwrite, []

    def written(file: int, content: bytes, place: int) -> int:
        found.append((len(content), cache.load(0, 1, damaged=lambda: found.append("damaged"))))
        return write(file, content, place)

    monkeypatch.setattr(os, "pwrite", written)
    cache.store(0, 1, answers(0))
    assert found == [(SIZE, None), (4, None)]


def test_records_by_another_key_are_damaged_wherever_they_came_from(cache) -> None:
    other = replace(cache, root=cache.root.with_name("other"), key=KEY | {"format": 2})
    for each in (cache, other):
        each.store(0, 1, answers(0))
    (cache.folder / "epoch-0001.bin").write_bytes((other.folder / "epoch-0001.bin").read_bytes())
    told: list[str] = []
    assert cache.load(0, 1, damaged=lambda: told.append("damaged")) is None
    assert told == ["damaged"]
    (other.folder / "cache.json").unlink()
    assert replace(other, key=KEY).load(0, 1) is None
    assert replace(other).load(0, 1) is not None


def test_whole_numbers_are_the_same_key_however_they_are_written(cache) -> None:
    cache.store(0, 0, answers(0))
    assert replace(cache, key=KEY | {"format": 1.0}).load(0, 0) is not None


def test_records_in_the_wrong_place_are_not_there(cache) -> None:
    for index in range(STEPS):
        cache.store(0, index, answers(index))
    file = cache.folder / "epoch-0001.bin"
    (cache.folder / "epoch-0002.bin").write_bytes(file.read_bytes())
    assert [cache.load(1, index) for index in range(STEPS)] == [None] * 3
    head, body = (file.read_bytes()[part] for part in (slice(HEAD), slice(HEAD, None)))
    file.write_bytes(head[4:] + head[:4] + body[SIZE:] + body[:SIZE])
    assert [cache.load(0, index) for index in range(STEPS)] == [None] * 3


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_file_of_another_size_is_not_there_until_it_is_written_to(cache, size) -> None:
    for index in range(STEPS):
        cache.store(0, index, answers(index))
    os.truncate(cache.folder / "epoch-0001.bin", size)
    assert not cache.there(0).any()
    assert cache.load(0, 0) is None
    cache.store(0, 2, answers(2))
    assert np.array_equal(cache.load(0, 2), answers(2))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_not_stored(cache, value) -> None:
    broken = answers(0)
    broken.view(np.float16)[1, 2] = value
    with pytest.raises(RunError, match=r"small: its answers to step 6 are not all finite"):
        cache.store(1, 2, broken)
    assert not cache.folder.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views": {"mixup": 0.0, "scale": (0.1, 1.0)}}, "to other views: views.mixup is 0.8 there, 0.0 here"),
        ({"teacher": {"weights": "cd"}}, "when it was another: teacher.weights is 'ab' there, 'cd' here"),
        ({"format": 2}, "in another format: format is 1 there, 2 here"),
        ({"data": {"images": 3}}, "to other samples: data.images is None there, 3 here"),
        ({"teacher": {}}, "when it was another: teacher.weights is 'ab' there, None here"),
    ],
)
def test_answers_to_something_else_are_refused_in_words(cache, change, words) -> None:
    cache.store(0, 0, answers(0))
    with pytest.raises(UserError) as caught:
        replace(cache, key=KEY | change)
    root = str(cache.root)
    assert str(caught.value) == f"distill.cache: {root!r} holds the answers of small {words}; give another folder"
    replace(cache)


@pytest.mark.parametrize(("count", "more"), [(3, ""), (5, "; and 2 more")])
def test_the_first_three_fields_that_differ_are_told(cache, count, more) -> None:
    cache.store(0, 0, answers(0))
    with pytest.raises(UserError) as caught:
        replace(cache, key=KEY | {"train": dict.fromkeys("abcde"[:count], 7)})
    fields = "; ".join(f"train.{name} is None there, 7 here" for name in "abc")
    assert str(caught.value).endswith(f" to other batches: {fields}{more}; give another folder")


@pytest.mark.parametrize("name", ["runs/" * 60 + "able.safetensors", "é" * 50, "a" * 61])
def test_a_name_too_long_for_a_folder_is_cut_and_bears_the_weights(cache, name) -> None:
    weights = ["0123456789abcdef", "1123456789abcdef"]
    caches = [replace(cache, name=name, key=KEY | {"teacher": {"weights": each}}) for each in weights]
    for seed, each in enumerate(caches):
        each.store(0, 0, answers(seed))
    assert [len(each.folder.name) <= 60 for each in caches] == [True] * 2
    assert caches[0].folder.name.endswith("-01234567")
    assert [np.array_equal(each.load(0, 0), answers(seed)) for seed, each in enumerate(caches)] == [True] * 2
    assert replace(cache, name="a" * 60).folder.name == "a" * 60


def test_another_teachers_answers_lie_beside_it(cache) -> None:
    cache.store(0, 0, answers(0))
    other = replace(cache, name="runs/a b/weights", key=KEY | {"format": 3})
    assert other.load(0, 0) is None
    other.store(0, 0, answers(1))
    assert np.array_equal(cache.load(0, 0), answers(0))
    assert other.folder.parent == cache.folder.parent


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"', "null"])
def test_a_damaged_description_is_told(cache, content) -> None:
    cache.store(0, 0, answers(0))
    (cache.folder / "cache.json").write_text(content)
    with pytest.raises(UserError, match=r"distill.cache: .*cache.json cannot be read: "):
        replace(cache)


def test_a_folder_that_two_runs_claim_is_the_first_ones(cache) -> None:
    other = replace(cache, key=KEY | {"format": 2})  # neither had written when the other looked
    cache.store(0, 0, answers(0))
    with pytest.raises(UserError, match="format is 1 there, 2 here"):
        other._claim()
    assert json.loads((cache.folder / "cache.json").read_text())["format"] == 1
    assert sorted(file.name for file in cache.folder.iterdir()) == ["cache.json", "epoch-0001.bin"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_where_files_cannot_be_linked_the_first_one_has_the_folder_too(cache, monkeypatch, number) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refused)
    test_a_folder_that_two_runs_claim_is_the_first_ones(cache)
    assert np.array_equal(replace(cache).load(0, 0), answers(0))


def test_where_nothing_can_be_written_is_refused_unless_it_is_there_already(cache, tmp_path, monkeypatch) -> None:
    cache.store(0, 0, answers(0))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not replace(cache).writable
    with pytest.raises(UserError, match=r"distill.cache: '.*cache' cannot be written to, and holds nothing of large"):
        replace(cache, name="large")
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written to"):
        replace(cache, root=tmp_path / "file")


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["posix_fallocate", "pwrite", "ftruncate"])
def test_a_full_disk_is_told_with_the_file(cache, monkeypatch, name) -> None:
    monkeypatch.setattr(os, name, no_room)
    with pytest.raises(OSError, match="No space left on device") as caught:
        cache.store(0, 0, answers(0))
    assert caught.value.filename == str(cache.folder / "epoch-0001.bin")


def test_a_disk_too_full_for_the_description_is_told_with_a_file(cache, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space left on device") as caught:
        cache.store(0, 0, answers(0))
    assert caught.value.filename == str(cache.folder / "epoch-0001.bin")
    assert [*cache.folder.iterdir()] == []


def test_a_write_that_takes_nothing_is_a_full_disk_and_one_in_pieces_is_whole(cache, monkeypatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match="No space left on device"):
        cache.store(0, 0, answers(0))
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: write(file, content[:3], place))
    cache.store(0, 0, answers(0))
    assert np.array_equal(cache.load(0, 0), answers(0))


def test_room_for_an_epoch_is_taken_at_once_or_not_at_all(cache, monkeypatch) -> None:
    path, reserve = cache.folder / "epoch-0001.bin", os.posix_fallocate

    def half(file: int, offset: int, size: int) -> None:
        reserve(file, offset, size // 2)
        no_room()

    monkeypatch.setattr(os, "posix_fallocate", half)
    with pytest.raises(OSError, match="No space left on device"):
        cache.store(0, 0, answers(0))
    assert path.stat().st_size == 0
    monkeypatch.undo()
    cache.store(0, 0, answers(0))
    assert path.stat().st_blocks * 512 >= STEPS * record_bytes(ROWS, 6)


@pytest.mark.parametrize("number", [None, errno.EINVAL, errno.EOPNOTSUPP])
def test_where_room_cannot_be_promised_records_are_stored_all_the_same(cache, monkeypatch, number) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if number is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refused)
    cache.store(0, 1, answers(0))
    assert np.array_equal(cache.load(0, 1), answers(0))
    assert (cache.folder / "epoch-0001.bin").stat().st_size == STEPS * record_bytes(ROWS, 6)


@pytest.mark.parametrize("amiss", ["cut", "broken", "pieces"])
def test_a_file_that_is_cut_or_breaks_while_it_is_read_is_not_there(cache, monkeypatch, amiss) -> None:
    cache.store(0, 1, answers(0))
    pread = os.pread

    def read(file: int, count: int, place: int) -> bytes:
        if amiss == "broken":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(file, min(count, 5), place) if amiss == "pieces" or place < HEAD else b""

    monkeypatch.setattr(os, "pread", read)
    found = cache.load(0, 1)
    assert found is None if amiss != "pieces" else np.array_equal(found, answers(0))
    assert cache.there(0).any() == (amiss != "broken")


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_what_is_no_file_is_not_there_and_cannot_be_written_to(cache, kind) -> None:
    cache.store(1, 0, answers(0))
    path = cache.folder / "epoch-0001.bin"
    {"pipe": os.mkfifo, "folder": os.mkdir, "loop": lambda path: path.symlink_to(path)}[kind](path)
    assert cache.load(0, 0) is None
    assert not cache.there(0).any()
    with pytest.raises(OSError, match=r"epoch-0001\.bin"):
        cache.store(0, 0, answers(0))


def test_a_reader_sees_whole_records_only_while_others_write_them(cache) -> None:
    known = [answers(seed) for seed in range(2)]
    end = threading.Event()

    def write(seed: int) -> None:
        while not end.is_set():
            cache.store(0, 1, known[seed])

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(2)]
    for writer in writers:
        writer.start()
    found: list[np.ndarray] = []
    while len(found) < 300:
        record = cache.load(0, 1)
        found += [] if record is None else [record.copy()]
    end.set()
    for writer in writers:
        writer.join()
    assert all(any(np.array_equal(record, one) for one in known) for record in found)
    assert sorted(file.name for file in cache.folder.iterdir()) == ["cache.json", "epoch-0001.bin"]


def test_a_process_that_is_killed_leaves_whole_records(cache) -> None:
    child = os.fork()
    if child == 0:
        for number in range(10**9):
            cache.store(number % 2, number // 2 % STEPS, answers(number % 6))
    while not cache.there(1).all():
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    whole = [cache.load(epoch, index) is not None for epoch in (0, 1) for index in range(STEPS)]
    assert sum(whole) >= 5
    cache.store(0, 0, answers(0))
    assert cache.load(0, 0) is not None


def test_the_digest_is_of_names_values_shapes_and_types() -> None:
    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return timm.create_model("cifar_resnet8", num_classes=10, width=4)

    known = weights_digest(model())
    assert weights_digest(model().to(memory_format=torch.channels_last)) == known
    assert weights_digest(model().double()) != known
    changed = model()
    changed.layer1[0].bn1.running_mean[0] += 1e-6
    assert weights_digest(changed) != known
    renamed = torch.nn.Module()
    renamed.model = model()
    assert weights_digest(renamed) != known
