"""Map-style sets of timm's factory: which samples, labels and classes each scheme gives, and its mistakes."""

import io
import pickle
import shutil
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from mixstill.config import DataConfig
from mixstill.data import Request, factory, load_split, load_splits
from mixstill.errors import DataError, RunError, UserError


def splits(dataset, root, names=("train", "test"), **fields):
    data_dir = None if root is None else str(root)
    return load_splits(DataConfig(dataset=dataset, data_dir=data_dir, workers=0, **fields), names, "cpu", 24)


def check_photos(split, encoded, labels):
    """The split has just these photos with these labels."""
    assert len(split) == len(encoded)
    assert split.photos.labels.tolist() == labels
    for index, (content, label) in enumerate(zip(encoded, labels, strict=True)):
        image, its = split.photos.open(index)
        assert its == label
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(content))))
    assert len({split.photos.name(index) for index in range(len(split))}) == len(split)


# Tar files


@pytest.fixture(scope="module")
def tar_folder(photo_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("tars")
    for part in ("train", "val"):
        with tarfile.open(root / f"{part}.tar", "w") as tar:
            tar.add(photo_folder / part, arcname=".")
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tar_file_gives_what_the_folder_does(tar_folder, photo_folder, workers):
    wanted = [Request(torch.arange(12), torch.zeros(12, dtype=torch.int64), 0)]
    loaded = []
    for root in (tar_folder, photo_folder):
        config = DataConfig(dataset="folder", data_dir=str(root), workers=workers)
        train = load_split(config, "train", "cpu", 24)
        loaded += train.load(wanted)
        assert train.classes == ("ant", "bee", "cow")
    assert torch.equal(loaded[0][0], loaded[1][0])
    assert torch.equal(loaded[0][1], loaded[1][1])
    train = splits("folder", tar_folder)["train"]
    assert train.photos.name(1) == f"{tar_folder}/train.tar/ant/03.jpg"
    held = splits("folder", tar_folder, resident=True)["train"]
    assert torch.equal(held.pixels, loaded[0][0])


def test_classes_of_tar_files_come_in_the_order_of_folders(encoded_photos, tmp_path):
    for part in ("train", "test"):
        for name in ("9", "10", "b"):
            place = tmp_path / "plain" / part / name
            place.mkdir(parents=True)
            (place / "0.jpg").write_bytes(encoded_photos[0])
        (tmp_path / "tar").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "tar" / f"{part}.tar", "w") as tar:
            tar.add(tmp_path / "plain" / part, arcname=".")
    for kind in ("plain", "tar"):
        train = splits("folder", tmp_path / kind)["train"]
        assert train.classes == ("10", "9", "b")
        for index, label in enumerate(train.photos.labels.tolist()):
            assert f"{train.classes[label]}/0.jpg" in train.photos.name(index)
            assert train.photos.open(index)[1] == label


