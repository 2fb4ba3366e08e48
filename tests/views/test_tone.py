"""Every operation on levels against timm's on Pillow images: each sample of a batch with a parameter of its own."""

from functools import partial

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
OPERATIONS = {
    **{name: TABLES[name] for name in ("solarize", "brightness", "contrast")},
    "color": (auto_augment.color, FACTORS),
    "grayscale": (lambda image: image.convert("L").convert("RGB"), [None]),
}


@pytest.fixture(scope="module")
def cases(images, batch):
    """Each image with each value: the images, [B, 3, H, W] of them, and what an operation gets besides."""

    def make(values, height, width):
        pairs = [(picture, value) for picture in images(height, width) for value in values]
        extra = [] if values == [None] else [torch.tensor([value for _, value in pairs])]
        return pairs, batch([picture for picture, _ in pairs]), extra

    return make


def tabled(name, pixels, *extra):
    return tone.apply_table(pixels, getattr(tone, f"{name}_table")(pixels, *extra))


@pytest.mark.parametrize("size", [(32, 32), (64, 95)])
@pytest.mark.parametrize(
    ("name", "operation", "timms"),
    [(name, partial(tabled, name), timms) for name, timms in TABLES.items()]
    + [(name, getattr(tone, name), timms) for name, timms in OPERATIONS.items()],
)
def test_every_operation_is_timms_bit_for_bit(cases, batch, name, operation, timms, size):
    theirs, values = timms
    pairs, pixels, extra = cases(values, *size)
    before = pixels.clone()
    ours = operation(pixels, *extra)
    golden = batch([theirs(picture, *([] if value is None else [value])) for picture, value in pairs])
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, golden)
    assert torch.equal(pixels, before)


def test_the_tables_of_several_operations_are_applied_at_once(cases):
    parts = []
    for name, (_, values) in TABLES.items():
        _, pixels, extra = cases(values, 32, 32)
        table = getattr(tone, f"{name}_table")(pixels, *extra)
        assert table.shape == (len(pixels), 3, 256)
        assert table.dtype == torch.uint8
        parts.append((pixels, table, tone.apply_table(pixels, table)))
    pixels, tables, results = (torch.cat(column) for column in zip(*parts, strict=True))
    assert torch.equal(tone.apply_table(pixels, tables), results)


def test_posterize_to_no_bits_is_black(images, batch):
    pixels = batch(images(32, 32))
    assert not tabled("posterize", pixels, torch.zeros(len(pixels), dtype=torch.int64)).any()


def test_whole_photos_are_equalized_as_timm_does(batch):
    pictures = [Image.fromarray(photo) for photo in load_sample_images().images]
    golden = batch([auto_augment.equalize(picture) for picture in pictures])
    assert torch.equal(tabled("equalize", batch(pictures)), golden)


def test_a_blend_is_cut_and_not_rounded_and_clipped():
    levels, degenerate = torch.tensor([[10.0, 250.0, 5.0]]), torch.tensor(100.0)
    assert tone.blend(degenerate, levels, torch.tensor([0.99])).tolist() == [[10, 248, 5]]
    assert tone.blend(degenerate, levels, torch.tensor([2.0])).tolist() == [[0, 255, 0]]
