"""Every geometric operation against timm's on Pillow images: each sample of a batch with parameters of its own."""

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment

from mixstill.views import warp

FILL = (124, 6, 255)
RESAMPLING = {True: Image.Resampling.BICUBIC, False: Image.Resampling.BILINEAR}
SHEARS = [0.0, -0.3, 0.3, 0.123, 1.0, -2.5]
OFFSETS = [0.0, 1.0, -1.0, 0.5, -0.5, 3.7, -14.4, 13.5, 31.2, -40.0, 250.0]
OPERATIONS = {
    "shear_x": (auto_augment.shear_x, SHEARS, lambda x, value, **how: warp.slide_x(x, value, 0 * value, **how)),
    "shear_y": (auto_augment.shear_y, SHEARS, lambda x, value, **how: warp.slide_y(x, value, 0 * value, **how)),
    "translate_x": (
        *(auto_augment.translate_x_abs, OFFSETS),
        lambda x, value, **how: warp.slide_x(x, 0 * value, value, **how),
    ),
    "translate_y": (
        *(auto_augment.translate_y_abs, OFFSETS),
        lambda x, value, **how: warp.slide_y(x, 0 * value, value, **how),
    ),
    "rotate": (auto_augment.rotate, [0.0, -30.0, 30.0, 7.7, 45.0, 90.0, 180.0, -123.4], warp.rotate),
}


def assert_close(ours, golden, most, share):
    difference = (ours.int() - golden.int()).abs()
    assert ours.dtype == torch.uint8
    assert difference.max() <= most
    assert (difference > 0).double().mean() <= share


@pytest.mark.parametrize("size", [(32, 32), (37, 58)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_timms_within_one_level_of_one_pixel_in_a_hundred(images, batch, name, size):
    theirs, values, operation = OPERATIONS[name]
    cases = [(picture, value, cubic) for picture in images(*size) for value in values for cubic in (True, False)]
    pixels = batch([picture for picture, _, _ in cases])
    values = torch.tensor([value for _, value, _ in cases], dtype=torch.float64)
    bicubic = torch.tensor([cubic for _, _, cubic in cases])
    before = pixels.clone(), values.clone()
    ours = operation(pixels, values, bicubic=bicubic, fill=FILL)
    golden = [theirs(picture, value, resample=RESAMPLING[cubic], fillcolor=FILL) for picture, value, cubic in cases]
    assert_close(ours, batch(golden), 1, 0.01)
    # What Pillow does not compute in fractions is exact: the fill, whole steps, quarter turns.
    whole = (values % (90 if name == "rotate" else 1) == 0) if "shear" not in name else values == 0
    assert torch.equal(ours[whole], batch(golden)[whole])
    assert torch.equal(pixels, before[0])
    assert torch.equal(values, before[1])


@pytest.mark.parametrize(("name", "row"), [("slide_x", 0), ("slide_y", 1)])
def test_a_slide_shears_and_translates_at_once(images, batch, name, row):
    pictures = images(40, 33)[-5:]
    slope = torch.tensor([0.3, -0.2, 0.0, 1.1, -0.7], dtype=torch.float64)
    offset = torch.tensor([-4.3, 0.0, 7.25, 11.0, 60.0], dtype=torch.float64)
    golden = []
    for picture, s, o in zip(pictures, slope.tolist(), offset.tolist(), strict=True):
        matrix = (1, s, o, 0, 1, 0) if row == 0 else (1, 0, 0, s, 1, o)
        golden.append(picture.transform(picture.size, Image.AFFINE, matrix, Image.BICUBIC, fillcolor=FILL))
    bicubic = torch.ones(5, dtype=torch.bool)
    ours = getattr(warp, name)(batch(pictures), slope, offset, bicubic=bicubic, fill=FILL)
    assert_close(ours, batch(golden), 1, 0.01)


def test_places_at_the_very_edge_are_inside_as_pillow_has_it():
    """Half a pixel before the first centre is inside, half a pixel past the last is outside."""
    pixels = torch.full((2, 3, 4, 4), 77, dtype=torch.uint8)
    offset, bicubic = torch.tensor([-0.5, 0.5]), torch.tensor([True, False])
    moved = warp.slide_x(pixels, torch.zeros(2), offset, bicubic=bicubic, fill=FILL)
    assert moved[0, 0, 0].tolist() == [77, 77, 77, 77]
    assert moved[1, 0, 0].tolist() == [77, 77, 77, FILL[0]]


def test_a_large_image_turns_as_pillows_does(batch):
    picture = load_sample_images().images[0]
    picture = Image.fromarray(picture)
    golden = auto_augment.rotate(picture, 17.3, resample=Image.Resampling.BICUBIC, fillcolor=FILL)
    ours = warp.rotate(batch([picture]), torch.tensor([17.3]), bicubic=torch.tensor([True]), fill=FILL)
    assert_close(ours, batch([golden]), 1, 0.01)
