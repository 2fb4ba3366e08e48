"""Sizes: the published parameter counts, and multiply-adds counted by hand."""

import pytest

from mixstill.distill.sizes import known_models, own_models, size_of


@pytest.mark.parametrize(
    ("name", "source", "millions", "gmacs"),
    [
        ("std_mixer_s16_224", "timm", 22.16, 4.2),
        ("std_mixer_b16_224", "timm", 66.71, 13.6),
        ("mixer_b16_224", "timm", 59.88, 12.6),
        ("std_resmlp_24_224", "timm", 32.45, 6.2),
        ("resmlp_big_24_16_224", "mixstill", 115.74, 23.0),
        ("std_resmlp_big_24_16_224", "mixstill", 122.56, 24.1),
        ("cyclemlp_b1_224", "mixstill", 15.16, 2.1),
        ("std_cyclemlp_b1_224", "mixstill", 18.42, 2.2),
        ("cyclemlp_b2_224", "mixstill", 26.80, 3.9),
        ("std_cyclemlp_b2_224", "mixstill", 30.07, 4.0),
    ],
)
def test_the_sizes_are_those_of_the_paper(name, source, millions, gmacs) -> None:
    """The multiply-adds too, but for Mixer, whose the paper rounds up: 4.3, 12.7 and 13.7."""
    size = size_of(name)
    assert (round(size.params / 1e6, 2), round(size.macs / 1e9, 1)) == (millions, gmacs)
    assert size.modules == (2 if name.startswith("std_") else 0)
    assert (size.input_size, size.num_classes, size.source) == (224, 1000, source)


def test_mixer_s4_at_32_pixels_has_the_published_size() -> None:
    assert size_of("mixer_s4_32").params == 17_156_196
    assert size_of("mixer_s4_32", 10).params == 17_110_026
    assert size_of("mixer_s4_32").source == "mixstill"


def test_multiply_adds_are_those_counted_by_hand() -> None:
    size = size_of("mixer_digits")
    patches, channels, blocks = 16, 64, 4
    tokens, per_patch = channels * 2 * patches * channels // 2, patches * 2 * channels * 4 * channels
    stem, head = patches * channels * 3 * 2 * 2, channels * 10
    assert size.macs == stem + blocks * (tokens + per_patch) + head


def test_a_modules_multiply_adds_are_those_of_the_tokens_own_row_and_column() -> None:
    patches, channels, classes = 16, 64, 10
    spatial = channels * ((patches + 1) * channels // 2 + channels // 2)
    channel = patches * ((channels + 1) * 4 * channels + 4 * channels)
    head = (channels + patches) * classes
    assert size_of("std_mixer_digits").macs - size_of("mixer_digits").macs == 2 * (spatial + channel + head)


def test_every_vision_mlp_has_a_student_by_name() -> None:
    assert {
        "std_mixer_s4_32",
        "std_mixer_b16_224",
        "std_resmlp_24_224",
        "std_gmlp_s16_224",
        "std_cyclemlp_b5_224",
    } <= set(known_models())
    assert "std_resnet18" not in known_models()
    assert set(own_models()) <= set(known_models())
