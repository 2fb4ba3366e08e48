"""Batches: a pure function of (seed, epoch, index), put together as the data package's parts say."""

from dataclasses import replace

import pytest
import torch

from mixstill import rng
from mixstill.data import load_split
from mixstill.train.batch import Batches, shards
from mixstill.train.processes import ALONE, Processes
from mixstill.views import draw_mix


def make(tiny, options=None, processes=ALONE) -> Batches:
    config = tiny(options)
    data = load_split(config.data, "train", "cpu", None)
    return Batches(data, config, config.data.input_size or 8, processes)


def get(batches, epoch, index):
    (part,) = batches.get(epoch, index)
    return part.images, part.targets


def asked_for(batches) -> tuple[list[int], list[int]]:
    """The ids and repeats of an epoch, in order."""

    class Asked:
        def __getattr__(self, name):
            return getattr(batches.data, name)

        def __len__(self):
            return len(batches.data)

        def load(self, requests):
            self.requests = list(requests)
            return batches.data.load(self.requests)

    asked = Asked()
    for parts in replace(batches, data=asked).run(0, batches.per_epoch):
        list(parts)
    ids = torch.cat([request.ids for request in asked.requests])
    return ids.tolist(), torch.cat([request.repeats for request in asked.requests]).tolist()


def standardised(data, images):
    return (images - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(3, 1, 1)


def test_steps_are_whole_batches_over_all_epochs(tiny) -> None:
    batches = make(tiny, {"train.batch_size": 12, "train.epochs": 5})
    assert len(batches.data) == 40
    assert (batches.per_epoch, batches.total) == (3, 15)


def test_without_views_a_batch_is_its_samples_standardised(tiny) -> None:
    batches = make(tiny, {"views.pad": 0, "views.hflip": 0.0})
    data = batches.data
    ids = data.ids[rng.permutation(0, rng.Domain.ORDER, 1, 40)[20:30]]
    images, targets = get(batches, 1, 2)
    torch.testing.assert_close(images, standardised(data, data.pixels[ids].float() / 255))
    assert torch.equal(targets, torch.nn.functional.one_hot(data.labels[ids], 10).float())


@pytest.mark.parametrize("mixing", [{"views.mixup": 0.8}, {"views.cutmix": 1.0}])
def test_a_mixed_batch_is_the_plain_one_mixed_with_its_reverse(tiny, mixing) -> None:
    plain, mixed = make(tiny), make(tiny, mixing)
    (images, targets), (blended, shares) = get(plain, 0, 1), get(mixed, 0, 1)
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
    images, targets = get(make(tiny, options), 1, 2)
    torch.manual_seed(99)
    again = make(tiny, options)
    again.get(0, 0)
    assert torch.equal(get(again, 1, 2)[0], images)
    assert torch.equal(get(again, 1, 2)[1], targets)
    for other in (get(again, 0, 2), get(again, 1, 1), get(make(tiny, options | {"train.seed": 1}), 1, 2)):
        assert not torch.equal(other[0], images)


def test_an_epoch_takes_each_sample_once(tiny) -> None:
    ids, repeats = asked_for(make(tiny))
    assert sorted(ids) == make(tiny).data.ids.tolist()
    assert repeats == [0] * 40


def test_repeated_augmentation_gives_several_views_of_fewer_samples(tiny) -> None:
    ids, repeats = asked_for(make(tiny, {"views.aug_repeats": 3}))
    assert len(ids) == 40
    assert len(set(ids)) == 14  # each sample three times, the last one as often as there is room
    assert repeats == ([0, 1, 2] * 14)[:40]
    assert all(len(set(ids[at : at + 3])) == 1 for at in range(0, 39, 3))
    images, _ = get(make(tiny, {"views.aug_repeats": 3}), 0, 0)
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("batch", [2, 7, 10, 64, 129])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shards_are_a_partition_into_parts_that_are_their_own_mirror_image(batch, count) -> None:
    if batch // 2 < count:
        pytest.skip("fewer pairs than parts")
    parts = shards(batch, count)
    assert sorted(torch.cat(parts).tolist()) == list(range(batch))
    for part in parts:
        assert part.tolist() == sorted(part.tolist())
        assert (batch - 1 - part.flip(0)).tolist() == part.tolist()
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 3
    assert len(set(sizes)) == 1 or batch % (2 * count)


@pytest.mark.parametrize("options", [{"views.mixup": 0.8}, {"views.cutmix": 1.0}, {}])
@pytest.mark.parametrize(("count", "most"), [(1, 3), (2, None), (2, 2), (4, None)])
def test_parts_put_together_are_the_whole_batch(tiny, options, count, most) -> None:
    whole = make(tiny, options | {"train.batch_size": 20})
    images, targets = get(whole, 0, 1)
    found = [
        part
        for rank in range(count)
        for part in make(
            tiny, options | {"train.batch_size": 20, "train.device_batch_size": most}, Processes(rank, count)
        ).get(0, 1)
    ]
    rows = torch.cat([part.rows for part in found])
    assert sorted(rows.tolist()) == list(range(20))
    assert torch.equal(torch.cat([part.images for part in found]), images[rows])
    assert torch.equal(torch.cat([part.targets for part in found]), targets[rows])
    assert sum(part.share for part in found) == pytest.approx(1)
    if most is not None:
        assert max(len(part.rows) for part in found) <= most + 1


def test_the_order_of_a_pass_sorts_what_its_processes_have(tiny) -> None:
    batches = make(tiny, {"train.device_batch_size": 2}, Processes(0, 2))
    assert batches.passes == 2
    for number, part in enumerate(batches.get(0, 0)):
        gathered = torch.cat(batches.rows(number))
        assert part.sizes == tuple(map(len, batches.rows(number)))
        assert gathered[part.order].tolist() == sorted(gathered.tolist())
        assert part.pass_share == len(gathered) / 10


@pytest.mark.parametrize(("count", "most"), [(1, None), (1, 4), (2, 2), (3, 1)])
def test_a_request_tells_how_many_samples_the_process_had_before(tiny, count, most) -> None:
    for rank in range(count):
        options = {"train.batch_size": 13, "train.device_batch_size": most}
        batches, had = make(tiny, options, Processes(rank, count)), 0
        for index in range(batches.per_epoch):
            for part in range(batches.passes):
                request = batches._request(1, index, part)
                assert request.before == had
                had += len(request.ids)


def test_what_cannot_be_split_evenly_is_said(tiny) -> None:
    (left,) = make(tiny).about()
    assert left.startswith("data.samples_per_class 4: ")
    even = make(tiny, {"train.batch_size": 16, "train.device_batch_size": 4}, Processes(0, 2))
    assert even.about()[1:] == ["a batch of 16 is worked on by 2 processes in 2 passes, 4 samples at once"]
    uneven = make(tiny, {"train.batch_size": 15, "train.device_batch_size": 4}, Processes(0, 2))
    assert uneven.about()[2:] == [
        "warning: a batch of 15 does not split evenly over 2 processes in 2 passes: parts of [3, 4]"
    ]
    few = make(tiny, {"train.batch_size": 8, "train.device_batch_size": 1}, Processes(0, 2))
    assert few.about()[2:] == ["warning: train.device_batch_size 1 cannot be kept: 2 samples at once"]


def test_images_are_brought_to_the_students_size_before_they_are_mixed(tiny) -> None:
    images, _ = get(make(tiny, {"data.input_size": 16, "views.cutmix": 1.0}), 0, 0)
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
