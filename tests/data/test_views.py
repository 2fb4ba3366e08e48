"""Views against a slow loop over samples with the same draws, their distribution, and what they do not depend on."""

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torchvision.transforms import functional as pil

from mixstill import rng
from mixstill.config import ViewsConfig
from mixstill.data import normalise, resize, to_float, train_views


def random_pixels(n=12, height=9, width=11):
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def one_view(image, sample, pad, hflip, seed, epoch):
    """Pad, crop and flip one image as torchvision does, from the draws 0, 1 and 2 of its id."""
    row, column, flip = rng.bits(seed, rng.Domain.VIEW, epoch, torch.tensor([sample]), 3)[0].tolist()
    top, left = row * (2 * pad + 1) // 2**32, column * (2 * pad + 1) // 2**32
    crop = pil.crop(F.pad(image, (pad,) * 4), top, left, *image.shape[-2:])
    return (pil.hflip(crop) if flip / 2**32 < hflip else crop).float() / 255


@pytest.mark.parametrize("pad", [0, 1, 4, 12])
@pytest.mark.parametrize("hflip", [0.0, 0.5, 1.0])
def test_a_batch_of_views_equals_the_loop_over_samples_bit_for_bit(pad, hflip):
    pixels, ids = random_pixels(), torch.arange(12) * 977
    views = train_views(pixels, ids, ViewsConfig(pad=pad, hflip=hflip), seed=3, epoch=5)
    slow = [one_view(image, i, pad, hflip, 3, 5) for image, i in zip(pixels, ids.tolist(), strict=True)]
    assert views.dtype == torch.float32
    assert torch.equal(views, torch.stack(slow))


def test_without_padding_and_flip_a_view_is_the_image():
    pixels = random_pixels()
    views = train_views(pixels, torch.arange(12), ViewsConfig(pad=0, hflip=0), 0, 0)
    assert torch.equal(views, to_float(pixels))
    assert torch.equal(to_float(pixels), pixels.float() / 255)


@pytest.mark.parametrize(("hflip", "word", "flipped"), [(1.0, 2**32 - 1, True), (0.0, 0, False)])
def test_certain_flips_hold_for_the_extreme_draws(monkeypatch, hflip, word, flipped):
    monkeypatch.setattr(rng, "bits", lambda *_: torch.full((12, 3), word))
    pixels = random_pixels()
    views = train_views(pixels, torch.arange(12), ViewsConfig(pad=0, hflip=hflip), 0, 0)
    assert torch.equal(views, to_float(pixels.flip(3) if flipped else pixels))


def test_a_view_does_not_depend_on_the_batch_it_is_in():
    pixels, config = random_pixels(), ViewsConfig()
    whole = train_views(pixels, torch.arange(12), config, 1, 2)
    some = torch.tensor([7, 3, 3, 11])
    assert torch.equal(train_views(pixels[some], some, config, 1, 2), whole[some])


def test_views_differ_by_seed_and_epoch():
    pixels, config = random_pixels(), ViewsConfig()
    views = [train_views(pixels, torch.arange(12), config, *key) for key in ((0, 0), (1, 0), (0, 1))]
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_offsets_and_flips_are_uniform():
    """Read off the views themselves: a single lit pixel in the middle lands where the draws put it."""
    n, pad, side = 8100, 1, 6
    pixels = torch.zeros(n, 3, side, side, dtype=torch.uint8)
    pixels[:, :, 2, 1] = 255
    views = train_views(pixels, torch.arange(n), ViewsConfig(pad=pad, hflip=0.5), 0, 0)
    places = views[:, 0].flatten(1).argmax(1)
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
def test_cuda_gives_the_views_of_the_cpu():
    pixels, ids, config = random_pixels(), torch.arange(12), ViewsConfig()
    views = train_views(pixels.cuda(), ids.cuda(), config, 1, 2).cpu()
    torch.testing.assert_close(views, train_views(pixels, ids, config, 1, 2), rtol=0, atol=1e-7)
