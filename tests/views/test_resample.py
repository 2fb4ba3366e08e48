"""Cropping and resizing against Pillow on real photos, and the weights against torch's antialiased resize."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mixstill.views import resample

RESAMPLING = {True: Image.Resampling.BICUBIC, False: Image.Resampling.BILINEAR}


def windows(height, width, n):
    """top, left, height and width of `n` windows, the first the whole image and the second one pixel."""
    rng = np.random.default_rng(3)
    tall, wide = rng.integers(1, height + 1, n), rng.integers(1, width + 1, n)
    tall[:2], wide[:2] = (height, 1), (width, 1)
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    return np.stack([top, left, tall, wide])


def cut(picture, top, left, height, width):
    return picture.crop((left, top, left + width, top + height))


@pytest.mark.parametrize("bicubic", [True, False])
@pytest.mark.parametrize(("size", "out"), [((32, 32), 32), ((64, 95), 32), ((45, 38), 64)])
def test_crop_and_resize_are_pillows(images, batch, size, out, bicubic):
    pictures = images(*size) * 4
    places = windows(*size, len(pictures))
    pixels = batch(pictures)
    ours = resample.resize_windows(pixels, *torch.from_numpy(places), out, torch.full((len(pictures),), bicubic))
    assert ours.dtype == torch.uint8
    cuts = [cut(picture, *place) for picture, place in zip(pictures, places.T, strict=True)]

    # The same levels but for halves that are rounded the other way, where Pillow too goes across first.
    golden = [part.resize((out, part.height), RESAMPLING[bicubic]) for part in cuts]
    difference = (ours.int() - batch([part.resize((out, out), RESAMPLING[bicubic]) for part in golden]).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < 0.01

    # In one call Pillow may go down first, and where it clips in between it does so elsewhere.
    difference = (ours.int() - batch([part.resize((out, out), RESAMPLING[bicubic]) for part in cuts]).int()).abs()
    assert (difference > 1).double().mean() < 0.01
    assert (difference > 0).double().mean() < 0.1


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "out"), [(32, 32), (50, 13), (13, 50), (7, 1)])
def test_the_weights_of_a_whole_axis_are_those_of_torch(size, out, mode):
    matrix = resample.weights(torch.tensor([0]), torch.tensor([size]), out, size, torch.tensor([mode == "bicubic"]))
    unit = torch.eye(size).view(size, 1, 1, size)
    theirs = F.interpolate(unit, (1, out), mode=mode, antialias=True).view(size, out)
    torch.testing.assert_close(matrix[0], theirs.T, atol=2e-6, rtol=0)


def test_weights_reach_nothing_outside_the_window_and_sum_to_one():
    start, extent = torch.tensor([0, 3, 10, 31]), torch.tensor([32, 7, 20, 1])
    matrix = resample.weights(start, extent, 24, 32, torch.tensor([True, False, True, True]))
    pixel = torch.arange(32)
    outside = (pixel < start[:, None]) | (pixel >= (start + extent)[:, None])
    assert matrix.shape == (4, 24, 32)
    assert not matrix.mul(outside[:, None]).any()
    torch.testing.assert_close(matrix.sum(2), torch.ones(4, 24))