def test_a_tar_file_may_hold_one_for_each_class(photo_folder, encoded_photos, tmp_path):
    for part in ("train", "val"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as outer:
            for name in ("ant", "bee", "cow"):
                with tarfile.open(tmp_path / f"{name}.tar", "w") as inner:
                    for file in sorted((photo_folder / part / name).iterdir()):
                        inner.add(file, arcname=file.name)
                outer.add(tmp_path / f"{name}.tar", arcname=f"{name}.tar")
    train = splits("folder", tmp_path)["train"]
    assert train.classes == ("ant", "bee", "cow")
    for index in range(12):
        image, label = train.photos.open(index)
        number = int(train.photos.name(index)[-6:-4])
        assert label == number % 3
        assert image.tobytes() == Image.open(io.BytesIO(encoded_photos[number])).tobytes()


def test_tar_files_with_other_classes_are_refused(tar_folder, photo_folder, tmp_path):
    shutil.copy(tar_folder / "train.tar", tmp_path)
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        tar.add(photo_folder / "val/ant", arcname="ant")
    with pytest.raises(UserError, match="the train and the test part of 'folder' differ in their classes: 3 and 1"):
        splits("folder", tmp_path)


@pytest.mark.parametrize("nested", [False, True])
def test_a_tar_file_without_images_is_told(photo_folder, tmp_path, nested):
    for part in ("train", "val"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            if nested:
                tar.add(photo_folder / "train/ant/00.jpg", arcname=".git/00.jpg")
    with pytest.raises(UserError, match=rf"^data.data_dir: {tmp_path}/val.tar has no images; expected are CLASS/IMAGE"):
        splits("folder", tmp_path)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_what_is_hidden_is_no_part_of_a_folder(write_folder, tmp_path, kind):
    root = write_folder(tmp_path / ".hidden")
    for name in ("train/.git/a.jpg", "train/ant/._00.jpg", "val/bee/.cache/a.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no image")
    if kind == "tar":
        for part in ("train", "val"):
            with tarfile.open(root / f"{part}.tar", "w") as tar:
                tar.add(root / part, arcname=".")
            shutil.rmtree(root / part)
    both = splits("folder", root)
    for split, count in (("train", 12), ("test", 6)):
        assert both[split].classes == ("ant", "bee", "cow")
        assert len(both[split]) == count
        for index in range(count):
            number = int(both[split].photos.name(index)[-6:-4])
            assert both[split].photos.open(index)[1] == number % 3


# Data sets of the hub, from a local folder


@pytest.fixture(scope="module")
def write_hub(tmp_path_factory):
    """Writes a data set of Parquet files as the hub has them: photos and labels with names, or plain numbers."""
    hub = pytest.importorskip("datasets")

    def write(root, contents, labels, *, split="train", column="image", key="label", names=("ant", "bee", "cow")):
        kind = {int: "int64", float: "float64", str: "string"}[type(labels[0])]
        label = hub.ClassLabel(names=list(names)) if names else hub.Value(kind)
        rows = {column: [{"bytes": content, "path": None} for content in contents], key: labels}
        features = hub.Features({column: hub.Image(), key: label})
        (root / "data").mkdir(parents=True, exist_ok=True)
        hub.Dataset.from_dict(rows, features).to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
        return root

    return write


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path_factory):
    if "datasets" in sys.modules:
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hub"))


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_of_the_hub(write_hub, encoded_photos, tmp_path, workers):
    labels = [0, 1, 2, 1]
    root = write_hub(tmp_path / "Set", encoded_photos[:4], labels)
    write_hub(root, encoded_photos[4:6], [0, 2], split="validation")
    config = DataConfig(dataset=f"hfds/{root}", data_dir=str(tmp_path / "cache"), workers=workers)
    both = load_splits(config, ["train", "test"], "cpu", 24)
    check_photos(both["train"], encoded_photos[:4], labels)
    assert both["train"].classes == ("ant", "bee", "cow")
    ((_, seen),) = both["test"].eval_batches(4)
    assert seen.tolist() == [0, 2]
    assert both["train"].photos.name(3) == "train row 3"


def test_the_hub_is_opened_without_progress_bars(write_hub, encoded_photos, tmp_path, capfd):
    hub = pytest.importorskip("datasets")
    name = f"hfds/{write_hub(tmp_path / 'Set', encoded_photos[:4], [0, 1, 2, 1])}"
    capfd.readouterr()
    splits(name, tmp_path / "cache", ["train"])
    assert capfd.readouterr().err == ""
    assert not hub.are_progress_bars_disabled()


def test_keys_and_split_names_of_the_hub_are_those_of_the_config(write_hub, encoded_photos, tmp_path):
    options = {"column": "img", "key": "fine_label", "names": None}
    write_hub(tmp_path / "cifar10", encoded_photos[:2], [0, 3], split="train", **options)
    write_hub(tmp_path / "cifar10", encoded_photos[2:4], [1, 3], split="test", **options)
    fields = {"input_key": "img", "target_key": "fine_label", "test_split": "test"}
    both = splits(f"hfds/{tmp_path}/cifar10", tmp_path / "cache", **fields)
    check_photos(both["test"], encoded_photos[2:4], [1, 3])
    assert both["train"].classes == ("0", "1", "2", "3")
    assert both["train"].mean == (0.4914, 0.4822, 0.4465)
    ten = splits(f"hfds/{tmp_path}/cifar10", tmp_path / "cache", num_classes=10, **fields)["train"]
    assert ten.classes == tuple("0123456789")


def test_words_in_a_data_set_of_the_hub_are_its_classes(write_hub, encoded_photos, tmp_path):
    name = f"hfds/{write_hub(tmp_path / 'set', encoded_photos[:3], ['moss', 'fern', 'moss'], names=None)}"
    train = splits(name, tmp_path / "cache", ["train"])["train"]
    assert train.classes == ("fern", "moss")
    assert torch.cat([labels for _, labels in train.eval_batches(2)]).tolist() == [1, 0, 1]


def test_mistakes_with_the_hub_are_told(write_hub, encoded_photos, tmp_path):
    name, cache = f"hfds/{write_hub(tmp_path / 'set', encoded_photos[:2], [0, 1])}", tmp_path / "cache"
    with pytest.raises(UserError, match=r"split 'vaidation' cannot be opened: .*vaidation"):
        splits(name, cache, ["test"], test_split="vaidation")
    with pytest.raises(UserError, match=r"data.target_key: 'klass' is not valid; there are image, label"):
        splits(name, cache, ["train"], target_key="klass")
    with pytest.raises(UserError, match=r"data.input_key: 'img' is not valid; there are image, label"):
        splits(name, cache, ["train"], input_key="img")
    with pytest.raises(UserError, match=r"data.num_classes: 2 is not valid; .* has 3 classes"):
        splits(name, cache, ["train"], num_classes=2)
    half = f"hfds/{write_hub(tmp_path / 'half', encoded_photos[:2], [0.5, 1.5], names=None)}"
    with pytest.raises(UserError, match=r"data.target_key: 'label' holds '0.5'; labels must be class numbers or words"):
        splits(half, cache, ["train"])
    hidden = f"hfds/{write_hub(tmp_path / 'hidden', encoded_photos[:2], [0, -1], names=None)}"
    with pytest.raises(UserError, match=r"data: train row 1 has the label -1; they lie in 0 to 0"):
        splits(hidden, cache, ["train"])
    with pytest.raises((UserError, RunError), match=r"data.dataset: 'hfds/nobody/nothing' .*nobody/nothing"):
        splits("hfds/nobody/nothing", cache, ["train"])


def test_a_broken_row_of_the_hub_is_named(write_hub, encoded_photos, tmp_path):
    root = write_hub(tmp_path / "set", [encoded_photos[0], b"no image", encoded_photos[2]], [0, 1, 2])
    train = splits(f"hfds/{root}", tmp_path / "cache", ["train"], max_corrupt=1)["train"]
    ((_, labels),) = train.load([Request(torch.arange(3), torch.zeros(3, dtype=torch.int64), 0)])
    assert labels.tolist() == [0, 2, 2]
    assert list(train.corrupt) == ["train row 1: not an image"]


# torchvision's


def write_cifar10(root, monkeypatch):
    kind = datasets.CIFAR10
    place = root / kind.base_folder
    place.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 3 * 32 * 32), dtype=np.uint8)
    (place / "train").write_bytes(pickle.dumps({"data": images, "labels": [7, 0, 9]}))
    (place / "test").write_bytes(pickle.dumps({"data": images[:1], "labels": [1]}))
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    for name, entries in {"train_list": [["train", None]], "test_list": [["test", None]]}.items():
        monkeypatch.setattr(kind, name, entries)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    return torch.from_numpy(images.reshape(3, 3, 32, 32))


