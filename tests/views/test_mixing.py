"""Batch mixing against timm's, its distributions, and what it does not depend on."""

from unittest.mock import patch

import pytest
import torch
from scipy import stats
from timm.data import Mixup

from mixstill.config import ViewsConfig
from mixstill.views import Mix, draw_mix, mix_images, mix_targets, mixing

BOTH = ViewsConfig(mixup=0.8, cutmix=1.0)


def mixes(config, n, height=32, width=32, seed=0):
    return [draw_mix(config, seed, 0, step, height, width) for step in range(n)]


def random_batch(n=6, height=12, width=10):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, height, width, generator=generator), torch.arange(n) % 4


def timm_output(config, draws, images, labels):
    """timm's Mixup, its numpy draws replaced by ours: the same lambda, the same place and size of the box."""
    mixed, cut, _, row, column, height, width = draws
    integers = iter([row, column] if config.cutmix_minmax is None else [height, width, row, column])
    with (
        patch("numpy.random.rand", side_effect=[mixed, cut]),
        patch("numpy.random.beta", side_effect=lambda a, b: stats.beta.ppf(draws[2], a, b)),
        patch("numpy.random.randint", side_effect=lambda low, high, size: low + int(next(integers) * (high - low))),
    ):
        timm = Mixup(
            config.mixup,
            config.cutmix,
            config.cutmix_minmax,
            prob=config.mixup_prob,
            switch_prob=config.mixup_switch_prob,
            label_smoothing=0.0,
            num_classes=4,
        )
        return timm(images.clone(), labels)


@pytest.mark.parametrize(
    "config",
    [
        ViewsConfig(mixup=0.8),
        ViewsConfig(cutmix=1.0),
        BOTH,
        ViewsConfig(mixup=0.2, cutmix=0.5, mixup_prob=0.6, mixup_switch_prob=0.3),
        ViewsConfig(cutmix_minmax=(0.2, 0.8)),
        ViewsConfig(mixup=0.8, cutmix_minmax=(0.3, 0.9), mixup_switch_prob=0.6),
        ViewsConfig(mixup=0.8, cutmix=0.3, cutmix_minmax=(0.05, 0.5), mixup_prob=0.7),
    ],
)
def test_mixing_equals_timm_for_the_same_draws(config):
    images, labels = random_batch()
    for step in range(25):
        draws = mixing.rng.scalars(7, mixing.rng.Domain.MIX, 1, step, 7)
        timm_images, timm_targets = timm_output(config, draws, images, labels)
        mix = draw_mix(config, 7, 1, step, 12, 10)
        torch.testing.assert_close(mix_images(images, mix), timm_images, rtol=0, atol=1e-6)
        torch.testing.assert_close(mix_targets(labels, mix, 4), timm_targets, rtol=0, atol=1e-6)


def test_the_sides_of_min_max_boxes_are_uniform_and_independent():
    drawn = mixes(ViewsConfig(cutmix_minmax=(0.25, 0.75)), 1200, 8, 16)
    sides = torch.tensor([(bottom - top, right - left) for top, bottom, left, right in (mix.box for mix in drawn)])
    counts = torch.bincount((sides[:, 0] - 2) * 8 + sides[:, 1] - 4, minlength=32)  # 2..5 rows and 4..11 columns
    assert len(counts) == 32
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    for mix in drawn:
        top, bottom, left, right = mix.box
        assert mix.lam == 1 - (bottom - top) * (right - left) / 128
        assert 0 <= top < bottom <= 8
        assert 0 <= left < right <= 16


def test_min_max_of_one_share_is_a_box_of_that_share():
    """Where timm's range of lengths is empty, and timm fails, the box has the one length."""
    for mix in mixes(ViewsConfig(cutmix_minmax=(0.5, 0.5)), 20, 8, 8):
        top, bottom, left, right = mix.box
        assert (bottom - top, right - left) == (4, 4)


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 4.0])
def test_lambda_of_mixup_follows_the_beta_distribution(alpha):
    drawn = mixes(ViewsConfig(mixup=alpha), 500)
    assert all(mix.box is None for mix in drawn)
    assert stats.kstest([mix.lam for mix in drawn], stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_the_box_has_exactly_the_share_that_lambda_leaves():
    for mix in mixes(ViewsConfig(cutmix=1.0), 150, 24, 17):
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 24
        assert 0 <= left <= right <= 17
        assert mix.lam == 1 - (bottom - top) * (right - left) / (24 * 17)


def test_the_centres_of_boxes_are_uniform(monkeypatch):
    monkeypatch.setattr(mixing, "betaincinv", lambda *_: 1 - (1 / 4) ** 2)  # a box of one pixel: its own centre
    boxes = [mix.box for mix in mixes(ViewsConfig(cutmix=1.0), 800, 4, 4)]
    assert all(bottom - top == right - left == 1 for top, bottom, left, right in boxes)
    counts = torch.bincount(torch.tensor([top * 4 + left for top, _, left, _ in boxes]), minlength=16)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_cutmix_is_chosen_with_the_switch_probability_and_mixing_with_its_own():
    drawn = mixes(ViewsConfig(mixup=0.8, cutmix=1.0, mixup_prob=0.7, mixup_switch_prob=0.2), 800)
    mixed = sum(mix != Mix() for mix in drawn)
    cut = sum(mix.box is not None for mix in drawn)
    assert stats.binomtest(mixed, 800, 0.7).pvalue > 1e-3
    assert stats.binomtest(cut, mixed, 0.2).pvalue > 1e-3
    assert all(mix.box is None for mix in mixes(ViewsConfig(mixup=0.8, cutmix=1.0, mixup_switch_prob=0), 50))
    assert all(mix.box is not None for mix in mixes(ViewsConfig(mixup=0.8, cutmix=1.0, mixup_switch_prob=1), 50))


@pytest.mark.parametrize("config", [ViewsConfig(), ViewsConfig(mixup=0.8, cutmix=1.0, mixup_prob=0)])
def test_without_mixing_nothing_changes(config):
    images, labels = random_batch()
    for mix in mixes(config, 20):
        assert mix == Mix()
        assert not mix.active
        assert mix_images(images, mix) is images
        assert torch.equal(mix_targets(labels, mix, 4), torch.eye(4)[labels])


def test_the_box_comes_from_the_reversed_batch_and_the_rest_stays():
    images, _ = random_batch()
    before = images.clone()
    mixed = mix_images(images, Mix(0.9, (2, 5, 1, 8)))
    for sample in range(6):
        expected = before[sample].clone()
        expected[:, 2:5, 1:8] = before[5 - sample][:, 2:5, 1:8]
        assert torch.equal(mixed[sample], expected)
    assert torch.equal(images, before)


def test_the_blend_and_its_targets_by_hand():
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    mix = Mix(0.25)
    assert torch.equal(mix_images(images, mix)[:, 0, 0, 0], torch.tensor([0.75, 0.25]))
    assert torch.equal(mix_targets(torch.tensor([2, 0]), mix, 3), torch.tensor([[0.75, 0.0, 0.25], [0.25, 0.0, 0.75]]))


def test_a_mix_is_a_function_of_seed_epoch_and_step():
    base = draw_mix(BOTH, 1, 2, 3, 32, 32)
    assert base == draw_mix(BOTH, 1, 2, 3, 32, 32)
    assert base not in [draw_mix(BOTH, *key, 32, 32) for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0))]
