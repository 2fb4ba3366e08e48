"""Sources: what each layout gives, and that each way in which data can be amiss is told in one clear line."""

import hashlib
import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.transforms import functional as pil

from mixstill.config import DataConfig
from mixstill.data import images as decoding
from mixstill.data import load_source
from mixstill.errors import RunError, UserError

LABELS = {"cifar10": "label", "cifar100": "fine_label"}
CLASSES = {"cifar10": 10, "cifar100": 100}


def picture(seed, width=32, height=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


def write_shard(file, seeds, name="cifar100", column="img", named=True, images=None, labels=None, kind="PNG"):
    """A Parquet file in the hub's layout: the image of each seed, its label the seed."""
    images = [encoded(picture(seed), kind) for seed in seeds] if images is None else images
    label = LABELS[name]
    table = pa.table(
        {
            column: pa.array(
                [{"bytes": data, "path": None} for data in images],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            label: pa.array(list(seeds) if labels is None else labels, pa.int64()),
        }
    )
    if named:
        names = [f"{name} class {number}" for number in range(CLASSES[name])]
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=2)


def write_pair(folder, **options):
    write_shard(folder / "train-00000-of-00001.parquet", [0, 1, 2], **options)
    write_shard(folder / "test-00000-of-00001.parquet", [3], **options)


def cifar(root, split="train", name="cifar100", **fields):
    return load_source(DataConfig(dataset=name, data_dir=str(root), **fields), split, None)


def check(source, seeds):
    assert source.pixels.dtype == torch.uint8
    assert source.labels.dtype == torch.int64
    assert source.labels.tolist() == list(seeds)
    assert torch.equal(source.pixels, torch.stack([torch.from_numpy(picture(s)).permute(2, 0, 1) for s in seeds]))


def write_class_folders(place, classes=("ant", "bee"), size=(9, 7)):
    for number, name in enumerate(classes):
        (place / name).mkdir(parents=True)
        for index in range(2):
            Image.fromarray(picture(10 * number + index, *size)).save(place / name / f"{index}.png")


def folder(root, split="train", size=8, **fields):
    return load_source(DataConfig(dataset="folder", data_dir=str(root), **fields), split, size)


# Digits


def test_digits_are_scikit_learns_split_by_class():
    train, test = (load_source(DataConfig(), split, None) for split in ("train", "test"))
    bunch = load_digits()
    assert len(train.labels) + len(test.labels) == len(bunch.target)
    for label, total in enumerate(np.bincount(bunch.target)):
        assert (test.labels == label).sum() == total // 3
    both = sorted(image.tobytes() for image in torch.cat([train.pixels, test.pixels])[:, 0].numpy())
    assert both == sorted(image.tobytes() for image in np.rint(bunch.images * 255 / 16).astype(np.uint8))
    assert (train.pixels[:, 0] == train.pixels[:, 1]).all()
    assert (train.pixels[:, 0] == train.pixels[:, 2]).all()
    assert train.classes == tuple("0123456789")


def test_the_split_of_the_digits_is_frozen():
    train = load_source(DataConfig(), "train", None)
    digest = hashlib.sha256(train.pixels.numpy().tobytes() + train.labels.numpy().tobytes()).hexdigest()
    assert digest[:16] == "707bb84b3907b2b6"


def test_the_constants_of_the_digits_are_those_of_their_train_split():
    train = load_source(DataConfig(), "train", None)
    channel = train.pixels[:, 0].double() / 255
    assert train.mean == (round(channel.mean().item(), 4),) * 3
    assert train.std == (round(channel.std(correction=0).item(), 4),) * 3


# The hub's Parquet layout


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("column", ["img", "image"])
@pytest.mark.parametrize("depth", ["", "a", "a/b"])
def test_parquet_is_found_up_to_two_folders_down(tmp_path, name, column, depth):
    write_pair(tmp_path / depth, name=name, column=column)
    check(cifar(tmp_path, "train", name), [0, 1, 2])
    check(cifar(tmp_path, "test", name), [3])


def test_the_nearest_folder_is_taken(tmp_path):
    for depth, seed in (("b/c", 0), ("b", 1), ("a", 2)):
        write_shard(tmp_path / depth / "train-00000-of-00001.parquet", [seed])
    check(cifar(tmp_path), [2])


def test_shards_follow_one_another_and_webp_is_read(tmp_path):
    write_shard(tmp_path / "train-00001-of-00002.parquet", [5, 6], kind="WEBP")
    write_shard(tmp_path / "train-00000-of-00002.parquet", [7, 8, 9], kind="WEBP")
    check(cifar(tmp_path), [7, 8, 9, 5, 6])


def test_class_names_come_from_the_metadata_or_are_numbers(tmp_path):
    write_pair(tmp_path / "named", name="cifar10")
    write_pair(tmp_path / "bare", name="cifar10", named=False)
    assert cifar(tmp_path / "named", name="cifar10").classes[9] == "cifar10 class 9"
    assert cifar(tmp_path / "bare", name="cifar10").classes == tuple("0123456789")


def test_each_cifar_has_its_own_statistics(tmp_path):
    write_pair(tmp_path / "10", name="cifar10")
    write_pair(tmp_path / "100", name="cifar100")
    small, large = cifar(tmp_path, name="cifar10"), cifar(tmp_path, name="cifar100")
    assert (small.mean, small.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert (large.mean, large.std) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))


