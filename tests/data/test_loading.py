"""Resident splits: what belongs to each, that it is fixed, and what a request gets of it."""

import pytest
import torch

from mixstill.config import DataConfig
from mixstill.data import Request, load_source, load_split, load_splits
from mixstill.errors import UserError


def digits(split="train", **fields):
    return load_split(DataConfig(**fields), split, "cpu", None)


def per_class(resident):
    return torch.bincount(resident.labels[resident.ids], minlength=10).tolist()


def test_a_split_is_what_its_source_holds():
    for split in ("train", "test"):
        resident, source = digits(split), load_source(DataConfig(), split, None)
        assert torch.equal(resident.pixels[resident.ids], source.pixels)
        assert torch.equal(resident.labels[resident.ids], source.labels)
        about = (resident.classes, resident.mean, resident.std, list(resident.corrupt))
        assert about == (source.classes, source.mean, source.std, list(source.corrupt))
        assert len(resident) == len(source.labels)


def test_train_and_validation_part_the_source_by_class():
    splits = load_splits(DataConfig(val_fraction=0.1), ["train", "val", "test"], "cpu", None)
    assert list(splits) == ["train", "val", "test"]
    train, val = splits["train"], splits["val"]
    assert torch.cat([train.ids, val.ids]).sort().values.tolist() == list(range(len(digits())))
    assert per_class(val) == [round(0.1 * count) for count in per_class(digits())]
    assert train.pixels.data_ptr() == val.pixels.data_ptr()
    assert torch.equal(val.ids, val.ids.sort().values)
    assert torch.equal(train.ids, train.ids.sort().values)


def test_each_class_gets_into_validation_and_stays_in_train():
    assert per_class(digits("val", val_fraction=0.001)) == [1] * 10
    assert per_class(digits("train", val_fraction=0.999)) == [1] * 10


def test_the_splits_of_two_loads_are_the_same_whatever_is_asked_besides():
    alone = digits("val", val_fraction=0.2)
    with_subset = load_splits(DataConfig(val_fraction=0.2, samples_per_class=5), ["val", "train"], "cpu", None)
    assert torch.equal(alone.ids, with_subset["val"].ids)
    assert not torch.isin(with_subset["train"].ids, alone.ids).any()


def test_the_subset_has_so_many_of_each_class_and_grows_by_adding():
    few, more = digits(samples_per_class=5), digits(samples_per_class=20)
    assert per_class(few) == [5] * 10
    assert per_class(more) == [20] * 10
    assert torch.isin(few.ids, more.ids).all()


def test_a_subset_larger_than_a_class_names_both_counts():
    with pytest.raises(UserError, match=r"data.samples_per_class: 119 is not valid; class '2' has only 118 in train"):
        digits(samples_per_class=119)


def test_validation_needs_a_fraction_and_a_split_a_known_name():
    with pytest.raises(UserError, match=r"data.val_fraction: 0.0"):
        digits("val")
    with pytest.raises(UserError, match=r"split: unknown value 'valid'; did you mean 'val'"):
        digits("valid")


def test_a_request_gets_its_images_in_its_order():
    train = digits(val_fraction=0.1)
    wanted = [train.ids[[5, 3, 3]], train.ids[[0]]]
    loaded = list(train.load(Request(ids, torch.zeros_like(ids), 0) for ids in wanted))
    for ids, (pixels, labels) in zip(wanted, loaded, strict=True):
        assert torch.equal(pixels, train.pixels[ids])
        assert torch.equal(labels, train.labels[ids])


@pytest.mark.parametrize("count", [1, 3])
def test_evaluation_sees_every_sample_once_over_the_ranks(count):
    test = digits("test")
    seen = [labels for rank in range(count) for _, labels in test.eval_batches(100, rank, count)]
    assert max(len(labels) for labels in seen) == 100
    expected = [test.labels[test.ids[rank::count]] for rank in range(count)]
    assert torch.equal(torch.cat(seen), torch.cat(expected))


def test_a_rank_without_samples_sees_none():
    assert list(digits("test").eval_batches(8, rank=600, count=601)) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resident": False}, r"data.resident: False is not valid; digits is always held in memory"),
        ({"dataset": "wds/x", "resident": True}, r"data.resident: True is not valid; wds/x can only be read one after"),
    ],
)
def test_what_cannot_be_resident_or_streamed_is_told(fields, message):
    with pytest.raises(UserError, match=message):
        digits(**fields)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_batches_of_the_cpu():
    request = [Request(torch.arange(7), torch.zeros(7, dtype=torch.int64), 0)]
    ((there, labels),) = load_split(DataConfig(), "train", "cuda", None).load(request)
    ((here, same),) = digits().load(request)
    assert torch.equal(there.cpu(), here)
    assert torch.equal(labels.cpu(), same)
