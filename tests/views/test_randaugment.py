"""RandAugment against timm's: arguments, operations on photos, distributions, and what a view does not depend on."""

import random
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_images
from timm.data.auto_augment import LEVEL_TO_ARG, AugmentOp, rand_augment_transform

from mixstill.views import randaugment
from mixstill.views.levels import CODES, OPS, arguments
from mixstill.views.randaugment import NOTHING, Plan

FILL = (124, 116, 104)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def draw(text, n, interpolation="bicubic", seed=0):
    return randaugment.draw(randaugment.parse(text), torch.arange(n), zeros(n), seed, 0, interpolation)


def photos(size):
    """Both photos, whole and at two places each, at `size` pixels."""
    images = [Image.fromarray(image) for image in load_sample_images().images]
    boxes = [(0, 0, 427, 427), (100, 150, 100 + size, 150 + size), (400, 200, 400 + size, 200 + size)]
    return [image.resize((size, size), Image.Resampling.BICUBIC, box=box) for image in images for box in boxes]


def to_pixels(images):
    return torch.stack([torch.from_numpy(np.array(image)) for image in images]).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("negative", [False, True])
def test_arguments_are_timms_to_the_last_bit(name, negative):
    magnitudes = [0.0, 1e-3, 0.3, 2.5, 4.999, 5.0, 7.77, 9.0, 9.6, 10.0, 12.3, 20.0]
    with patch("random.random", return_value=0.75 if negative else 0.25):
        expected = [(LEVEL_TO_ARG[name](m, {})[0] if LEVEL_TO_ARG[name] else 0.0) for m in magnitudes]
    ops = torch.full((len(magnitudes),), CODES[name])
    ours = arguments(ops, torch.tensor(magnitudes, dtype=torch.float64), torch.full((len(magnitudes),), negative))
    assert ours.tolist() == expected


def timm_views(images, plan, samples):
    """timm's operations, one after the other, with the plan's arguments in place of their own draws."""
    views = []
    for image, sample in zip(images, samples, strict=True):
        for layer in range(len(plan.ops)):
            code = int(plan.ops[layer, sample])
            if code != NOTHING:
                mode = Image.Resampling.BICUBIC if plan.bicubic[layer, sample] else Image.Resampling.BILINEAR
                op = AugmentOp(OPS[code], 1.0, 5, {"img_mean": FILL, "interpolation": mode})
                argument = plan.arguments[layer, sample].item()
                whole = "Posterize" in op.name or "Solarize" in op.name
                given = (int(argument) if whole else argument,)
                op.level_fn = op.level_fn and (lambda *_, given=given: given)
                image = op(image)
        views.append(image)
    return to_pixels(views)


