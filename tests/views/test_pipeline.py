"""Whole views against a slow loop over samples with the same draws, their order, and what they do not depend on."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torchvision.transforms import functional as pil

from mixstill import rng
from mixstill.config import ViewsConfig
from mixstill.errors import UserError
from mixstill.views import check, normalise, pipeline, resize, to_float, train_views

MEAN = (0.485, 0.456, 0.406)
RECIPES = {
    "pad": ViewsConfig(vflip=0.3),
    "deit": ViewsConfig(crop="rrc", aa="rand-m9-mstd0.5-inc1", color_jitter=0.3, interpolation="random"),
    "deit3": ViewsConfig(crop="src", aa="3a", color_jitter=0.3),
    "jitter": ViewsConfig(pad=2, color_jitter=0.4),
    "weighted": ViewsConfig(aa="rand-m5-n3-p0.8-mstd101-t3aw", color_jitter=0.4),
}


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def views_of(pixels, config, seed=0, epoch=0, ids=None, repeats=None, **options):
    ids = torch.arange(len(pixels)) if ids is None else ids
    repeats = zeros(len(pixels)) if repeats is None else repeats
    return train_views(pixels, ids, repeats, config, seed, epoch, **({"size": 16, "mean": MEAN} | options))


def random_pixels(n=12, height=9, width=11):
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def one_view(image, sample, pad, hflip, seed, epoch):
    """Pad, crop and flip one image as torchvision does, from the draws 0, 1 and 2 of its id."""
    row, column, flip = rng.bits(seed, rng.Domain.VIEW, epoch, torch.tensor([sample]), 3)[0].tolist()
    top, left = row * (2 * pad + 1) // 2**32, column * (2 * pad + 1) // 2**32
    crop = pil.crop(F.pad(image, (pad,) * 4), top, left, *image.shape[-2:])
    return pil.hflip(crop) if flip / 2**32 < hflip else crop


@pytest.mark.parametrize("pad", [0, 1, 4, 12])
@pytest.mark.parametrize("hflip", [0.0, 0.5, 1.0])
def test_a_batch_of_views_equals_the_loop_over_samples_bit_for_bit(pad, hflip):
    pixels, ids = random_pixels(), torch.arange(12) * 977
    views = views_of(pixels, ViewsConfig(pad=pad, hflip=hflip), 3, 5, ids)
    slow = [one_view(image, i, pad, hflip, 3, 5) for image, i in zip(pixels, ids.tolist(), strict=True)]
    assert views.dtype == torch.uint8
    assert torch.equal(views, torch.stack(slow))


def test_without_padding_and_flip_a_view_is_the_image():
    pixels = random_pixels()
    assert torch.equal(views_of(pixels, ViewsConfig(pad=0, hflip=0)), pixels)
    assert torch.equal(to_float(pixels), pixels.float() / 255)


@pytest.mark.parametrize(("hflip", "word", "flipped"), [(1.0, 2**32 - 1, True), (0.0, 0, False)])
def test_certain_flips_hold_for_the_extreme_draws(monkeypatch, hflip, word, flipped):
    monkeypatch.setattr(rng, "bits", lambda *_: torch.full((12, 4), word))
    pixels = random_pixels()
    views = views_of(pixels, ViewsConfig(pad=0, hflip=hflip))
    assert torch.equal(views, pixels.flip(3) if flipped else pixels)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("cropped", [False, True])
def test_a_view_depends_on_seed_epoch_id_and_repeat_only(name, cropped):
    config, pixels, ids, repeats = RECIPES[name], random_pixels(20, 16, 16), torch.arange(20) * 13, torch.arange(20) % 3
    before = pixels.clone()
    whole = views_of(pixels, config, 1, 2, ids, repeats, cropped=cropped)
    some = torch.tensor([7, 3, 3, 11, 19])
    assert torch.equal(views_of(pixels[some], config, 1, 2, ids[some], repeats[some], cropped=cropped), whole[some])
    assert torch.equal(pixels, before)
    others = ((0, 2, ids, repeats), (1, 0, ids, repeats), (1, 2, ids + 1, repeats), (1, 2, ids, repeats + 1))
    for other in others:
        same = (views_of(pixels, config, *other, cropped=cropped) == whole).flatten(1).all(1)
        assert same.sum() < (12 if name == "pad" and cropped else 8)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 31)])
def test_views_have_the_size_that_the_crop_gives(name, height, width):
    config, pixels = RECIPES[name], random_pixels(8, height, width)
    views = views_of(pixels, config, size=20)
    assert views.dtype == torch.uint8
    assert views.shape == ((8, 3, height, width) if config.crop == "pad" else (8, 3, 20, 20))


def test_views_that_the_loader_cropped_are_flipped_as_those_that_it_did_not():
    config, pixels = ViewsConfig(crop="rrc", scale=(1.0, 1.0), ratio=(1.0, 1.0)), random_pixels(40, 16, 16)
    whole = views_of(pixels, config)  # the one crop of all that there is keeps the image
    assert torch.equal(views_of(pixels, config, cropped=True), whole)
    assert not torch.equal(whole, pixels)


def names_of_stages(config):
    """Which stages the pixels go through, in their order."""
    seen = []
    stages = [(pipeline.crops, "crop"), (pipeline.crops, "flip"), (pipeline.randaugment, "apply")]
    stages += [(pipeline.jitter, "three_augment"), (pipeline.jitter, "color_jitter")]
    patches = [
        patch.object(module, name, lambda pixels, *_, name=name: (seen.append(name), pixels)[1])
        for module, name in stages
    ]
    for one in patches:
        one.start()
    views_of(random_pixels(), config)
    for one in patches:
        one.stop()
    return seen


def test_the_stages_are_timms_and_jitter_is_off_beside_randaugment():
    rand = "rand-m9-mstd0.5-inc1"
    assert names_of_stages(ViewsConfig()) == ["crop", "flip"]
    assert names_of_stages(ViewsConfig(color_jitter=0.3)) == ["crop", "flip", "color_jitter"]
    assert names_of_stages(ViewsConfig(aa=rand)) == ["crop", "flip", "apply"]
    assert names_of_stages(ViewsConfig(aa=rand, color_jitter=0.3)) == ["crop", "flip", "apply"]
    assert names_of_stages(ViewsConfig(aa="rand-t3a", color_jitter=0.3)) == ["crop", "flip", "apply", "color_jitter"]
    assert names_of_stages(ViewsConfig(aa="3a")) == ["crop", "flip", "three_augment"]
    assert names_of_stages(ViewsConfig(aa="3a", color_jitter=0.3)) == ["crop", "flip", "three_augment", "color_jitter"]


def test_geometric_operations_fill_with_the_mean_rounded_as_timm_does():
    white = torch.full((400, 3, 16, 16), 255, dtype=torch.uint8)
    views = views_of(white, ViewsConfig(pad=0, aa="rand-m10-n1-p1-t3aw"), mean=(0.2, 0.5, 1.0))
    corners = views[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].permute(0, 2, 1).reshape(-1, 3)
    assert (corners == torch.tensor([51, 128, 255], dtype=torch.uint8)).all(1).any()


def test_check_says_what_is_wrong_with_a_policy():
    for config in RECIPES.values():
        check(config)
    with pytest.raises(UserError, match=r"views\.aa"):
        check(ViewsConfig(aa="rand-x3"))


def test_offsets_and_flips_are_uniform():
    """Read off the views themselves: a single lit pixel in the middle lands where the draws put it."""
    n, pad, side = 8100, 1, 6
    pixels = torch.zeros(n, 3, side, side, dtype=torch.uint8)
    pixels[:, :, 2, 1] = 255
    views = views_of(pixels, ViewsConfig(pad=pad, hflip=0.5))
    places = views[:, 0].flatten(1).int().argmax(1)
    rows, columns = places // side, places % side
    # Rows 1..3; columns 0..2 unflipped, 3..5 flipped: 18 places, all as likely.
    counts = torch.bincount((rows - 1) * side + columns, minlength=18)
    assert len(counts) == 18
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_normalise_subtracts_and_divides_by_channel():
    images = to_float(random_pixels())
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    normal = normalise(images, mean, std)
    for channel in range(3):
        expected = (images[:, channel].double() - mean[channel]) / std[channel]
        torch.testing.assert_close(normal[:, channel].double(), expected, rtol=0, atol=1e-6)


def test_resize_keeps_an_image_of_its_size_and_its_range():
    images = (torch.arange(64) % 2).float().view(1, 1, 8, 8).expand(2, 3, 8, 8)
    assert resize(images, 8) is images
    for size in (4, 20):
        scaled = resize(images, size)
        assert scaled.shape == (2, 3, size, size)
        assert scaled.min() >= 0
        assert scaled.max() <= 1


def test_resize_agrees_with_pillow():
    image = random_pixels(1, 16, 16)[0] // 2 + 64  # far from the ends, where Pillow clips between its two passes
    for size in (8, 28):
        pillow = pil.pil_to_tensor(pil.resize(pil.to_pil_image(image), [size], pil.InterpolationMode.BICUBIC))
        ours = resize(to_float(image).unsqueeze(0), size)[0] * 255
        assert (ours - pillow.float()).abs().max() < 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", RECIPES)
def test_cuda_gives_the_views_of_the_cpu(name):
    pixels, config = random_pixels(200, 16, 16), RECIPES[name]
    there = pixels.cuda()
    views_of(there, config)  # the first batch brings constants over
    torch.cuda.set_sync_debug_mode("error")  # nothing waits for the device
    try:
        there = views_of(there, config)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (there.cpu().int() - views_of(pixels, config).int()).abs()
    assert (difference > 1).float().mean() < 1e-3
    assert (difference > 0).float().mean() < 1e-2
