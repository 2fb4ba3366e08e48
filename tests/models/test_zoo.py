import pytest
import timm
import torch
from timm.data import resolve_data_config

from mixstill.models import zoo

CIFAR_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        ("mixer_s4_32", 100, 17_156_196),
        ("mixer_s4_32", 10, 17_110_026),
        ("mixer_b4_32", 100, 57_417_316),
    ],
)
def test_parameters_are_as_many_as_published(name, num_classes, expected):
    model = timm.create_model(name, num_classes=num_classes, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("name", zoo.SIZES)
def test_every_entry_is_built_of_its_sizes(name):
    pixels, patch, num_blocks, embed_dim = zoo.SIZES[name].values()
    model = timm.create_model(name, num_classes=7, device="meta")
    assert (len(model.blocks), model.embed_dim) == (num_blocks, embed_dim)
    token_mlp, channel_mlp = model.blocks[0].mlp_tokens.fc1, model.blocks[0].mlp_channels.fc1
    assert tuple(token_mlp.weight.shape) == (embed_dim // 2, (pixels // patch) ** 2)
    assert tuple(channel_mlp.weight.shape) == (4 * embed_dim, embed_dim)
    assert model(torch.empty(2, 3, pixels, pixels, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "pixels", "num_classes", "statistics"),
    [
        ("mixer_s4_32", 32, 100, CIFAR_STATISTICS),
        ("mixer_b4_32", 32, 100, CIFAR_STATISTICS),
        ("mixer_micro_32", 32, 100, CIFAR_STATISTICS),
        ("mixer_digits", 8, 10, HALVES),
    ],
)
def test_timm_resolves_input_size_normalisation_and_crop(name, pixels, num_classes, statistics):
    model = timm.create_model(name, device="meta")
    resolved = resolve_data_config({}, model=model)
    assert resolved["input_size"] == (3, pixels, pixels)
    assert (resolved["mean"], resolved["std"]) == statistics
    assert resolved["crop_pct"] == 1.0
    assert model.num_classes == num_classes
    assert model.default_cfg["fixed_input_size"]
    assert model.get_submodule(model.default_cfg["classifier"]) is model.get_classifier()
    assert model.get_submodule(model.default_cfg["first_conv"]).weight.ndim == 4


def test_sizes_can_be_overridden_where_timms_own_entries_cannot():
    overrides = {"img_size": 12, "patch_size": 3, "num_blocks": 2, "embed_dim": 24, "in_chans": 1, "num_classes": 5}
    model = timm.create_model("mixer_digits", **overrides, drop_rate=0.1, drop_path_rate=0.2)
    assert model.stem.num_patches == 16
    assert (len(model.blocks), model.embed_dim, model.head_drop.p) == (2, 24, 0.1)
    assert model.blocks[1].drop_path.drop_prob == 0.2
    assert model(torch.zeros(1, 1, 12, 12)).shape == (1, 5)
    with pytest.raises(TypeError, match="patch_size"):
        timm.create_model("mixer_s16_224", patch_size=4)


@pytest.mark.parametrize("name", zoo.SIZES)
def test_timm_has_no_weights_to_fetch(name):
    assert not timm.is_model_pretrained(name)
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model(name, pretrained=True, num_blocks=1, embed_dim=8)


def test_features_only_gives_the_last_three_blocks():
    model = timm.create_model("mixer_digits", features_only=True)
    assert [feature.shape for feature in model(torch.zeros(2, 3, 8, 8))] == [(2, 64, 4, 4)] * 3