def test_torchvisions_cifar10_is_streamed_with_its_own_statistics(tmp_path, monkeypatch):
    images = write_cifar10(tmp_path, monkeypatch)
    config = DataConfig(dataset="torch/cifar10", data_dir=str(tmp_path), workers=0)
    both = load_splits(config, ["train", "test"], "cpu", 32)
    ((pixels, labels),) = both["train"].load([Request(torch.tensor([2, 0]), torch.zeros(2, dtype=torch.int64), 0)])
    assert torch.equal(pixels, images[[2, 0]])
    assert labels.tolist() == [9, 7]
    assert both["train"].classes == tuple("abcdefghij")
    assert both["train"].std == (0.2023, 0.1994, 0.2010)
    assert both["test"].photos.labels.tolist() == [1]


def test_torchvisions_image_folder_is_the_folder(photo_folder, encoded_photos):
    both = splits("torch/image_folder", photo_folder)
    numbers = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    check_photos(both["train"], [encoded_photos[number] for number in numbers], [number % 3 for number in numbers])
    assert len(both["test"]) == 6
    assert both["train"].mean == (0.485, 0.456, 0.406)


def test_a_set_that_cannot_list_its_labels_has_no_validation_split(photo_folder, monkeypatch):
    class Unlisted(torch.utils.data.Dataset):
        classes = ("a", "b")

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return Image.new("RGB", (30, 30)), 5 * index

    monkeypatch.setattr(factory, "create_dataset", lambda *_, **__: Unlisted())
    for field, value in (("val_fraction", 0.5), ("samples_per_class", 1)):
        with pytest.raises(UserError, match=rf"data.{field}: {value} is not valid; the labels of torch/inat"):
            splits("torch/inat", photo_folder, ["train"], **{field: value})
    train = splits("torch/inat", photo_folder, ["train"])["train"]
    wanted = Request(torch.arange(2), torch.zeros(2, dtype=torch.int64), 0)
    for batches in (train.eval_batches(2), train.load([wanted])):
        with pytest.raises(DataError, match="data: train sample 1 has the label 5; they lie in 0 to 1"):
            list(batches)