@pytest.mark.parametrize(("asked", "held"), [("cifar10", "cifar100"), ("cifar100", "cifar10")])
@pytest.mark.parametrize("download", [False, True])
def test_the_other_cifar_is_named(tmp_path, asked, held, download):
    write_pair(tmp_path, name=held)
    with pytest.raises(UserError, match=rf"data.data_dir: .* holds {held}, not the data.dataset '{asked}'"):
        cifar(tmp_path, name=asked, download=download)


def test_a_parquet_set_with_another_number_of_classes_is_no_cifar(tmp_path):
    write_shard(tmp_path / "train-00000-of-00001.parquet", [0], name="cifar10", named=False)
    table = pq.read_table(tmp_path / "train-00000-of-00001.parquet")
    features = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "train-00000-of-00001.parquet"
    )
    with pytest.raises(UserError, match="no cifar10 in"):
        cifar(tmp_path, name="cifar10")


def test_a_missing_shard_is_named(tmp_path):
    write_shard(tmp_path / "train-00000-of-00002.parquet", [0])
    with pytest.raises(UserError, match=r"train-00001-of-00002.parquet is missing in "):
        cifar(tmp_path)
    with pytest.raises(UserError, match=r"no test-\*.parquet in "):
        cifar(tmp_path, "test")
    write_shard(tmp_path / "train-00000-of-00001.parquet", [0])
    with pytest.raises(UserError, match=r"mixes train files of 00001 and of 00002 shards"):
        cifar(tmp_path)


def test_a_truncated_parquet_file_is_named(tmp_path):
    write_pair(tmp_path)
    file = tmp_path / "train-00000-of-00001.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"train-00000-of-00001.parquet cannot be read as Parquet"):
        cifar(tmp_path)
    file.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])  # the schema is whole, the data are not
    with pytest.raises(UserError, match=r"train-00000-of-00001.parquet cannot be read as Parquet"):
        cifar(tmp_path)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (encoded(picture(1))[:200], "truncated"),
        (b"no image", "not an image"),
        (None, "no bytes"),
        (encoded(picture(1, 28, 28)), "28x28 pixels, cifar100's have 32x32"),
    ],
)
def test_a_corrupt_image_stops_with_its_row_or_is_left_out_by_name(tmp_path, broken, why):
    images = [encoded(picture(0)), broken, encoded(picture(2))]
    file = tmp_path / "train-00000-of-00001.parquet"
    write_shard(file, [0, 1, 2], images=images)
    with pytest.raises(UserError, match=rf"corrupt image {file} row 1: .*{why}.*--data.max_corrupt COUNT"):
        cifar(tmp_path)
    source = cifar(tmp_path, max_corrupt=1)
    check(source, [0, 2])
    assert len(source.corrupt) == 1
    assert next(iter(source.corrupt)).startswith(f"{file} row 1: ")


