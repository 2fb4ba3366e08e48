"""Random erasing against timm's for the same draws, its distributions, its noise, and what it does not depend on."""

from unittest.mock import patch

import pytest
import torch
from scipy import stats
from timm.data.random_erasing import RandomErasing

from mixstill import rng
from mixstill.config import ViewsConfig
from mixstill.views import erase
from mixstill.views.erasing import draw_boxes, noise

ALWAYS = ViewsConfig(reprob=1.0)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def timm_mask(words, config, height, width):
    """Which pixels timm erases when its draws are these words: bool [H, W]."""
    unit = [(word + 0.5) / 2**32 for word in words]
    # timm draws for each attempt an area and an aspect ratio, and only for the one that fits its place.
    state = {"box": -1, "attempt": 9, "at": 0}

    def uniform(low, high):
        if state["at"] % 2 == 0:
            state["attempt"] += 1
            if state["attempt"] == 10:
                state.update(box=state["box"] + 1, attempt=0)
        which = state["at"] % 2
        state["at"] += 1
        return low + (high - low) * unit[4 + 4 * (10 * state["box"] + state["attempt"]) + which]

    def randint(low, high):
        if state["box"] < 0:
            return low + words[1] * (high - low + 1) // 2**32  # how many boxes
        place = 2 + state.setdefault("placed", 0) % 2
        state["placed"] += 1
        word = words[4 + 4 * (10 * state["box"] + state["attempt"]) + place]
        if place == 3:
            state["attempt"] = 9  # the next area belongs to the next box
        return low + word * (high - low + 1) // 2**32

    image = torch.ones(3, height, width)
    with patch("random.random", lambda: unit[0]), patch("random.uniform", uniform), patch("random.randint", randint):
        RandomErasing(config.reprob, mode="const", max_count=config.recount, device="cpu")(image)
    return image[0] == 0


@pytest.mark.parametrize("config", [ALWAYS, ViewsConfig(reprob=0.6, recount=3), ViewsConfig(reprob=0.9, recount=5)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 12)])
def test_the_boxes_are_timms_for_the_same_draws(config, height, width):
    ids = torch.arange(60) * 31
    ours = erase(torch.ones(60, 3, height, width), ids, zeros(60) + 1, config_with(config, "const"), 3, 4)
    words = rng.bits(3, rng.Domain.ERASE, 4, ids, 4 + 40 * config.recount, zeros(60) + 1)
    expected = torch.stack([timm_mask(row, config, height, width) for row in words.tolist()])
    assert torch.equal(ours == 0, expected.unsqueeze(1).expand(-1, 3, -1, -1))


def config_with(config, mode):
    return ViewsConfig(reprob=config.reprob, recount=config.recount, remode=mode)