@pytest.mark.parametrize(
    ("dataset", "fields", "message"),
    [
        ("torch/nothing", {}, r"'torch/nothing' in .* cannot be opened: Unknown torchvision dataset nothing"),
        ("torch/cifar10", {}, r"'torch/cifar10' in .*, split 'train' cannot be opened: Dataset not found"),
        ("torch/cifar10", {"data_dir": None}, r"data.data_dir: None is not valid; torch/cifar10 lies in a folder"),
        ("torch/cifar10", {"input_key": "img"}, r"data.input_key: 'img' is not valid; torch/cifar10 has no keys"),
    ],
)
def test_mistakes_with_torchvisions_sets_are_told(tmp_path, dataset, fields, message):
    with pytest.raises(UserError, match=message):
        load_split(DataConfig(**{"dataset": dataset, "data_dir": str(tmp_path), **fields}), "train", "cpu", 24)


@pytest.mark.parametrize(
    ("dataset", "package", "install"),
    [
        ("hfds/x", "datasets", r"'mixstill\[stream\]'"),
        ("hfids/x", "datasets", r"'mixstill\[stream\]'"),
        ("wds/x", "webdataset", r"'mixstill\[stream\]'"),
        ("tfds/x", "tensorflow_datasets", "tensorflow-datasets tensorflow"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, dataset, package, install):
    monkeypatch.setattr(factory, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"'{dataset}' needs the package {package}: pip install {install}"):
        load_split(DataConfig(dataset=dataset, data_dir=str(tmp_path)), "train", "cpu", 24)


def test_a_net_that_fails_is_a_failed_run(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(factory, "create_dataset", fail)
    with pytest.raises(RunError, match="'torch/cifar10' could not be fetched: no network"):
        splits("torch/cifar10", tmp_path, ["train"])


def test_a_class_name_that_a_terminal_would_obey_is_told(tmp_path) -> None:
    for part in ("train", "test"):
        for name in ("a", "b\x1b[31m"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / part / name / "1.png")
    config = DataConfig(dataset="folder", data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"the class name 'b\\x1b\[31m' holds a character that a terminal would obey"):
        load_split(config, "train", "cpu", 8)
