"""The sizes of timm's MLPs that timm lacks: parameters counted by hand, layer scale, normalisation."""

from functools import partial

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import mlp_mixer

from mixstill.models import distilled, zoo

CIFAR_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


# --- parameters ---


def linear(inputs, outputs):
    return inputs * outputs + outputs


def mixer(tokens, channels):
    """Two layer norms, an MLP over the tokens of C / 2, and one over the channels of 4 C."""
    token_mlp = linear(tokens, channels // 2) + linear(channels // 2, tokens)
    return 2 * 2 * channels + token_mlp + linear(channels, 4 * channels) + linear(4 * channels, channels)


def resmlp(tokens, channels):
    """Two affine layers, a linear layer over the tokens, an MLP over the channels, two vectors of layer scale."""
    channel_mlp = linear(channels, 4 * channels) + linear(4 * channels, channels)
    return 2 * 2 * channels + linear(tokens, tokens) + channel_mlp + 2 * channels


def gmlp(tokens, channels):
    """A layer norm, 6 C wide into halves, the norm and the linear layer over tokens of one half, and back from 3 C."""
    gate = 2 * 3 * channels + linear(tokens, tokens)
    return 2 * channels + linear(channels, 6 * channels) + gate + linear(3 * channels, channels)


def count(block, blocks, channels, patch, tokens, classes, heads=1):
    """With two heads the token is a parameter, and a row more for each block."""
    stem, norm, token = linear(3 * patch**2, channels), 2 * channels, channels * (heads - 1)
    return stem + token + blocks * block(tokens + heads - 1, channels) + norm + heads * linear(channels, classes)


COUNTS = {
    "mixer_s4_32": count(mixer, 8, 512, patch=4, tokens=64, classes=100),
    "mixer_b4_32": count(mixer, 12, 768, patch=4, tokens=64, classes=100),
    "mixer_micro_32": count(mixer, 4, 64, patch=4, tokens=64, classes=100),
    "mixer_digits": count(mixer, 4, 64, patch=2, tokens=16, classes=10),
    "resmlp_s12_224": count(resmlp, 12, 384, patch=16, tokens=196, classes=1000),
    "resmlp_big_24_16_224": count(resmlp, 24, 768, patch=16, tokens=196, classes=1000),
    "resmlp_s12_4_32": count(resmlp, 12, 384, patch=4, tokens=64, classes=100),
    "resmlp_s24_4_32": count(resmlp, 24, 384, patch=4, tokens=64, classes=100),
    "resmlp_micro_32": count(resmlp, 4, 64, patch=4, tokens=64, classes=100),
    "gmlp_ti4_32": count(gmlp, 30, 128, patch=4, tokens=64, classes=100),
    "gmlp_s4_32": count(gmlp, 30, 256, patch=4, tokens=64, classes=100),
    "gmlp_micro_32": count(gmlp, 4, 64, patch=4, tokens=64, classes=100),
    "mixer_s16_distilled_224": count(mixer, 8, 512, patch=16, tokens=196, classes=1000, heads=2),
    "mixer_b16_distilled_224": count(mixer, 12, 768, patch=16, tokens=196, classes=1000, heads=2),
    "resmlp_s24_distilled_224": count(resmlp, 24, 384, patch=16, tokens=196, classes=1000, heads=2),
    "resmlp_big_24_16_distilled_224": count(resmlp, 24, 768, patch=16, tokens=196, classes=1000, heads=2),
    "gmlp_s16_distilled_224": count(gmlp, 30, 256, patch=16, tokens=196, classes=1000, heads=2),
    "mixer_s4_distilled_32": count(mixer, 8, 512, patch=4, tokens=64, classes=100, heads=2),
    "mixer_micro_distilled_32": count(mixer, 4, 64, patch=4, tokens=64, classes=100, heads=2),
}


@pytest.mark.parametrize("name", zoo.SIZES)
def test_parameters_are_as_many_as_the_papers_layers_have(name):
    model = timm.create_model(name, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name]


def test_the_layers_counted_so_give_the_published_sizes():
    assert COUNTS["mixer_s4_32"] == 17_156_196
    assert count(mixer, 8, 512, patch=4, tokens=64, classes=10) == 17_110_026
    assert COUNTS["mixer_b4_32"] == 57_417_316
    assert count(mixer, 8, 512, patch=16, tokens=196, classes=1000) == 18_528_264
    assert COUNTS["resmlp_s12_224"] == 15_350_872
    assert COUNTS["resmlp_big_24_16_224"] == 115_736_776
    assert count(gmlp, 30, 128, patch=16, tokens=196, classes=1000) == 5_867_328
    assert count(gmlp, 30, 256, patch=16, tokens=196, classes=1000) == 19_422_656


def test_the_distilled_mixer_has_the_size_that_its_module_tells():
    assert COUNTS["mixer_s16_distilled_224"] == 19_045_880
    assert "19,045,880" in distilled.__doc__


# --- what they are built of ---


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("resmlp_s12_224", 0.1),
        ("resmlp_s12_4_32", 0.1),
        ("resmlp_micro_32", 0.1),
        ("resmlp_s24_4_32", 1e-5),
        ("resmlp_s24_distilled_224", 1e-5),
        ("resmlp_big_24_16_224", 1e-6),
        ("resmlp_big_24_16_distilled_224", 1e-6),
    ],
)
def test_layer_scale_starts_as_in_the_authors_code(name, start):
    model = timm.create_model(name, num_blocks=2, embed_dim=8)
    scales = torch.cat([torch.cat([block.ls1, block.ls2]) for block in model.blocks])
    assert torch.equal(scales, torch.full((32,), start))


