"""Colour jitter and three-augment against torchvision's and Pillow's for the same draws, and their distributions."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from scipy import stats
from sklearn.datasets import load_sample_images
from torchvision import transforms
from torchvision.transforms import functional as pil

from mixstill.views import jitter

CHANGES = (pil.adjust_brightness, pil.adjust_contrast, pil.adjust_saturation)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def photos(n, size=48):
    images = [Image.fromarray(image) for image in load_sample_images().images]
    return [images[i % 2].crop((20 * i, 10 * i, 20 * i + size, 10 * i + size)) for i in range(n)]


def to_pixels(images):
    return torch.stack([torch.from_numpy(np.array(image)) for image in images]).permute(0, 3, 1, 2).contiguous()


def test_jitter_of_photos_is_torchvisions():
    images = photos(24)
    plan = jitter.draw_jitter(0.4, torch.arange(24), zeros(24), 0, 0)
    ours = jitter.color_jitter(to_pixels(images), plan)
    expected = []
    for image, order, factors in zip(images, plan.order.tolist(), plan.factors.tolist(), strict=True):
        for change in order:
            image = CHANGES[change](image, factors[change])
        expected.append(image)
    assert torch.equal(ours, to_pixels(expected))


@pytest.mark.parametrize("strength", [0.3, 0.4, 1.5])
def test_factors_and_orders_are_distributed_as_torchvisions(strength):
    n = 3000
    plan = jitter.draw_jitter(strength, torch.arange(n), zeros(n), 0, 0)
    torch.manual_seed(0)
    theirs = transforms.ColorJitter(strength, strength, strength)
    ranges = theirs.brightness, theirs.contrast, theirs.saturation, None
    drawn = [transforms.ColorJitter.get_params(*ranges) for _ in range(n)]
    for change in range(3):
        sample = [params[1 + change] for params in drawn]
        assert stats.ks_2samp(plan.factors[:, change], sample).pvalue > 1e-3
    orders = torch.stack([order[order != 3] for order, *_ in drawn])
    counts = [torch.bincount(o @ torch.tensor([9, 3, 1]), minlength=22) for o in (plan.order, orders)]
    assert (plan.order.sort(1).values == torch.arange(3)).all()
    seen = (counts[0] + counts[1]) > 0
    assert seen.sum() == 6
    assert stats.chi2_contingency([count[seen].tolist() for count in counts]).pvalue > 1e-3


def test_three_augment_of_photos_is_pillows():
    images = photos(30)
    plan = jitter.draw_three(torch.arange(30), zeros(30), 0, 0)
    ours = jitter.three_augment(to_pixels(images), plan)
    works = {
        jitter.GRAYSCALE: lambda image, _: transforms.Grayscale(3)(image),
        jitter.SOLARIZE: lambda image, _: ImageOps.solarize(image),
        jitter.BLUR: lambda image, radius: image.filter(ImageFilter.GaussianBlur(radius)),
    }
    pairs = zip(images, plan.which.tolist(), plan.radius.tolist(), strict=True)
    difference = (ours.int() - to_pixels([works[which](image, radius) for image, which, radius in pairs]).int()).abs()
    assert set(plan.which.tolist()) == set(works)
    assert (difference[plan.which != jitter.BLUR] == 0).all()
    assert difference.max() <= 3


def test_one_of_three_at_random_and_any_radius():
    n = 3000
    plan = jitter.draw_three(torch.arange(n), zeros(n), 0, 0)
    assert stats.chisquare(torch.bincount(plan.which, minlength=3)).pvalue > 1e-3
    assert stats.kstest(plan.radius, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
