"""A folder of photos in other forms than train/CLASS and test/CLASS: the hub's Parquet files, and no test part."""

import io
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mixstill.config import DataConfig
from mixstill.data import cut, has_test, load_split, load_splits, measured
from mixstill.data.sources import list_photos
from mixstill.errors import UserError


def picture(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


def write_rows(file, labels, names=None, column="img", shade=0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": picture(shade + 10 * row), "path": None} for row in range(len(labels))]
    table = pa.table({column: pa.array(images), "label": pa.array(labels)})
    if names is not None:
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(table, file)


def config_of(root, **fields) -> DataConfig:
    return DataConfig(dataset="folder", data_dir=str(root), workers=0, **fields)


def write_classes(place, count=10) -> None:
    for name in ("bee", "ant"):
        (place / name).mkdir(parents=True)
        for index in range(count):
            (place / name / f"{index}.png").write_bytes(picture(10 * index))


def test_the_hubs_parquet_files_are_read_with_the_names_of_their_classes(tmp_path) -> None:
    write_rows(tmp_path / "data" / "train-00000-of-00002.parquet", [1, 0, 1], ["zebra", "ape"], shade=0)
    write_rows(tmp_path / "data" / "train-00001-of-00002.parquet", [0], ["zebra", "ape"], shade=100)
    write_rows(tmp_path / "data" / "validation-00000-of-00001.parquet", [1], ["zebra", "ape"], shade=200)
    splits = load_splits(config_of(tmp_path), ["train", "test"], "cpu", 8)
    assert splits["train"].classes == splits["test"].classes == ("zebra", "ape")
    pixels, labels = (torch.cat(parts) for parts in zip(*splits["train"].eval_batches(2), strict=True))
    assert labels.tolist() == [1, 0, 1, 0]
    assert pixels[:, 0, 0, 0].tolist() == [0, 10, 20, 100]
    photos = list_photos(config_of(tmp_path), "train", 8).photos
    assert photos.name(3) == f"{tmp_path / 'data' / 'train-00001-of-00002.parquet'} row 0"
    again = pickle.loads(pickle.dumps(photos))  # as a worker gets it
    assert (again.open(2)[1], again.open(2)[0].getpixel((0, 0))) == (1, (20, 20, 20))


def test_words_are_classes_in_their_order_and_those_of_train_hold_for_test(tmp_path) -> None:
    write_rows(tmp_path / "train-00000-of-00001.parquet", ["dog", "cat", "dog", "emu"], column="picture")
    write_rows(tmp_path / "test-00000-of-00001.parquet", ["emu", "dog"], column="picture")
    splits = load_splits(config_of(tmp_path), ["train", "test"], "cpu", 8)
    assert splits["train"].classes == splits["test"].classes == ("cat", "dog", "emu")
    assert [labels.tolist() for _, labels in splits["test"].eval_batches(9)] == [[2, 1]]
    write_rows(tmp_path / "test-00000-of-00001.parquet", ["emu", "gnu"], column="picture")
    with pytest.raises(UserError, match=r"target_key: 'label' of .* holds 'gnu', which is no class of train: cat, dog"):
        load_split(config_of(tmp_path), "test", "cpu", 8)


def test_numbers_without_names_are_as_many_classes_in_both_parts(tmp_path) -> None:
    write_rows(tmp_path / "train.parquet", [0, 2, 1])
    write_rows(tmp_path / "test.parquet", [0, 1])
    assert load_splits(config_of(tmp_path), ["train", "test"], "cpu", 8)["test"].classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("labels", "fields", "message"),
    [
        (["a", None], {}, r"target_key: 'label' holds 'a', but None in row 1 of train"),
        ([1.5, 2.5], {}, r"target_key: 'label' of .* holds 1.5; labels are class numbers or words"),
        ([0, 1], {"target_key": "kind"}, r"target_key: 'kind' is not valid; .* has the columns img, label"),
        ([0, 1], {"input_key": "label"}, r"input_key: 'label' is not valid; .* has the columns img, label"),
        ([0, -1], {}, r"row 1 has the label -1"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, labels, fields, message) -> None:
    write_rows(tmp_path / "train.parquet", labels)
    with pytest.raises(UserError, match=message):
        load_split(config_of(tmp_path, val_fraction=0.5, **fields), "train", "cpu", 8)


@pytest.mark.parametrize("below", ["", "train"])
def test_without_a_test_folder_a_share_of_train_is_measured_on_if_it_is_asked_for(tmp_path, below) -> None:
    write_classes(tmp_path / below)
    with pytest.raises(UserError, match=r"has no test folder; .*--val-fraction 0.1"):
        load_splits(config_of(tmp_path), measured(config_of(tmp_path)), "cpu", 8)
    left_open, asked = config_of(tmp_path, val_fraction=None), config_of(tmp_path, val_fraction=0.3)
    assert (cut(left_open).val_fraction, cut(asked)) == (0.1, asked)
    assert not has_test(asked)
    assert measured(left_open) == measured(asked) == ["val"]
    splits = load_splits(left_open, ["train", "val"], "cpu", 8)
    assert (len(splits["train"]), len(splits["val"])) == (18, 2)
    assert [labels.tolist() for _, labels in splits["val"].eval_batches(9)] == [[0, 1]]
    again = load_splits(left_open, ["val"], "cpu", 8, seed=5)["val"]
    assert torch.equal(again.ids, splits["val"].ids)  # whatever the run's seed


def test_with_a_test_folder_nothing_is_cut_off_unless_it_is_asked_for(tmp_path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", 1)
    assert cut(config_of(tmp_path, val_fraction=None)).val_fraction == 0
    assert measured(config_of(tmp_path, val_fraction=None)) == ["test"]
    assert measured(config_of(tmp_path, val_fraction=0.1)) == ["val", "test"]


def test_one_folder_of_images_is_no_folder_of_classes(tmp_path) -> None:
    write_classes(tmp_path / "photos" / "train")
    with pytest.raises(UserError, match="has no train folder"):
        load_split(config_of(tmp_path, val_fraction=0.1), "train", "cpu", 8)


def test_samples_that_are_left_out_are_counted(tmp_path) -> None:
    write_classes(tmp_path)
    config = config_of(tmp_path, val_fraction=0.1, samples_per_class=4)
    splits = load_splits(config, ["train", "val"], "cpu", 8)
    assert (len(splits["train"]), splits["train"].left_out, splits["val"].left_out) == (8, 10, 0)
