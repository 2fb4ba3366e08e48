"""Filters against timm's on Pillow images, and the blur against the Gaussian that it stands for."""

import numpy as np
import pytest
import torch
from timm.data import auto_augment

from mixstill.views import filters

FACTORS = [0.0, 0.1, 0.37, 0.5, 1.0, 1.3, 1.9, 2.6]
RADII = [0.01, 0.1, 0.3, 0.7, 1.0, 1.5, 2.0, 3.3, 8.0]


@pytest.mark.parametrize("size", [(32, 32), (47, 70), (3, 5), (2, 9)])
def test_sharpness_is_timms_bit_for_bit(images, batch, size):
    cases = [(picture, factor) for picture in images(*size) for factor in FACTORS]
    pixels = batch([picture for picture, _ in cases])
    before = pixels.clone()
    ours = filters.sharpness(pixels, torch.tensor([factor for _, factor in cases]))
    golden = [auto_augment.sharpness(picture, factor) for picture, factor in cases]
    if min(size) >= 3:  # of narrower images Pillow's filter reads what lies beside them
        assert torch.equal(ours, batch(golden))
    assert ours.dtype == torch.uint8
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("radius", RADII)
def test_a_blur_is_timms_within_three_levels_and_mostly_one(images, batch, radius):
    """Pillow rounds six times on the way, we do once: it is Pillow that is further from the blur's formula."""
    pictures = images(47, 70)
    ours = filters.gaussian_blur(batch(pictures), torch.full((len(pictures),), radius))
    golden = batch([auto_augment.gaussian_blur(picture, radius) for picture in pictures])
    difference = (ours.int() - golden.int()).abs()
    assert ours.dtype == torch.uint8
    assert difference.max() <= 3
    of_photos = difference[:6]
    assert (of_photos > 1).double().mean() < 0.04
    assert (of_photos > 2).double().mean() < 0.003
    assert of_photos.double().mean() < 0.4


def box_blur(row, box):
    """An extended box blur of an axis that repeats its edges, in float64: weights 1, and a fraction at both ends."""
    reach = int(box) + 1
    kernel = np.clip(box + 1 - np.abs(np.arange(-reach, reach + 1)), 0, 1)
    return np.convolve(np.pad(row, reach, mode="edge"), kernel / (2 * box + 1), mode="valid")


@pytest.mark.parametrize("box", [0.0, 0.25, 1.0, 1.6, 4.3, 20.0])
def test_the_blurs_matrix_is_three_extended_boxes(box):
    row = np.random.default_rng(1).random(13)
    matrix = filters._blur_matrix(torch.tensor([[[box]]]), 13)[0].double().numpy()
    np.testing.assert_allclose(matrix @ row, box_blur(box_blur(box_blur(row, box), box), box), atol=1e-6)


@pytest.mark.parametrize("radius", [0.3, 1.0, 2.0, 5.0])
def test_three_boxes_have_the_variance_of_the_gaussian(radius):
    matrix = filters._blur_matrix(filters._box_radius(torch.tensor([radius])).view(1, 1, 1), 101)[0]
    variance = (matrix[50].double() * (torch.arange(101) - 50.0) ** 2).sum().item()
    assert variance == pytest.approx(radius**2, rel=1e-4)


def test_each_sample_has_its_own_radius(images, batch):
    pixels, radii = batch(images(20, 31)), torch.tensor([0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 0.0])
    whole = filters.gaussian_blur(pixels, radii)
    for sample, radius, blurred in zip(pixels, radii, whole, strict=True):
        assert torch.equal(filters.gaussian_blur(sample[None], radius[None])[0], blurred)
    assert torch.equal(whole[-1], pixels[-1])
