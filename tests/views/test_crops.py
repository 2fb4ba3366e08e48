"""Crops and flips against timm's, torchvision's and DeiT III's for the same draws, and their distributions."""

from unittest.mock import patch

import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_images
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms
from torchvision.transforms import functional as pil

from mixstill import rng
from mixstill.config import ViewsConfig
from mixstill.views import crops

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def photos():
    return torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images]).permute(0, 3, 1, 2)


def words_of(n, config=ViewsConfig(crop="rrc"), seed=0):  # noqa: B008
    return crops.crop_words(torch.arange(n), zeros(n), config, seed, 0)


def timm_box(words, width, height, scale, ratio):
    """timm's box when its draws are these words."""
    attempts = iter(range(8, 48, 4))
    state = {"at": 0, "word": None, "placed": 0}

    def uniform(low, high):
        if state["at"] % 2 == 0:
            state["word"] = next(attempts)
        word = words[state["word"] + state["at"] % 2]
        state["at"] += 1
        return low + (high - low) * (word + 0.5) / 2**32

    def randint(low, high):
        word = words[state["word"] + 2 + state["placed"]]
        state["placed"] += 1
        return low + word * (high - low + 1) // 2**32

    with patch("random.uniform", uniform), patch("random.randint", randint):
        return RandomResizedCropAndInterpolation.get_params(Image.new("L", (width, height)), scale, ratio)


@pytest.mark.parametrize("size", [(32, 32), (640, 427), (30, 300), (300, 20), (9, 4)])
@pytest.mark.parametrize(("scale", "ratio"), [(SCALE, RATIO), ((0.9, 1.0), (0.5, 0.6)), ((0.3, 0.3), (1.0, 1.0))])
def test_resized_crops_are_timms_for_the_same_draws(size, scale, ratio):
    words = words_of(40)
    width, height = size
    ours = crops.rrc_boxes(words, torch.full((40,), width), torch.full((40,), height), scale, ratio)
    assert ours.tolist() == [list(timm_box(row, width, height, scale, ratio)) for row in words.tolist()]


def test_even_the_smallest_photo_has_a_crop():
    boxes = crops.rrc_boxes(words_of(200), torch.ones(200).long(), torch.ones(200).long(), (0.01, 0.1), RATIO)
    assert (boxes == torch.tensor([0, 0, 1, 1])).all()


def test_photos_of_several_sizes_get_the_boxes_they_get_alone():
    words, widths, heights = words_of(30), torch.arange(30) * 7 + 20, torch.arange(30).flip(0) * 11 + 15
    together = crops.rrc_boxes(words, widths, heights, SCALE, RATIO)
    alone = [crops.rrc_boxes(words[i : i + 1], widths[i : i + 1], heights[i : i + 1], SCALE, RATIO) for i in range(30)]
    assert torch.equal(together, torch.cat(alone))


def test_resized_crops_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    image = torch.empty(1, 427, 640)
    theirs = torch.tensor([transforms.RandomResizedCrop.get_params(image, SCALE, RATIO) for _ in range(1500)]).double()
    n = 3000
    ours = crops.rrc_boxes(words_of(n), torch.full((n,), 640), torch.full((n,), 427), SCALE, RATIO).double()
    for value in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert stats.ks_2samp(value(ours), value(theirs)).pvalue > 1e-3


@pytest.mark.parametrize(("interpolation", "mode"), [("bicubic", "BICUBIC"), ("bilinear", "BILINEAR")])
def test_resized_crops_of_photos_look_as_pillows(interpolation, mode):
    config = ViewsConfig(crop="rrc", interpolation=interpolation)
    images, words = photos(), words_of(2, config, seed=4)
    height, width = images.shape[-2:]
    boxes = crops.rrc_boxes(words, torch.full((2,), width), torch.full((2,), height), SCALE, RATIO).tolist()
    for size in (32, 224):
        views = crops.crop(images, words, config, size)
        for image, box, view in zip(images, boxes, views, strict=True):
            cut = pil.resized_crop(pil.to_pil_image(image), *box, [size, size], pil.InterpolationMode[mode])
            assert (pil.pil_to_tensor(cut).int() - view.int()).abs().max() <= 1


def test_interpolation_is_random_where_the_config_says_so():
    words = words_of(1000)
    assert stats.binomtest(int(crops.bicubic(words, "random").sum()), 1000, 0.5).pvalue > 1e-3
    assert crops.bicubic(words, "bicubic").all()
    assert not crops.bicubic(words, "bilinear").any()


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (120, 90, 48), (60, 100, 96)])
def test_the_simple_crop_is_deit_threes(height, width, size):
    images = photos()[:, :, 100 : 100 + height, 200 : 200 + width]
    config = ViewsConfig(crop="src")
    words = words_of(2, config, seed=1)
    views = crops.crop(images, words, config, size)
    for image, row, view in zip(images, words.tolist(), views, strict=True):
        scaled = transforms.Resize(size, interpolation=pil.InterpolationMode.BICUBIC)(pil.to_pil_image(image))
        padded = pil.pad(scaled, 4, padding_mode="reflect")
        top = row[crops.ROW] * (padded.height - size + 1) // 2**32
        left = row[crops.COLUMN] * (padded.width - size + 1) // 2**32
        expected = pil.pil_to_tensor(pil.crop(padded, top, left, size, size))
        assert (expected.int() - view.int()).abs().max() <= (0 if height == size else 1)


@pytest.mark.parametrize(("hflip", "vflip"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.3, 0.6)])
def test_flips_mirror_with_their_probabilities(hflip, vflip):
    n = 1000
    pixels = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2).expand(n, -1, -1, -1)
    words = words_of(n, ViewsConfig())
    views = crops.flip(pixels, words, hflip, vflip)
    flipped = [(words[:, place] / 2**32 < chance) for place, chance in ((crops.FLIP, hflip), (crops.VFLIP, vflip))]
    for image, view, across, down in zip(pixels, views, *flipped, strict=True):
        expected = image.flip(2) if across else image
        assert torch.equal(view, expected.flip(1) if down else expected)
    for mirrored, chance in zip(flipped, (hflip, vflip), strict=True):
        assert stats.binomtest(int(mirrored.sum()), n, chance).pvalue > 1e-3


def test_the_draws_are_numbered_for_good():
    """A worker that crops a single photo, and the view made afterwards, use the same words as a whole batch."""
    assert (crops.ROW, crops.COLUMN, crops.FLIP, crops.VFLIP, crops.INTERPOLATION, crops.RRC_DRAWS) == (
        0,
        1,
        2,
        3,
        4,
        48,
    )
    words = words_of(5)
    assert torch.equal(words, rng.bits(0, rng.Domain.VIEW, 0, torch.arange(5), 48))
    flips = crops.crop_words(torch.arange(5), zeros(5), ViewsConfig(crop="rrc"), 0, 0, cropped=True)
    assert torch.equal(flips, words[:, :4])