# Largest difference in levels, and the share of levels that may differ; all other operations are exact. What moves
# pixels falls on the other side of an integer now and then; Pillow's blur rounds after each of its six passes.
MOVED = (1, 0.02)
TOLERANCE = {
    **dict.fromkeys(("ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "Rotate"), MOVED),
    "GaussianBlur": (3, 0.4),
}


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("bicubic", [True, False])
def test_each_operation_on_photos_is_timms(name, bicubic):
    images = photos(64)
    magnitudes = torch.tensor([0.5, 3.0, 5.0, 7.5, 9.0, 10.0], dtype=torch.float64)
    codes = torch.full((1, 6), CODES[name])
    given = arguments(codes, magnitudes.unsqueeze(0), torch.tensor([[True, False] * 3]))
    if name in ("Posterize", "PosterizeIncreasing"):
        given = given.clamp(min=1)  # Pillow refuses 0 bits
    plan = Plan(codes, given, torch.full((1, 6), bicubic))
    ours, theirs = randaugment.apply(to_pixels(images), plan, FILL), timm_views(images, plan, range(6))
    difference = (ours.int() - theirs.int()).abs()
    most, share = TOLERANCE.get(name, (0, 0.0))
    assert difference.max() <= most
    assert (difference > 0).float().mean() <= share
    assert (theirs != to_pixels(images)).float().mean() > 0.2


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m7-mstd1-n3-p0.9", "rand-m9-mstd101-n2-p1-t3aw"])
def test_whole_plans_on_photos_are_timms(text):
    """Layers upon layers: equalisation and contrast may turn one level into several, on few pixels."""
    images = photos(48) * 20
    plan = draw(text, len(images), "random", seed=3)
    plan.arguments[plan.ops == CODES["Posterize"]] = plan.arguments[plan.ops == CODES["Posterize"]].clamp(min=1)
    ours, theirs = randaugment.apply(to_pixels(images), plan, FILL), timm_views(images, plan, range(len(images)))
    difference = (ours.int() - theirs.int()).abs().float()
    assert (difference > 3).float().mean() < 1e-3
    assert (difference > 0).float().mean() < (0.2 if "t3aw" in text else 0.01)
    assert (theirs != to_pixels(images)).float().mean() > 0.3


def timm_counts(text, n):
    """How often timm chooses each pair of first and second operation."""
    policy = rand_augment_transform(text, {})
    np.random.seed(0)
    index = {id(op): place for place, op in enumerate(policy.ops)}
    counts = np.zeros((len(index), len(index)))
    for _ in range(n):
        first, second = np.random.choice(policy.ops, 2, replace=policy.choice_weights is None, p=policy.choice_weights)
        counts[index[id(first)], index[id(second)]] += 1
    return counts


@pytest.mark.parametrize("text", ["rand-inc1-p1", "rand-p1", "rand-p1-tweights", "rand-p1-t3aw", "rand-p1-t3a"])
def test_operations_are_chosen_as_often_as_timm_does(text):
    n = 4000
    policy = randaugment.parse(text)
    place = {CODES[name]: i for i, name in enumerate(policy.ops)}
    first, second = (torch.tensor([place[code] for code in row.tolist()]) for row in draw(text, n).ops)
    size = len(policy.ops)
    ours, theirs = (
        torch.bincount(first * size + second, minlength=size**2).view(size, size).numpy(),
        timm_counts(text, n),
    )
    for kept in (0, 1):  # each layer by itself, then which follows which
        assert stats.chi2_contingency([ours.sum(1 - kept), theirs.sum(1 - kept)]).pvalue > 1e-3
    common = (ours + theirs).ravel() >= 10
    assert stats.chi2_contingency([ours.ravel()[common], theirs.ravel()[common]]).pvalue > 1e-3
    if policy.weights is not None:
        assert (first != second).all()


def test_without_replacement_every_operation_can_come_once():
    plan = draw("rand-n14-p1-t3aw", 50)
    assert (
        plan.ops.sort(0).values
        == torch.tensor(sorted({CODES[name] for name in randaugment.parse("rand-t3aw").ops})).unsqueeze(1)
    ).all()


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_operations_are_applied_with_their_probability_independently(probability):
    applied = (draw(f"rand-p{probability}", 4000).ops != NOTHING).int()
    for layer in applied:
        assert stats.binomtest(int(layer.sum()), 4000, probability).pvalue > 1e-3
    assert stats.binomtest(int(applied.prod(0).sum()), 4000, probability**2).pvalue > 1e-3


def timm_magnitudes(text, n):
    """The magnitudes that timm's operations hand on, by its own draws."""
    op, seen = rand_augment_transform(text, {}).ops[3], []
    op.prob, op.level_fn, op.aug_fn = 1.0, lambda m, _: (m,), lambda _, m, **__: seen.append(m)
    random.seed(0)
    for _ in range(n):
        op(None)
    return np.array(seen)


@pytest.mark.parametrize(
    "text", ["rand-m9-mstd0.5", "rand-m9-mstd2", "rand-m1-mstd2", "rand-m9-mstd101", "rand-m12-mmax15-mstd3"]
)
def test_magnitudes_are_distributed_and_clipped_as_timms(text):
    policy = randaugment.parse(text)
    words = randaugment.rng.bits(0, randaugment.rng.Domain.RANDAUGMENT, 0, torch.arange(4000), 4)
    ours, theirs = randaugment.magnitudes(words[:, 2:], policy).numpy(), timm_magnitudes(text, 4000)
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    for end in (0.0, policy.limit):
        assert (
            stats.chi2_contingency([[(v == end).sum() + 1, (v != end).sum() + 1] for v in (ours, theirs)]).pvalue > 1e-3
        )
    assert ours.max() <= policy.limit
    assert ours.min() >= 0


def test_a_magnitude_without_deviation_is_constant_and_within_the_limit():
    for text, value in (("rand-m7", 7.0), ("rand-m15", 10.0), ("rand-m15-mmax20", 15.0)):
        words = torch.randint(0, 2**32, (50, 2))
        assert (randaugment.magnitudes(words, randaugment.parse(text)) == value).all()


def test_signs_and_interpolation_are_even_and_independent_of_the_rest():
    plan = draw("rand-m9-p1-inc1", 6000, "random")
    warped = plan.ops == CODES["Rotate"]
    positive, bicubic = plan.arguments[warped] > 0, plan.bicubic[warped]
    count = int(warped.sum())
    assert plan.arguments[warped].abs().unique().tolist() == [27.0]
    for coin in (positive, bicubic, positive == bicubic):
        assert stats.binomtest(int(coin.sum()), count, 0.5).pvalue > 1e-3
    # The coins are the lowest bits of words whose highest bits choose the operation: each operation has both.
    counts = [
        [int(((plan.ops == op) & (plan.bicubic == kind)).sum()) for op in plan.ops.unique()] for kind in (True, False)
    ]
    assert stats.chi2_contingency(counts).pvalue > 1e-3
    for interpolation in ("bicubic", "bilinear"):
        assert (draw("rand", 100, interpolation).bicubic == (interpolation == "bicubic")).all()


def test_nothing_but_the_samples_that_get_something_change():
    images = to_pixels(photos(32))
    ops = torch.tensor([[NOTHING, CODES["Invert"], NOTHING, CODES["Rotate"], NOTHING, NOTHING]])
    plan = Plan(ops, torch.full((1, 6), 30.0, dtype=torch.float64), torch.ones(1, 6, dtype=torch.bool))
    before = images.clone()
    views = randaugment.apply(images, plan, FILL)
    assert torch.equal(images, before)
    assert torch.equal(views[[0, 2, 4, 5]], images[[0, 2, 4, 5]])
    assert torch.equal(views[1], 255 - images[1])
    assert not torch.equal(views[3], images[3])
    assert randaugment.apply(images, Plan(ops * 0 + NOTHING, plan.arguments, plan.bicubic), FILL) is images


def test_translations_are_shares_of_their_own_side():
    images = [image.crop((0, 0, 64, 40)) for image in photos(64)[:2]]
    ops = torch.tensor([[CODES["TranslateXRel"], CODES["TranslateYRel"]]])
    plan = Plan(ops, torch.tensor([[0.25, -0.25]], dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool))
    ours, theirs = randaugment.apply(to_pixels(images), plan, FILL), timm_views(images, plan, range(2))
    assert (ours.int() - theirs.int()).abs().max() <= 1
