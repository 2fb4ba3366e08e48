"""What workers cut out of photos, against torchvision and timm."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pil

from mixstill.config import ViewsConfig
from mixstill.data.cutting import Cutting
from mixstill.data.images import fit, open_image
from mixstill.views.crops import COLUMN, ROW, bicubic, rrc_boxes, simple_crop

IDS = torch.arange(12)


def shown_by(cutting, image, words):
    """The training view of an image by its draws."""
    (window,) = cutting.windows(words[None], [image.size])
    return cutting.train(image, window)


def cutting(size=32, crop_pct=0.875, seed=3, **views):
    return Cutting(size=size, crop_pct=crop_pct, views=ViewsConfig(**views), seed=seed)


@pytest.fixture
def photos(encoded_photos):
    return [Image.open(io.BytesIO(content)) for content in encoded_photos]


@pytest.mark.parametrize(("size", "crop_pct"), [(32, 0.875), (48, 0.9), (40, 1.0)])
def test_evaluation_sees_what_timm_shows(photos, size, crop_pct):
    timm = create_transform(size, crop_pct=crop_pct, interpolation="bicubic", normalize=False)
    for photo in photos:
        ours = cutting(size, crop_pct).eval(photo)
        assert np.array_equal(ours, timm(photo).numpy())


def test_an_opened_image_is_what_evaluation_sees(tmp_path, encoded_photos, photos):
    (tmp_path / "a.jpg").write_bytes(encoded_photos[0])
    assert np.array_equal(open_image(tmp_path / "a.jpg", 32, 0.875).numpy(), cutting().eval(photos[0]))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_a_training_crop_is_torchvisions_of_the_drawn_box(photos, interpolation):
    cut = cutting(crop="rrc", interpolation=interpolation)
    assert cut.cropped
    words = cut.words(IDS, IDS % 3, epoch=2)
    widths, heights = torch.tensor([photo.size for photo in photos]).unbind(1)
    boxes = rrc_boxes(words, widths, heights, cut.views.scale, cut.views.ratio).tolist()
    smooth = bicubic(words, interpolation).tolist()
    assert interpolation != "random" or len(set(smooth)) == 2
    for photo, its, box, cubic in zip(photos, words, boxes, smooth, strict=True):
        mode = InterpolationMode.BICUBIC if cubic else InterpolationMode.BILINEAR
        expected = pil.pil_to_tensor(pil.resized_crop(photo, *box, [32, 32], mode)).numpy()
        assert np.array_equal(shown_by(cut, photo, its), expected)


def test_a_simple_crop_is_cut_out_of_the_whole_photo_as_torchvision_does(photos):
    cut = cutting(crop="src")
    assert cut.cropped
    photos = [*photos, photos[0].resize((200, 40)), photos[0].resize((41, 150))]
    words = cut.words(torch.arange(len(photos)), torch.zeros(len(photos), dtype=torch.int64), epoch=2)
    places = []
    for photo, its in zip(photos, words, strict=True):
        whole = pil.pad(pil.resize(photo, [32], InterpolationMode.BICUBIC), [4], padding_mode="reflect")
        width, height = whole.size
        top, left = int(its[ROW]) * (height - 32 + 1) >> 32, int(its[COLUMN]) * (width - 32 + 1) >> 32
        assert np.array_equal(shown_by(cut, photo, its), pil.pil_to_tensor(pil.crop(whole, top, left, 32, 32)).numpy())
        places.append((top, left))
    assert max(map(max, places)) > 2 * 4  # beyond what the middle square has room for


def test_a_simple_crop_of_a_square_is_the_devices():
    cut = cutting(crop="src")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    words = cut.words(IDS, IDS % 3, epoch=1)
    shown = [
        shown_by(cut, Image.fromarray(one.transpose(1, 2, 0)), its) for one, its in zip(pixels, words, strict=True)
    ]
    assert np.array_equal(np.stack(shown), simple_crop(torch.from_numpy(pixels), words, 32).numpy())


def test_crops_differ_by_sample_view_epoch_and_seed():
    none = torch.zeros(1, dtype=torch.int64)
    drawn = [
        cutting(crop="rrc", seed=seed).words(none + sample, none + view, epoch)
        for seed, sample, view, epoch in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    ]
    assert len({tuple(words[0].tolist()) for words in drawn}) == 5


@pytest.mark.parametrize("views", [None, ViewsConfig(crop="pad")])
def test_what_the_device_crops_comes_as_the_middle_square(photos, views):
    cut = Cutting(size=32, crop_pct=0.5, views=views, seed=0)
    assert not cut.cropped
    (words,) = cut.words(IDS[:1], IDS[:1], 0)
    assert np.array_equal(shown_by(cut, photos[0], words), np.asarray(fit(photos[0], 32)).transpose(2, 0, 1))


def save(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Image.open(io.BytesIO(stream.getvalue()))


ODD = {
    "grey": lambda photo: save(photo.convert("L")),
    "palette": lambda photo: save(photo.quantize(16)),
    "palette with transparency": lambda photo: save(photo.quantize(16), transparency=b"\x80" * 16),
    "RGBA": lambda photo: save(Image.merge("RGBA", (*photo.split(), photo.convert("L")))),
    "CMYK": lambda photo: save(photo.convert("CMYK"), "JPEG"),
    "16 bits": lambda photo: save(Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)),
    "1 bit": lambda photo: save(photo.convert("1")),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("kind", ODD)
def test_odd_images_are_converted_as_timm_does(photos, kind):
    image = ODD[kind](photos[0])
    expected = create_transform(32, interpolation="bicubic", normalize=False)(image.convert("RGB")).numpy()
    assert np.array_equal(cutting().eval(image), expected)
    assert expected.std() > 10 or kind == "16 bits"  # of which Pillow keeps the lower 255 grey values


def test_the_orientation_of_exif_is_not_applied_as_in_timm(photos):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned, plain = (save(photos[0], "JPEG", **options) for options in ({"exif": exif}, {}))
    assert turned.getexif()[0x0112] == 6
    assert np.array_equal(cutting().eval(turned), cutting().eval(plain))
