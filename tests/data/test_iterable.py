"""Sets that come one sample after another: their order, what a resumed epoch gets, and broken images on the way."""

import importlib
import io
import json
import re
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mixstill.config import DataConfig, ViewsConfig
from mixstill.data import Request, load_split, load_splits
from mixstill.data.cutting import Cutting
from mixstill.data.shards import check_shards
from mixstill.errors import DataError, UserError

SHARDS, PER_SHARD = 4, 6
N = SHARDS * PER_SHARD


def shown_by(cutting, image, words):
    """The training view of an image by its draws."""
    (window,) = cutting.windows(words[None], [image.size])
    return cutting.train(image, window)


def add(tar, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


@pytest.fixture
def shards(encoded_photos, tmp_path):
    """Writes four shards of six samples; the label of a sample is its number, the photo one of twelve."""
    pytest.importorskip("webdataset")

    def write(broken=(), info=True):
        for shard in range(SHARDS):
            with tarfile.open(tmp_path / f"set-{shard}.tar", "w") as tar:
                for number in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
                    content = b"no image" if number in broken else encoded_photos[number % 12]
                    add(tar, f"{number:03}.jpg", content)
                    add(tar, f"{number:03}.cls", str(number).encode())
        if info:
            names = [f"set-{shard}.tar" for shard in range(SHARDS)]
            part = {"num_samples": N, "filenames": names, "shard_lengths": [PER_SHARD] * SHARDS}
            parts = {name: {"name": name, **part} for name in ("train", "validation")}
            (tmp_path / "info.json").write_text(json.dumps({"splits": parts}))
        return tmp_path

    return write


def wds(root, split="train", workers=0, seed=1, views=None, **fields):
    config = DataConfig(dataset="wds/set", data_dir=str(root), num_classes=N, workers=workers, **fields)
    return load_split(config, split, "cpu", 24, views=views or ViewsConfig(crop="rrc"), seed=seed)


def requests(epochs, sizes=(5, 7, 4), before=0):
    for epoch in range(epochs):
        start = 0
        for size in sizes:
            if start >= before:
                ids = torch.arange(size)
                yield Request(ids, torch.zeros_like(ids), epoch, start)
            start += size


def labels_of(batches):
    return [label for _, labels in batches for label in labels.tolist()]


def test_an_epoch_is_an_order_of_the_set_by_seed_and_epoch(shards):
    root = shards()
    orders = [labels_of(wds(root, seed=seed).load(requests(2, (N,)))) for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]
    for order in orders:
        assert sorted(order[:N]) == sorted(order[N:]) == list(range(N))
        assert order[:N] != order[N:] != sorted(order[N:])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_where_it_stood(shards, workers):
    root = shards()
    whole = list(wds(root, workers=workers).load(requests(1)))
    resumed = list(wds(root, workers=workers).load(requests(1, before=12)))
    assert len(resumed) == 1
    assert torch.equal(whole[-1][0], resumed[0][0])
    assert torch.equal(whole[-1][1], resumed[0][1])
    seen = labels_of(whole)
    assert len(set(seen)) == len(seen) == 16


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_cut_by_draws_of_their_place(shards, encoded_photos, workers):
    views = ViewsConfig(crop="rrc")
    train = wds(shards(), views=views, workers=workers)
    assert train.cropped
    loaded = list(train.load(requests(1)))
    pixels, labels = (torch.cat(parts) for parts in zip(*loaded, strict=True))
    cutting = Cutting(size=24, crop_pct=0.875, views=views, seed=1)
    words = cutting.words(torch.arange(16), torch.zeros(16, dtype=torch.int64), 0)
    for shown, label, draws in zip(pixels, labels.tolist(), words, strict=True):
        photo = Image.open(io.BytesIO(encoded_photos[label % 12]))
        assert np.array_equal(shown.numpy(), shown_by(cutting, photo, draws))


@pytest.mark.parametrize(("workers", "count"), [(0, 1), (2, 1), (0, 3)])
def test_evaluation_sees_every_sample_once_over_workers_and_ranks(shards, workers, count):
    test = wds(shards(), "test", workers=workers)
    parts = [list(test.eval_batches(4, rank, count)) for rank in range(count)]
    assert all(0 < len(labels) <= 4 for part in parts for _, labels in part)
    assert sorted(label for part in parts for label in labels_of(part)) == list(range(N))
    assert all(parts)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_of_shards_are_left_out_and_named(shards, workers):
    root = shards(broken=(3, 8))
    train = wds(root, workers=workers, max_corrupt=2)
    seen = labels_of(train.load(requests(3, (N,))))
    assert set(seen[:N]) == set(range(N)) - {3, 8}
    names = sorted(line for line in train.corrupt)
    assert names == [f"{root}/set-{shard}: not an image" for shard in ("0.tar: 003", "1.tar: 008")]
    with pytest.raises(DataError, match=r"data: 2 corrupt images, more than data.max_corrupt 1; the first: .*set-"):
        list(wds(root, workers=workers, max_corrupt=1).load(requests(1, (N,))))
    test = wds(root, "test", max_corrupt=2)
    assert len(labels_of(test.eval_batches(5))) == N - 2
    assert len(test.corrupt) == 2


def test_a_split_may_be_written_in_braces_with_its_size(shards):
    root = shards(info=False)
    train = wds(root, train_split="set-{0..3}.tar", num_samples=N)
    assert len(train) == N
    assert train.ids.tolist() == list(range(N))
    test = wds(root, "test", test_split="set-{0..1}.tar")
    assert sorted(labels_of(test.eval_batches(4))) == list(range(12))


def test_what_an_iterable_set_cannot_do_is_told(shards):
    root = shards()
    with pytest.raises(UserError, match=r"data.val_fraction: 0.1 is not valid; the labels of wds/set are only known"):
        wds(root, val_fraction=0.1)
    with pytest.raises(UserError, match=r"views.aug_repeats: 3 is not valid; wds/set gives each sample only once"):
        wds(root, views=ViewsConfig(aug_repeats=3))
    with pytest.raises(UserError, match=r"data.num_samples: None is not valid; 'wds/set' does not tell how many"):
        wds(root, train_split="set-{0..3}.tar")
    with pytest.raises(UserError, match=r"data.num_classes: None is not valid; 'wds/set' does not tell its classes"):
        load_splits(DataConfig(dataset="wds/set", data_dir=str(root)), ["train"], "cpu", 24)
    with pytest.raises(UserError, match=r"'wds/set' in .*, split 'training' cannot be opened: .*training not found"):
        wds(root, train_split="training")


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_beyond_the_classes_is_told_with_its_sample(shards, part, workers):
    root = shards()
    config = DataConfig(dataset="wds/set", data_dir=str(root), num_classes=3, workers=workers)
    split = load_split(config, part, "cpu", 24)
    expected = rf"^data: {root}/set-(\d).tar: 0(\d\d) has the label (\d+); they lie in 0 to 2$"
    with pytest.raises(DataError, match=expected) as caught:
        list(split.load(requests(1)) if part == "train" else split.eval_batches(8))
    shard, key, label = map(int, re.match(expected, str(caught.value)).groups())
    assert key == label
    assert shard == key // PER_SHARD


def test_shards_that_are_not_there_are_told_at_once(shards):
    root = shards()
    for part in ("train", "test"):
        fields = {f"{part}_split": "sat-{0..3}.tar", "num_samples": N}
        expected = rf"^data.{part}_split: 'sat-{{0..3}}.tar': no shard '{root}/sat-0.tar'; did you mean 'set-0.tar'\?$"
        with pytest.raises(UserError, match=expected):
            wds(root, part, **fields)
    with pytest.raises(UserError, match=r"no shard '.*/set-4.tar'"):
        wds(root, train_split="set-{0..4}.tar", num_samples=N)


@pytest.mark.parametrize("kind", ["gone", "short"])
def test_a_shard_that_fails_is_named_once(shards, kind):
    root = shards()
    train = wds(root, workers=0)
    shard = root / "set-2.tar"
    if kind == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(DataError) as caught:
        list(train.load(requests(1, (N,))))
    why = {"gone": "No such file or directory", "short": "unexpected end of data"}[kind]
    expected = f"data: 1 corrupt image, more than data.max_corrupt 0; the first: shard {shard}: {why}"
    assert str(caught.value) == expected


def test_no_remark_is_made_of_a_missing_info_file(shards, caplog, capfd):
    wds(shards(info=False), train_split="set-{0..3}.tar", num_samples=N)
    assert not caplog.records
    assert capfd.readouterr().err == ""


# Streams of the hub, from a local folder of images, which the hub's library reads as one shard


def hfids(root, split="train", workers=0, **fields):
    name, cache = f"hfids/{root}", str(root.parent / "cache")
    config = DataConfig(
        dataset=name, data_dir=cache, workers=workers, **{"num_samples": 12, "num_classes": 3, **fields}
    )
    return load_split(config, split, "cpu", 24, views=ViewsConfig(crop="rrc"), seed=1)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    if "datasets" in sys.modules:
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_of_the_hub(photo_folder, workers):
    pytest.importorskip("datasets")
    train = hfids(photo_folder, workers=workers)
    assert len(train) == 12
    whole = list(train.load(requests(2, (4, 4, 4))))
    orders = [labels_of(whole[start : start + 3]) for start in (0, 3)]
    assert [sorted(order) for order in orders] == [sorted([0, 1, 2] * 4)] * 2
    assert orders[0] != orders[1]
    resumed = list(hfids(photo_folder, workers=workers).load(requests(1, (4, 4, 4), before=8)))
    assert torch.equal(whole[2][0], resumed[0][0])
    assert torch.equal(whole[2][1], resumed[0][1])
    test = hfids(photo_folder, "test", workers=workers)
    assert sorted(labels_of(test.eval_batches(5))) == [0, 0, 1, 1, 2, 2]


def test_broken_images_of_a_stream_are_left_out_and_counted_once(write_folder, tmp_path):
    pytest.importorskip("datasets")
    root = write_folder(tmp_path / "set")
    broken = root / "train/bee/04.jpg"
    broken.write_bytes(b"no image")
    train = hfids(root, max_corrupt=1)
    seen = labels_of(train.load(requests(2, (11,))))
    assert [sorted(seen[:11]), sorted(seen[11:])] == [sorted([0, 1, 2] * 3 + [0, 2])] * 2
    assert list(train.corrupt) == [f"{broken}: not an image"]
    with pytest.raises(DataError, match=rf"1 corrupt image, more than data.max_corrupt 0; the first: {broken}: not an"):
        list(hfids(root).load(requests(1, (12,))))


def test_more_workers_than_shards_are_told(photo_folder):
    pytest.importorskip("datasets")
    with pytest.raises(UserError, match=r"^data.workers: 2 is not valid; .* has 1 shard for 1 process: at most 1$"):
        hfids(photo_folder, workers=2)
    hfids(photo_folder, "test", workers=2)  # one of them stays idle


@pytest.mark.parametrize(("shards", "world", "most"), [(4, 1, 4), (4, 2, 2), (5, 2, 5), (1, 2, 1)])
def test_the_largest_number_of_workers_is_what_timm_takes(shards, world, most):
    datasets = pytest.importorskip("datasets")
    reader = importlib.import_module("timm.data.readers.reader_hfids").ReaderHfids.__new__(
        importlib.import_module("timm.data.readers.reader_hfids").ReaderHfids
    )
    rows = datasets.Dataset.from_dict({"label": list(range(20))})
    vars(reader).update(
        name="x", split="train", download=False, is_training=True, worker_info=1, dist_rank=0, common_seed=1,
        dist_num_replicas=world, shuffle_size=4,
        builder=SimpleNamespace(as_streaming_dataset=lambda split: rows.to_iterable_dataset(num_shards=shards)),
    )  # fmt: skip
    for workers in range(most + 2):
        config = DataConfig(dataset="hfids/x", workers=workers)
        reader.num_workers, reader.global_num_workers = max(1, workers), world * max(1, workers)
        if workers <= most:
            reader._lazy_init()
            check_shards(config, "train", reader, world)
            continue
        with pytest.raises(RuntimeError, match="Reduce the number"):
            reader._lazy_init()
        with pytest.raises(UserError, match=rf"data.workers: {workers} is not valid; .*: at most {most}$"):
            check_shards(config, "train", reader, world)


def test_a_split_that_a_stream_does_not_have_is_told_at_once(photo_folder):
    pytest.importorskip("datasets")
    with pytest.raises(UserError, match=r"^data.train_split: 'trian' of 'hfids/.*' cannot be opened: .*train"):
        hfids(photo_folder, train_split="trian")
