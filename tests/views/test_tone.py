"""Every operation on levels against timm's on Pillow images: each sample of a batch with a parameter of its own."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment

from mixstill.views import tone

FACTORS = [-0.5, 0.0, 0.1, 0.37, 0.5, 0.99, 1.0, 1.3, 1.9, 2.6]
TABLES = {
    "autocontrast": (auto_augment.auto_contrast, [None]),
    "equalize": (auto_augment.equalize, [None]),
    "invert": (auto_augment.invert, [None]),
    "posterize": (auto_augment.posterize, [1, 2, 3, 4, 7, 8, 9]),
    "solarize": (auto_augment.solarize, [0, 1, 77, 128, 255, 256]),
    "solarize_add": (auto_augment.solarize_add, [0, 5, 109, 128]),
    "brightness": (auto_augment.brightness, FACTORS),
    "contrast": (auto_augment.contrast, FACTORS),
}
OPERATIONS = TABLES | {
    "color": (auto_augment.color, FACTORS),
    "grayscale": (lambda image: image.convert("L").convert("RGB"), [None]),
}


def images(height, width):
    """Crops of the two photos at three scales, noise, noise of two neighbouring levels and one colour, as Pillow's."""
    rng = np.random.default_rng(0)
    photos = load_sample_images().images
    crops = [photos[k % 2][7 * k :: 1 + k % 3, 40 * k :: 1 + k % 3][:height, :width] for k in range(6)]
    noise = [rng.integers(low, high, (height, width, 3), dtype=np.uint8) for low, high in [(0, 256), (100, 102)]]
    flat = np.full((height, width, 3), (3, 200, 255), np.uint8)
    return [Image.fromarray(np.ascontiguousarray(array)) for array in [*crops, *noise, flat]]


def batch(pictures):
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).contiguous()


def cases(values, height, width):
    """Each image with each value: the images, [B, 3, H, W] of them, and what an operation gets besides."""
    pairs = [(picture, value) for picture in images(height, width) for value in values]
    extra = [] if values == [None] else [torch.tensor([value for _, value in pairs])]
    return pairs, batch([picture for picture, _ in pairs]), extra


@pytest.mark.parametrize("size", [(32, 32), (64, 95)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_timms_bit_for_bit(name, size):
    theirs, values = OPERATIONS[name]
    pairs, pixels, extra = cases(values, *size)
    before = pixels.clone()
    ours = getattr(tone, name)(pixels, *extra)
    golden = batch([theirs(picture, *([] if value is None else [value])) for picture, value in pairs])
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, golden)
    assert torch.equal(pixels, before)


def test_the_tables_of_several_operations_are_applied_at_once():
    parts = []
    for name, (_, values) in TABLES.items():
        _, pixels, extra = cases(values, 32, 32)
        table = getattr(tone, f"{name}_table")(pixels, *extra)
        assert table.shape == (len(pixels), 3, 256)
        assert table.dtype == torch.uint8
        parts.append((pixels, table, getattr(tone, name)(pixels, *extra)))
    pixels, tables, results = (torch.cat(column) for column in zip(*parts, strict=True))
    assert torch.equal(tone.apply_table(pixels, tables), results)


def test_posterize_to_no_bits_is_black():
    pixels = batch(images(32, 32))
    assert not tone.posterize(pixels, torch.zeros(len(pixels), dtype=torch.int64)).any()


def test_whole_photos_are_equalized_as_timm_does():
    pictures = [Image.fromarray(photo) for photo in load_sample_images().images]
    golden = batch([auto_augment.equalize(picture) for picture in pictures])
    assert torch.equal(tone.equalize(batch(pictures)), golden)


def test_a_blend_is_cut_and_not_rounded_and_clipped():
    levels, degenerate = torch.tensor([[10.0, 250.0, 5.0]]), torch.tensor(100.0)
    assert tone.blend(degenerate, levels, torch.tensor([0.99])).tolist() == [[10, 248, 5]]
    assert tone.blend(degenerate, levels, torch.tensor([2.0])).tolist() == [[0, 255, 0]]