def test_a_set_of_nothing_but_corrupt_images_is_an_error(tmp_path):
    write_shard(tmp_path / "train-00000-of-00001.parquet", [0], images=[b"no image"])
    with pytest.raises(UserError, match=r"no image of 1 can be read: .* row 0: not an image"):
        cifar(tmp_path, max_corrupt=1)


@pytest.mark.parametrize("label", [-1, 100, None])
def test_a_label_out_of_range_is_named(tmp_path, label):
    write_shard(tmp_path / "train-00000-of-00001.parquet", [0, 1], labels=[0, label])
    with pytest.raises(UserError, match=rf"row 1 has the fine_label {label}; cifar100's lie in 0 to 99"):
        cifar(tmp_path)


# torchvision's pickles


@pytest.fixture
def small_pickles(monkeypatch):
    """Writes torchvision's files with three train images and one test image, and tells torchvision their checksums."""

    def write(root, name):
        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        key = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
        place = root / kind.base_folder
        place.mkdir(parents=True)

        def dump(file, content):
            data = pickle.dumps(content)
            (place / file).write_bytes(data)
            return hashlib.md5(data).hexdigest()

        def batch(file, seeds):
            flat = np.stack([picture(seed).transpose(2, 0, 1).reshape(-1) for seed in seeds])
            return [file, dump(file, {"data": flat, key: list(seeds)})]

        monkeypatch.setattr(kind, "train_list", [batch("train", [0, 1, 2])])
        monkeypatch.setattr(kind, "test_list", [batch("test", [3])])
        names = [f"{name} class {number}" for number in range(CLASSES[name])]
        checksum = dump(kind.meta["filename"], {kind.meta["key"]: names})
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": checksum})
        return place

    return write


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("depth", ["", "a/b"])
def test_torchvisions_pickles_are_read(tmp_path, small_pickles, name, depth):
    small_pickles(tmp_path / depth, name)
    train = cifar(tmp_path, "train", name)
    check(train, [0, 1, 2])
    check(cifar(tmp_path, "test", name), [3])
    assert train.classes[9] == f"{name} class 9"
    assert train.mean == decoding.STATISTICS[name][0]


def test_a_corrupt_pickle_is_never_opened(tmp_path, small_pickles):
    place = small_pickles(tmp_path, "cifar10")
    (place / "train").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(UserError, match=r"cifar-10-batches-py is incomplete or corrupt; --data.download true"):
        cifar(tmp_path, name="cifar10")


def test_the_other_cifars_pickles_are_named(tmp_path, small_pickles):
    small_pickles(tmp_path, "cifar10")
    with pytest.raises(UserError, match=r"holds cifar10, not the data.dataset 'cifar100'"):
        cifar(tmp_path)


def test_download_fetches_what_is_not_there(tmp_path, small_pickles, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: small_pickles(self.root, "cifar10"))
    check(cifar(tmp_path, name="cifar10", download=True), [0, 1, 2])


def test_a_download_that_fails_is_a_failed_run(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR100, "download", fail)
    with pytest.raises(RunError, match=r"cifar100 could not be downloaded into .*: no network"):
        cifar(tmp_path / "new", download=True)


# Where nothing is


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "folder"])
def test_a_missing_folder_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"data.data_dir: None is not valid; {name} lies in a folder"):
        load_source(DataConfig(dataset=name), "train", 8)
    for path, why in ((tmp_path / "none", "is not a folder"), (tmp_path, "is empty")):
        with pytest.raises(UserError, match=rf"data.data_dir: '{path}' {why}"):
            load_source(DataConfig(dataset=name, data_dir=str(path)), "train", 8)