def test_share_area_and_aspect_are_distributed_as_timms():
    n, side = 3000, 64
    boxes = draw_boxes(torch.arange(n), zeros(n), ViewsConfig(reprob=0.25), 0, 0, side, side)
    assert stats.binomtest(len(boxes.samples), n, 0.25).pvalue > 1e-3
    boxes = draw_boxes(torch.arange(n), zeros(n), ALWAYS, 1, 0, side, side)
    torch.manual_seed(0)
    timm = RandomErasing(1.0, mode="const", device="cpu")
    masks = [timm(torch.ones(1, side, side))[0] == 0 for _ in range(1000)]
    heights = torch.tensor([int(mask.any(1).sum()) for mask in masks]).double()
    widths = torch.tensor([int(mask.any(0).sum()) for mask in masks]).double()
    ours = boxes.height.double(), boxes.width.double()
    for value in (lambda h, w: h * w, lambda h, w: h / w):
        assert stats.ks_2samp(value(*ours), value(heights, widths)).pvalue > 1e-3
    assert stats.kstest(((boxes.top + torch.rand(n)) / (side - boxes.height + 1)).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(((boxes.left + torch.rand(n)) / (side - boxes.width + 1)).numpy(), "uniform").pvalue > 1e-3


def test_pixels_in_a_box_are_normal_noise_and_the_others_stay():
    images = torch.full((64, 3, 32, 32), 7.0)
    erased = erase(images, torch.arange(64), zeros(64), ALWAYS, 0, 0)
    assert erased is images
    inside = erased != 7
    assert torch.equal(inside.any(1), inside.all(1))  # of all channels or none
    values = erased.permute(0, 2, 3, 1)[inside.all(1)]
    assert len(values) > 5000
    for channel in values.unbind(1):
        assert stats.kstest(channel.numpy(), "norm").pvalue > 1e-3
    assert torch.corrcoef(values.T).fill_diagonal_(0).abs().max() < 0.03


def test_the_noise_of_a_pixel_is_a_draw_of_its_place():
    words = rng.bits(5, rng.Domain.NOISE, 6, torch.tensor([17]), 4 * 9, torch.tensor([2]))[0, -4:] >> 8
    u = (words[::2] + 1).double() * 2.0**-24
    angle = 2 * torch.pi * words[1::2].double() * 2.0**-24
    radius = torch.sqrt(-2 * torch.log(u))
    expected = torch.stack([radius[0] * angle[0].cos(), radius[0] * angle[0].sin(), radius[1] * angle[1].cos()])
    one = noise(torch.tensor([17]), torch.tensor([2]), torch.tensor([8]), 5, 6)[:, 0]
    torch.testing.assert_close(one.double(), expected, rtol=0, atol=1e-5)


def test_mode_rand_is_one_colour_per_box_and_mode_const_is_zero():
    config = ViewsConfig(reprob=1.0, recount=2, remode="rand")
    images = erase(torch.full((200, 3, 16, 16), 7.0), torch.arange(200), zeros(200), config, 0, 0)
    colours = [image.flatten(1).unique(dim=1).T for image in images]
    colours = [pixels[(pixels != 7).all(1)] for pixels in colours]
    assert {len(pixels) for pixels in colours} <= {0, 1, 2}
    assert sum(len(pixels) == 2 for pixels in colours) > 50
    assert stats.kstest(torch.cat(colours).flatten().numpy(), "norm").pvalue > 1e-3
    images = erase(torch.full((9, 3, 16, 16), 7.0), torch.arange(9), zeros(9), config_with(ALWAYS, "const"), 0, 0)
    assert set(images.unique().tolist()) == {0.0, 7.0}


def test_resplit_leaves_the_first_repeat_clean():
    config = ViewsConfig(reprob=1.0, resplit=True, aug_repeats=3)
    repeats = torch.arange(30) % 3
    images = erase(torch.full((30, 3, 32, 32), 7.0), torch.arange(30) // 3, repeats, config, 0, 0)
    touched = (images != 7).flatten(1).any(1)
    assert not touched[repeats == 0].any()
    assert touched[repeats > 0].all()


def test_without_erasing_nothing_changes():
    images = torch.full((4, 3, 8, 8), 7.0)
    assert erase(images, torch.arange(4), zeros(4), ViewsConfig(), 0, 0) is images
    assert (erase(images, torch.arange(4), zeros(4), ViewsConfig(reprob=1e-9), 0, 0) == 7).all()


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_boxes_of_no_pixels_erase_none(mode):
    images = torch.full((1, 3, 2, 2), 7.0)
    sizes = set()
    for epoch in range(40):
        boxes = draw_boxes(zeros(1), zeros(1), ALWAYS, 0, epoch, 2, 2)
        sizes |= set((boxes.height * boxes.width).tolist())
        erase(images, zeros(1), zeros(1), config_with(ALWAYS, mode), 0, epoch)
    assert 0 in sizes


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_what_is_erased_depends_on_seed_epoch_id_and_repeat_only(mode):
    config = ViewsConfig(reprob=0.7, recount=2, remode=mode)

    def erased(ids, repeats, seed=0, epoch=0):
        return erase(torch.full((len(ids), 3, 24, 24), 7.0), ids, repeats, config, seed, epoch)

    ids, repeats = torch.arange(20), torch.arange(20) % 2
    whole = erased(ids, repeats)
    some = torch.tensor([11, 4, 4, 19])
    assert torch.equal(erased(some, repeats[some]), whole[some])
    for other in (erased(ids, repeats, seed=1), erased(ids, repeats, epoch=1), erased(ids, 1 - repeats)):
        assert not torch.equal(other, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_erases_as_the_cpu():
    images, config = torch.full((32, 3, 32, 32), 7.0), ViewsConfig(reprob=0.7, recount=2)
    there = erase(images.cuda(), torch.arange(32), zeros(32), config, 0, 0).cpu()
    torch.testing.assert_close(there, erase(images, torch.arange(32), zeros(32), config, 0, 0), rtol=0, atol=1e-5)
