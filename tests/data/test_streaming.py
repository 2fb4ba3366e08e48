"""Streams: a pure function of what is asked, whoever reads; corrupt images left out, counted and named."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mixstill.config import DataConfig, ViewsConfig
from mixstill.data import Request, load_split, load_splits
from mixstill.data.cutting import Cutting
from mixstill.errors import DataError, UserError

RRC = ViewsConfig(crop="rrc")


def shown_by(cutting, image, words):
    """The training view of an image by its draws."""
    (window,) = cutting.windows(words[None], [image.size])
    return cutting.train(image, window)


def stream(root, split="train", views=RRC, workers=0, seed=1, size=24, **fields):
    config = DataConfig(dataset="folder", data_dir=str(root), workers=workers, **fields)
    return load_split(config, split, "cpu", size, views=views, seed=seed)


def request(ids, epoch=0, repeats=None):
    wanted = torch.tensor(ids)
    return Request(wanted, torch.zeros_like(wanted) if repeats is None else torch.tensor(repeats), epoch)


REQUESTS = [request([3, 1, 11, 7, 0]), request([5, 5, 2], 0, [0, 1, 0]), request([4]), request([3, 1, 11], 1)]


def same(these, those):
    return len(these) == len(those) and all(
        torch.equal(pixels, others) and torch.equal(labels, theirs)
        for (pixels, labels), (others, theirs) in zip(these, those, strict=True)
    )


@pytest.mark.parametrize("crop", ["rrc", "pad", "src"])
def test_a_request_gets_the_cuts_of_its_samples(photo_folder, encoded_photos, crop):
    views = ViewsConfig(crop=crop)
    train = stream(photo_folder, views=views)
    assert train.cropped == (crop != "pad")
    assert train.classes == ("ant", "bee", "cow")
    assert train.mean == (0.485, 0.456, 0.406)
    names = [train.photos.name(index) for index in range(12)]
    cutting = Cutting(size=24, crop_pct=0.875, views=views, seed=1)
    for wanted, (pixels, labels) in zip(REQUESTS, train.load(REQUESTS), strict=True):
        words = cutting.words(wanted.ids, wanted.repeats, wanted.epoch)
        for index, draws, shown, label in zip(wanted.ids.tolist(), words, pixels, labels.tolist(), strict=True):
            number = int(names[index][-6:-4])
            image = Image.open(io.BytesIO(encoded_photos[number]))
            assert np.array_equal(shown.numpy(), shown_by(cutting, image, draws))
            assert label == number % 3


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(photo_folder, workers):
    alone, many = stream(photo_folder), stream(photo_folder, workers=workers)
    assert same(list(many.load(REQUESTS)), list(alone.load(REQUESTS)))
    assert same(list(many.eval_batches(5)), list(alone.eval_batches(5)))


def test_a_resumed_load_goes_on_as_the_whole_one(photo_folder):
    train = stream(photo_folder)
    assert same(list(train.load(REQUESTS))[2:], list(train.load(REQUESTS[2:])))


def test_requests_are_asked_for_ahead_and_a_load_may_be_left(photo_folder):
    asked = []

    def endless():
        for epoch in range(1000):
            asked.append(epoch)
            yield request([0, 1], epoch)

    loaded = stream(photo_folder, workers=1).load(endless())
    next(loaded)
    loaded.close()
    assert 1 < len(asked) < 20


def test_a_mistake_in_the_requests_is_told_as_it_is(photo_folder):
    def broken():
        yield REQUESTS[0]
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        list(stream(photo_folder).load(broken()))


@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_sees_every_sample_once_over_the_ranks(photo_folder, count):
    splits = load_splits(DataConfig(dataset="folder", data_dir=str(photo_folder), workers=0), ["test"], "cpu", 24)
    test = splits["test"]
    parts = [list(test.eval_batches(2, rank, count)) for rank in range(count)]
    assert all(len(labels) <= 2 for part in parts for _, labels in part)
    seen = torch.cat([labels for part in parts for _, labels in part])
    assert torch.equal(seen, torch.cat([test.photos.labels[rank::count] for rank in range(count)]))


def test_validation_and_subset_are_cut_by_class_without_reading_images(write_folder, tmp_path):
    root = write_folder(tmp_path)
    for file in root.glob("*/*/*"):
        file.write_bytes(b"")
    config = DataConfig(dataset="folder", data_dir=str(root), val_fraction=0.25, samples_per_class=2, workers=0)
    splits = load_splits(config, ["train", "val", "test"], "cpu", 24)
    sizes = {name: torch.bincount(split.photos.labels[split.ids]).tolist() for name, split in splits.items()}
    assert sizes == {"train": [2, 2, 2], "val": [1, 1, 1], "test": [2, 2, 2]}
    assert not torch.isin(splits["train"].ids, splits["val"].ids).any()
    assert splits["train"].corrupt is splits["val"].corrupt


def test_resident_photos_are_those_of_the_stream(photo_folder):
    for split in ("train", "test"):
        held = stream(photo_folder, split, resident=True)
        read = stream(photo_folder, split, views=ViewsConfig(crop="pad"))
        wanted = [request(held.ids.tolist())]
        if split == "train":
            assert same(list(held.load(wanted)), list(read.load(wanted)))
        assert same(list(held.eval_batches(4)), list(read.eval_batches(4))) == (split == "test")


# Corrupt images


def bomb():
    """A PNG that says it has 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BROKEN = {
    "truncated": (lambda whole: whole[: len(whole) // 2], "truncated"),
    "text": (lambda whole: b"no image", "not an image"),
    "empty": (lambda whole: b"", "not an image"),
    "bomb": (lambda whole: bomb(), "decompression bomb"),
}


@pytest.fixture
def broken_folder(write_folder, tmp_path):
    """The second and the third image of `ant` in train, ids 1 and 2, and the second in val are broken."""
    root = write_folder(tmp_path)

    def write(kind="text"):
        files = [root / "train/ant/03.jpg", root / "train/ant/06.jpg", root / "val/ant/03.jpg"]
        for file in files:
            file.write_bytes(BROKEN[kind][0](file.read_bytes()))
        return root, files

    return write


@pytest.mark.parametrize("kind", BROKEN)
def test_in_place_of_a_broken_image_comes_the_next_readable_one(broken_folder, kind):
    root, files = broken_folder(kind)
    train = stream(root, max_corrupt=2)
    cutting = Cutting(size=24, crop_pct=0.875, views=RRC, seed=1)
    wanted = request([0, 1, 1, 2], 0, [0, 0, 1, 0])
    ((pixels, labels),) = train.load([wanted])
    words = cutting.words(wanted.ids, wanted.repeats, 0)
    image, label = train.photos.open(3)
    for place in (1, 2, 3):
        assert np.array_equal(pixels[place].numpy(), shown_by(cutting, image, words[place]))
    assert labels.tolist() == [0, label, label, label]
    assert [line.partition(": ")[0] for line in train.corrupt] == [str(file) for file in files[:2]]
    assert all(BROKEN[kind][1] in line for line in train.corrupt)


def test_after_the_last_image_comes_the_first(write_folder, tmp_path):
    root = write_folder(tmp_path)
    train = stream(root, max_corrupt=1, views=ViewsConfig(crop="pad"))
    (root / train.photos.name(11)).write_bytes(b"")
    ((pixels, labels),) = train.load([request([11, 0])])
    assert torch.equal(pixels[0], pixels[1])
    assert labels.tolist() == [0, 0]


@pytest.mark.parametrize("workers", [0, 3])
def test_each_broken_image_is_counted_once_whoever_finds_it(broken_folder, workers):
    root, _ = broken_folder()
    train, alone = stream(root, max_corrupt=2, workers=workers), stream(root, max_corrupt=2)
    wanted = [request([1, 2, 0, 1, 2], epoch) for epoch in range(3)]
    assert same(list(train.load(wanted)), list(alone.load(wanted)))
    assert len(train.corrupt) == 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("limit", "words"), [(0, "1 corrupt image, more"), (1, "2 corrupt images, more")])
def test_too_many_broken_images_end_the_run(broken_folder, workers, limit, words):
    root, files = broken_folder()
    loaded = stream(root, max_corrupt=limit, workers=workers).load([request([0, 3, 4]), request([5, 1, 2])])
    assert next(loaded)[1].tolist() == [0, 0, 1]
    expected = f"data: {words} than data.max_corrupt {limit}; the first: {files[0]}: not an image"
    with pytest.raises(DataError) as caught:
        next(loaded)
    assert str(caught.value) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_of_which_nothing_can_be_read_ends_the_run(write_folder, tmp_path, workers):
    root = write_folder(tmp_path)
    for file in root.glob("train/*/*"):
        file.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        next(stream(root, max_corrupt=100, workers=workers).load([request([3])]))
    assert str(caught.value) == f"data: no image of 12 can be read; the first: {root}/train/ant/09.jpg: not an image"


def test_evaluation_leaves_broken_images_out(broken_folder):
    root, files = broken_folder()
    test = stream(root, "test", max_corrupt=1)
    batches = list(test.eval_batches(1))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 1, 2, 2]
    assert list(test.corrupt) == [f"{files[2]}: not an image"]
    with pytest.raises(DataError, match=r"1 corrupt image, more than data.max_corrupt 0; the first: .*03.jpg"):
        list(stream(root, "test").eval_batches(4))


def test_resident_photos_leave_out_up_to_max_corrupt(broken_folder):
    root, files = broken_folder()
    with pytest.raises(UserError, match=rf"corrupt image {files[0]}: not an image; --data.max_corrupt COUNT .*, now 1"):
        stream(root, resident=True, max_corrupt=1)
    held = stream(root, resident=True, max_corrupt=2)
    assert len(held) == 10
    assert len(held.corrupt) == 2