@pytest.mark.parametrize(
    ("name", "start"),
    [("resmlp_12_224", 1e-4), ("resmlp_24_224", 1e-5), ("resmlp_36_224", 1e-6), ("resmlp_big_24_224", 1e-6)],
)
def test_timms_layer_scale_differs_from_the_authors_for_s12_alone(name, start, monkeypatch):
    build = partial(mlp_mixer.build_model_with_cfg, img_size=16)
    narrow = {"num_blocks": 2, "embed_dim": 8}  # which timm's own entries do not take
    monkeypatch.setattr(mlp_mixer, "build_model_with_cfg", lambda *args, **kwargs: build(*args, **kwargs | narrow))
    model = timm.create_model(name)
    scales = torch.cat([torch.cat([block.ls1, block.ls2]) for block in model.blocks])
    assert torch.equal(scales, torch.full((32,), start))


@pytest.mark.parametrize(
    ("name", "timms", "patch"),
    [
        ("resmlp_s12_224", "resmlp_12_224", 16),
        ("resmlp_s12_4_32", "resmlp_12_224", 4),
        ("resmlp_s24_4_32", "resmlp_24_224", 4),
        ("resmlp_big_24_16_224", "resmlp_big_24_224", 16),
        ("gmlp_ti4_32", "gmlp_ti16_224", 4),
        ("gmlp_s4_32", "gmlp_s16_224", 4),
        ("mixer_s4_32", "mixer_s16_224", 4),
        ("mixer_b4_32", "mixer_b16_224", 4),
    ],
)
def test_a_model_is_timms_with_other_patches(name, timms, patch):
    pixels = zoo.SIZES[name].cfg["input_size"][1]
    own, other = (
        timm.create_model(name, num_classes=3, device="meta"),
        timm.create_model(timms, num_classes=3, device="meta"),
    )
    assert own.stem.patch_size == (patch, patch)
    assert [type(module) for module in own.modules()] == [type(module) for module in other.modules()]
    tokens = {(pixels // patch) ** 2, *own.stem.proj.weight.shape}
    for (key, mine), (same, theirs) in zip(own.named_parameters(), other.named_parameters(), strict=True):
        assert key == same
        for size, usual in zip(mine.shape, theirs.shape, strict=True):
            assert size == usual or size in tokens


@pytest.mark.parametrize("name", zoo.SIZES)
def test_timm_resolves_input_size_normalisation_and_crop(name):
    pixels = 8 if name == "mixer_digits" else 32 if name.endswith("_32") else 224
    num_classes, crop_pct = {8: (10, 1.0), 32: (100, 1.0), 224: (1000, 0.875)}[pixels]
    at_224 = IMAGENET_STATISTICS if name.startswith("resmlp") else HALVES
    model = timm.create_model(name, device="meta")
    resolved = resolve_data_config({}, model=model)
    assert resolved["input_size"] == (3, pixels, pixels)
    assert (resolved["mean"], resolved["std"]) == {8: HALVES, 32: CIFAR_STATISTICS, 224: at_224}[pixels]
    assert (resolved["crop_pct"], resolved["interpolation"]) == (crop_pct, "bicubic")
    assert model.num_classes == num_classes
    assert model.default_cfg["fixed_input_size"]
    assert model.stem.num_patches == {8: 16, 32: 64, 224: 196}[pixels]


@pytest.mark.parametrize(
    ("name", "kind"), [("mixer_digits", "MlpMixer"), ("mixer_s4_distilled_32", "DistilledMlpMixer")]
)
def test_sizes_can_be_overridden_where_timms_own_entries_cannot(name, kind):
    overrides = {"img_size": 12, "patch_size": 3, "num_blocks": 2, "embed_dim": 24, "in_chans": 1, "num_classes": 5}
    model = timm.create_model(name, **overrides, drop_rate=0.1, drop_path_rate=0.2)
    assert type(model).__name__ == kind
    assert model.stem.num_patches == 16
    assert (len(model.blocks), model.embed_dim, model.head_drop.p) == (2, 24, 0.1)
    assert model.blocks[1].drop_path.drop_prob == 0.2
    assert model.eval()(torch.zeros(1, 1, 12, 12)).shape == (1, 5)
    with pytest.raises(TypeError, match="patch_size"):
        timm.create_model("mixer_s16_224", patch_size=4)


def test_features_only_gives_the_last_three_blocks():
    model = timm.create_model("mixer_digits", features_only=True)
    assert [feature.shape for feature in model(torch.zeros(2, 3, 8, 8))] == [(2, 64, 4, 4)] * 3
