"""Batches: a pure function of (seed, epoch, index), put together as the data package's parts say."""

import pytest
import torch

from mixstill.data import draw_mix, load_split
from mixstill.train.batch import Batches


def make(tiny, options=None) -> Batches:
    config = tiny(options)
    data = load_split(config.data, "train", "cpu", None)
    return Batches(data, config, config.data.input_size or 8)


def standardised(data, images):
    return (images - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(3, 1, 1)


def test_steps_are_whole_batches_over_all_epochs(tiny) -> None:
    batches = make(tiny, {"train.batch_size": 12, "train.epochs": 5})
    assert len(batches.data) == 40
    assert (batches.per_epoch, batches.total) == (3, 15)


def test_without_views_a_batch_is_its_samples_standardised(tiny) -> None:
    batches = make(tiny, {"views.pad": 0, "views.hflip": 0.0})
    data = batches.data
    ids = data.batch_ids(0, 1, 2, 10)
    images, targets = batches.get(1, 2)
    torch.testing.assert_close(images, standardised(data, data.pixels[ids].float() / 255))
    assert torch.equal(targets, torch.nn.functional.one_hot(data.labels[ids], 10).float())


@pytest.mark.parametrize("mixing", [{"views.mixup": 0.8}, {"views.cutmix": 1.0}])
def test_a_mixed_batch_is_the_plain_one_mixed_with_its_reverse(tiny, mixing) -> None:
    plain, mixed = make(tiny), make(tiny, mixing)
    (images, targets), (blended, shares) = plain.get(0, 1), mixed.get(0, 1)
    mix = draw_mix(mixed.config.views, 0, 0, 1, 8, 8)
    assert 0 < mix.lam < 1
    torch.testing.assert_close(shares, mix.lam * targets + (1 - mix.lam) * targets.flip(0))
    if mix.box is None:
        torch.testing.assert_close(blended, mix.lam * images + (1 - mix.lam) * images.flip(0))
    else:
        top, bottom, left, right = mix.box
        expected = images.clone()
        expected[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
        assert torch.equal(blended, expected)


def test_a_batch_depends_on_seed_epoch_and_index_alone(tiny) -> None:
    options = {"views.mixup": 0.8}
    images, targets = make(tiny, options).get(1, 2)
    torch.manual_seed(99)
    again = make(tiny, options)
    again.get(0, 0)
    assert torch.equal(again.get(1, 2)[0], images)
    assert torch.equal(again.get(1, 2)[1], targets)
    for other in (again.get(0, 2), again.get(1, 1), make(tiny, options | {"train.seed": 1}).get(1, 2)):
        assert not torch.equal(other[0], images)


def test_an_epoch_takes_each_sample_once(tiny) -> None:
    batches = make(tiny)
    ids = torch.cat([batches.data.batch_ids(0, 0, index, 10) for index in range(batches.per_epoch)])
    assert sorted(ids.tolist()) == batches.data.ids.tolist()


def test_images_are_brought_to_the_students_size_before_they_are_mixed(tiny) -> None:
    images, _ = make(tiny, {"data.input_size": 16, "views.cutmix": 1.0}).get(0, 0)
    assert images.shape == (10, 3, 16, 16)


def test_the_sample_of_an_epoch_is_of_unmixed_views_in_an_order_of_its_own(tiny) -> None:
    batches = make(tiny, {"views.mixup": 0.8, "views.pad": 0, "views.hflip": 0.0})
    data, sample = batches.data, batches.sample(0)
    everything = standardised(data, data.pixels[data.ids].float() / 255)
    distance = (sample.unsqueeze(1) - everything.unsqueeze(0)).abs().amax(dim=(2, 3, 4))
    assert sample.shape == (10, 3, 8, 8)
    assert (distance.amin(dim=1) < 1e-5).all()
    assert len(set(distance.argmin(dim=1).tolist())) == 10
    assert torch.equal(sample, batches.sample(0))
    assert not torch.equal(sample, batches.sample(1))