def test_a_folder_without_a_cifar_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=r"test-\*.parquet with a column 'label' nor cifar-10-batches-py; --data.down"):
        cifar(tmp_path, "test", "cifar10")


# Class folders


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_class_folders_give_classes_in_the_order_of_their_names(tmp_path, test_name):
    write_class_folders(tmp_path / "train", ("bee", "ant"))
    write_class_folders(tmp_path / test_name)
    train, test = folder(tmp_path), folder(tmp_path, "test")
    assert train.classes == test.classes == ("ant", "bee")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.pixels.shape == (4, 3, 8, 8)
    assert train.mean == (0.485, 0.456, 0.406)
    assert not torch.equal(train.pixels, test.pixels)


@pytest.mark.parametrize("size", [(20, 11), (11, 20), (8, 8), (5, 6)])
def test_an_image_is_resized_by_its_shorter_side_and_cropped_at_its_centre(tmp_path, size):
    for split in ("train", "test"):
        write_class_folders(tmp_path / split, ("ant",), size)
    width, height = size
    scale = 8 / min(size)
    image = Image.fromarray(picture(0, *size)).resize(
        (int(width * scale), int(height * scale)), Image.Resampling.BICUBIC
    )
    expected = pil.pil_to_tensor(pil.center_crop(image, [8, 8]))
    assert torch.equal(folder(tmp_path).pixels[0], expected)


def test_any_mode_becomes_rgb(tmp_path):
    write_class_folders(tmp_path / "test", ("ant",), (8, 8))
    (tmp_path / "train/ant").mkdir(parents=True)
    for mode in ("L", "RGBA", "P", "CMYK"):
        kind = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (8, 8), 128 if mode in ("L", "P") else None).save(tmp_path / f"train/ant/{mode}.{kind}")
    assert folder(tmp_path).pixels.shape == (4, 3, 8, 8)


def test_folders_with_other_classes_name_the_difference(tmp_path):
    write_class_folders(tmp_path / "train", ("ant", "bee"))
    write_class_folders(tmp_path / "test", ("ant", "cat"))
    with pytest.raises(UserError, match="differ in 2 classes: bee, cat"):
        folder(tmp_path)


def test_one_differing_class_is_one_class(tmp_path):
    write_class_folders(tmp_path / "train", ("ant", "bee"))
    write_class_folders(tmp_path / "test", ("ant",))
    with pytest.raises(UserError, match="differ in 1 class: bee"):
        folder(tmp_path)


def test_a_wrong_layout_is_told_the_expected_one(tmp_path):
    write_class_folders(tmp_path / "test")
    with pytest.raises(UserError, match=r"has no train folder; expected are train/CLASS/IMAGE and test/CLASS/IMAGE"):
        folder(tmp_path)
    (tmp_path / "test").rename(tmp_path / "train")
    with pytest.raises(UserError, match=r"has no test folder; expected are"):
        folder(tmp_path, "test")


def test_a_class_without_images_is_named(tmp_path):
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "test")
    (tmp_path / "test/cat").mkdir()
    (tmp_path / "train/cat").mkdir()
    with pytest.raises(UserError, match=r"data.data_dir: .*train: .*cat"):
        folder(tmp_path)


def test_folders_need_a_size(tmp_path):
    write_class_folders(tmp_path / "train")
    with pytest.raises(UserError, match=r"data.input_size: None is not valid"):
        folder(tmp_path, size=None)


def test_a_corrupt_file_stops_by_its_path_or_is_left_out_by_name(tmp_path):
    for split in ("train", "test"):
        write_class_folders(tmp_path / split)
    broken = tmp_path / "train/ant/1.png"
    broken.write_bytes(broken.read_bytes()[:-60])
    with pytest.raises(UserError, match=rf"corrupt image {broken}: "):
        folder(tmp_path)
    source = folder(tmp_path, max_corrupt=1)
    assert source.labels.tolist() == [0, 1, 1]
    assert [name.partition(":")[0] for name in source.corrupt] == [str(broken)]
