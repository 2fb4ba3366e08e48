import pytest
import timm
import torch
from timm.data import resolve_data_config

from mixstill.models import zoo

CIFAR_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        ("mixer_s4_32", 100, 17_156_196),
        ("mixer_s4_32", 10, 17_110_026),
        ("mixer_b4_32", 100, 57_417_316),
        ("resmlp_big_24_16_224", 1000, 115_736_776),
    ],
)
def test_parameters_are_as_many_as_published(name, num_classes, expected):
    model = timm.create_model(name, num_classes=num_classes, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


MIXERS = [name for name in zoo.SIZES if name.startswith("mixer")]


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_is_built_of_its_sizes(name):
    pixels, patch, num_blocks, embed_dim = zoo.SIZES[name].values()
    model = timm.create_model(name, num_classes=7, device="meta")
    assert (len(model.blocks), model.embed_dim) == (num_blocks, embed_dim)
    token_mlp, channel_mlp = model.blocks[0].mlp_tokens.fc1, model.blocks[0].mlp_channels.fc1
    assert tuple(token_mlp.weight.shape) == (embed_dim // 2, (pixels // patch) ** 2)
    assert tuple(channel_mlp.weight.shape) == (4 * embed_dim, embed_dim)
    assert model(torch.empty(2, 3, pixels, pixels, device="meta")).shape == (2, 7)


def test_resmlp_big_24_16_is_timms_big_resmlp_with_patches_of_16():
    own, timms = (timm.create_model(name, device="meta") for name in ("resmlp_big_24_16_224", "resmlp_big_24_224"))
    shapes, others = ({name: tuple(p.shape) for name, p in model.named_parameters()} for model in (own, timms))
    patches = {name: shape for name, shape in shapes.items() if shape != others.pop(name)}
    assert not others
    assert patches.pop("stem.proj.weight") == (768, 3, 16, 16)
    assert set(patches.values()) == {(196, 196), (196,)}
    small = timm.create_model("resmlp_big_24_16_224", img_size=32, num_blocks=2, embed_dim=8, num_classes=3)
    assert {block.ls1.unique().item() for block in small.blocks} == {torch.tensor(1e-6).item()}
    assert small(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "pixels", "num_classes", "statistics", "crop_pct"),
    [
        ("mixer_s4_32", 32, 100, CIFAR_STATISTICS, 1.0),
        ("mixer_b4_32", 32, 100, CIFAR_STATISTICS, 1.0),
        ("mixer_micro_32", 32, 100, CIFAR_STATISTICS, 1.0),
        ("mixer_digits", 8, 10, HALVES, 1.0),
        ("resmlp_big_24_16_224", 224, 1000, IMAGENET_STATISTICS, 0.875),
    ],
)
def test_timm_resolves_input_size_normalisation_and_crop(name, pixels, num_classes, statistics, crop_pct):
    model = timm.create_model(name, device="meta")
    resolved = resolve_data_config({}, model=model)
    assert resolved["input_size"] == (3, pixels, pixels)
    assert (resolved["mean"], resolved["std"]) == statistics
    assert (resolved["crop_pct"], resolved["interpolation"]) == (crop_pct, "bicubic")
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
