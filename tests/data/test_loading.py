"""Resident splits: what belongs to each, that it is fixed, and the order of batches."""

import pytest
import torch

from mixstill import rng
from mixstill.config import DataConfig
from mixstill.data import load_source, load_split, load_splits
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
        about = (resident.classes, resident.mean, resident.std, resident.skipped)
        assert about == (source.classes, source.mean, source.std, source.skipped)
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


def test_an_epoch_brings_each_sample_at_most_once_in_the_order_of_its_permutation():
    train = digits(val_fraction=0.1)
    assert train.steps_per_epoch(100) == len(train) // 100
    batches = [train.batch_ids(3, 4, step, 100) for step in range(train.steps_per_epoch(100))]
    order = rng.permutation(3, rng.Domain.ORDER, 4, len(train))
    assert torch.equal(torch.cat(batches), train.ids[order][: 100 * len(batches)])
    assert len(torch.cat(batches).unique()) == 100 * len(batches)


def test_batches_do_not_depend_on_what_was_asked_before():
    train = digits()
    asked = [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 1)]
    first, *others, again = [train.batch_ids(*key, 64) for key in asked]
    assert torch.equal(first, again)
    assert not any(torch.equal(first, other) for other in others)


def test_a_set_smaller_than_the_batch_is_one_batch_of_all():
    few = digits(samples_per_class=2)
    assert few.steps_per_epoch(64) == 1
    assert torch.equal(few.batch_ids(0, 0, 0, 64).sort().values, few.ids)


def test_a_step_beyond_the_epoch_is_an_error():
    with pytest.raises(IndexError, match="step 12 of an epoch of 12 steps"):
        digits().batch_ids(0, 0, 12, 100)


def test_evaluation_sees_every_sample_once_in_order():
    test = digits("test")
    batches = list(test.eval_batches(100))
    assert [len(ids) for ids in batches] == [100] * 5 + [96]
    assert torch.equal(torch.cat(batches), test.ids)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_batches_of_the_cpu():
    there = load_split(DataConfig(), "train", "cuda", None)
    assert torch.equal(there.batch_ids(1, 2, 3, 64).cpu(), digits().batch_ids(1, 2, 3, 64))
