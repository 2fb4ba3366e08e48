"""Backbones of every family at other resolutions. B batch, N patches, C channels, K tiles per side."""

import copy
import warnings
from functools import partial

import pytest
import timm
import torch
from timm.layers import GatedMlp, GluMlp
from timm.models import build_model_with_cfg
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock, SpatialGatingBlock
from torch import nn
from torch.nn import functional as F

from mixstill.distill.heads import class_and_token_logits, separate_heads
from mixstill.errors import UserError
from mixstill.models.create import create_backbone, pixels
from mixstill.models.resizing import enlargement, head_names, resized, resized_weights, tiles_per_side

SMALL = {"num_blocks": 2, "embed_dim": 8, "patch_size": 2}
VIT = {"depth": 1, "embed_dim": 12, "num_heads": 3, "patch_size": 2}
CYCLE = {"depths": (1, 1), "embed_dims": (6, 6), "mlp_ratios": (2, 2), "stem_stride": 1}
SWIN = {"window_size": 7, "depths": (1, 1), "embed_dim": 12, "num_heads": (1, 2)}

# name, arguments, pixels per patch (or per step of the grid)
FAMILIES = {
    "mixer": ("mixer_micro_32", SMALL, 2),
    "mixer with a token": ("mixer_micro_distilled_32", SMALL, 2),
    "resmlp": ("resmlp_micro_32", SMALL, 2),
    "gmlp": ("gmlp_micro_32", SMALL, 2),
    "cyclemlp": ("cyclemlp_b1_224", CYCLE, 2),
    "vit": ("vit_tiny_patch16_224", VIT, 2),
    "deit": ("deit_tiny_patch16_224", VIT, 2),
    "deit with a token": ("deit_tiny_distilled_patch16_224", VIT, 2),
    "beit": ("beit_base_patch16_224", VIT, 2),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, 8),
    "resnet": ("resnet10t", {"channels": (8, 8, 8, 8), "stem_width": 8}, 8),
}
CHANGES = {"up": (4, 8), "three times": (4, 12), "down": (8, 4), "not a whole factor": (4, 6)}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_change = pytest.mark.parametrize("change", CHANGES)
every_factor = pytest.mark.parametrize("factor", [2, 3])


def randomised(model: nn.Module) -> nn.Module:
    """Many models start with heads or branches of zeros, which hide much; in float64, evaluating."""
    torch.manual_seed(0)
    for values in model.state_dict().values():
        if values.is_floating_point():
            nn.init.uniform_(values, 0.1, 0.5) if values.ndim < 2 else nn.init.normal_(values, std=0.3)
    return model.double().eval()


def make(family: str, grid: int) -> nn.Module:
    name, kwargs, patch = FAMILIES[family]
    return randomised(create_backbone(name, 5, input_size=grid * patch, kwargs=kwargs))


def images(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(side))


@every_family
@every_change
def test_every_family_runs_at_the_other_size_with_its_own_weights(family, change) -> None:
    name, kwargs, patch = FAMILIES[family]
    before, after = CHANGES[change]
    old = make(family, before)
    new = resized(old, name, after * patch, kwargs).double().eval()
    assert pixels(new) == after * patch
    logits = new(images(after * patch))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()
    same = [key for key, value in old.state_dict().items() if new.state_dict()[key].shape == value.shape]
    assert len(same) >= len(old.state_dict()) - 8
    for key in same:
        found, own = new.state_dict()[key].double(), old.state_dict()[key].double()
        torch.testing.assert_close(found, own, rtol=1e-6, atol=1e-6, msg=key)


@every_family
def test_a_model_goes_on_as_it_is_where_its_size_stays(family) -> None:
    name, kwargs, patch = FAMILIES[family]
    old = make(family, 4)
    new = create_backbone(name, 5, input_size=4 * patch, kwargs=kwargs).double().eval()
    new.load_state_dict(resized_weights(old, new))
    assert torch.equal(new(images(4 * patch)), old(images(4 * patch)))


def enlarged(old: nn.Module, name: str, kwargs, side: int) -> nn.Module:
    """By `resized`, in float64."""
    new = resized(old, name, side, kwargs).double().eval()
    new.load_state_dict(resized_weights(old, new))
    return new


@every_factor
@pytest.mark.parametrize("ratio", [{}, {"mlp_ratio": (0.3, 2.0)}, {"mlp_ratio": 1.5}, {"embed_dim": 7}])
def test_an_enlarged_mixer_computes_the_same_on_tiled_images(factor, ratio) -> None:
    kwargs = SMALL | ratio
    old = randomised(create_backbone("mixer_micro_32", 5, input_size=8, kwargs=kwargs))
    new = enlarged(old, "mixer_micro_32", kwargs, 8 * factor)
    small, large = old.blocks[0].mlp_tokens.fc1, new.blocks[0].mlp_tokens.fc1
    assert large.weight.shape == (factor**2 * small.out_features, factor**2 * small.in_features)
    tiled = images(8).repeat(1, 1, factor, factor)
    torch.testing.assert_close(new(tiled), old(images(8)), atol=1e-10, rtol=0)
    other = torch.cat([images(8), images(8).flip(3)], 3).repeat(1, 1, 2, 1)
    if factor == 2:  # no tile sees another: the features of an image are those of its tiles
        found = new.forward_features(other).view(2, 8, 8, -1)[:, :4, 4:].flatten(1, 2)
        torch.testing.assert_close(found, old.forward_features(images(8).flip(3)), atol=1e-10, rtol=0)


@every_factor
def test_an_enlarged_mixer_with_a_token_computes_the_same_in_both_heads(factor) -> None:
    old = make("mixer with a token", 4)
    new = enlarged(old, "mixer_micro_distilled_32", SMALL, 8 * factor)
    found = []
    for model, seen in ((old, images(8)), (new, images(8).repeat(1, 1, factor, factor))):
        separate_heads(model)
        found.append(class_and_token_logits(model, model.forward_features(seen)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("channels", "ratio"), [(8, 0.5), (49, 3.5 / 49), (7, 0.3), (48, 0.35)])
def test_the_ratio_makes_just_as_many_hidden_units_as_the_scheme_needs(channels, ratio) -> None:
    kwargs = {"num_blocks": 1, "patch_size": 2, "embed_dim": channels, "mlp_ratio": [ratio, 3.0]}
    old, new = (create_backbone("mixer_micro_32", 5, input_size=side, kwargs=kwargs) for side in (4, 12))
    wider = kwargs | enlargement(old, new)
    wide = create_backbone("mixer_micro_32", 5, input_size=12, kwargs=wider)
    assert wide.blocks[0].mlp_tokens.fc1.out_features == 9 * old.blocks[0].mlp_tokens.fc1.out_features
    assert wide.blocks[0].mlp_channels.fc1.out_features == 3 * channels
    assert tiles_per_side(old, wide) == 3
    assert tiles_per_side(old, new) == 1
    assert enlargement(old, wide) == {}  # it is as wide already


@pytest.mark.parametrize(("before", "after"), [(8, 12), (8, 20), (16, 8), (8, 8)])
def test_a_factor_that_is_not_whole_enlarges_nothing(before, after) -> None:
    old, new = (create_backbone("mixer_micro_32", 5, input_size=side, kwargs=SMALL) for side in (before, after))
    assert enlargement(old, new) == {}
    assert tiles_per_side(old, new) == 1
    new.load_state_dict(resized_weights(old, new))


def test_the_ratio_is_the_papers() -> None:
    old, new = (create_backbone("mixer_micro_32", 5, input_size=side) for side in (32, 64))
    assert enlargement(old, new) == {"mlp_ratio": [2.0, 4.0]}


def test_a_mixer_of_the_width_it_had_is_interpolated() -> None:
    old = make("mixer", 4)
    new = create_backbone("mixer_micro_32", 5, input_size=16, kwargs=SMALL).double().eval()
    new.load_state_dict(resized_weights(old, new))
    assert new.blocks[0].mlp_tokens.fc1.weight.shape == (4, 64)


def timm_mlp(side: int, **layers) -> nn.Module:
    size = {"img_size": side, "patch_size": 2, "num_blocks": 1, "embed_dim": 8, "num_classes": 5}
    return randomised(build_model_with_cfg(MlpMixer, "gmixer_12_224", False, **size, **layers))


TOKEN_MIXING = {
    "mixer": (partial(timm_mlp), "mlp_tokens"),
    "gmixer": (partial(timm_mlp, mlp_layer=GluMlp, act_layer=nn.SiLU, mlp_ratio=(1.0, 4.0)), "mlp_tokens"),
    "resmlp": (partial(timm_mlp, block_layer=ResBlock, norm_layer=Affine, mlp_ratio=4), "linear_tokens"),
    "gmlp": (
        partial(timm_mlp, block_layer=SpatialGatingBlock, mlp_layer=GatedMlp, mlp_ratio=6),
        "mlp_channels.gate.proj",
    ),
}


@pytest.mark.parametrize("kind", TOKEN_MIXING)
@pytest.mark.parametrize(("before", "after"), [(4, 8), (8, 4), (4, 6)])
def test_token_mixing_answers_constants_as_before_and_is_resampled_to_the_new_patches(kind, before, after) -> None:
    build, layer = TOKEN_MIXING[kind]
    old, new = build(2 * before), build(2 * after)
    new.load_state_dict(resized_weights(old, new))
    constant = torch.tensor([[1.5], [-0.4]]).double()
    answer = old.blocks[0].get_submodule(layer)(constant.expand(2, before**2))
    grid = answer.view(2, 1, before, before)
    expected = F.interpolate(grid, (after, after), mode="bicubic", antialias=True).flatten(1)
    found = new.blocks[0].get_submodule(layer)(constant.expand(2, after**2))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["gmixer", "resmlp", "gmlp"])
def test_only_plain_token_mlps_are_enlarged(kind) -> None:
    build, _ = TOKEN_MIXING[kind]
    assert enlargement(build(8), build(16)) == {}
    assert tiles_per_side(build(8), build(16)) == 1


def test_the_distillation_tokens_own_row_and_column_stay() -> None:
    old = make("mixer with a token", 4)
    new = create_backbone("mixer_micro_distilled_32", 5, input_size=12, kwargs=SMALL)
    state = resized_weights(old, new)
    for key, value in old.state_dict().items():
        if key.endswith("mlp_tokens.fc1.weight"):
            assert torch.equal(state[key][:, 0], value[:, 0])
        if key.endswith(("mlp_tokens.fc2.weight", "mlp_tokens.fc2.bias")):
            assert torch.equal(state[key][0], value[0])


@pytest.mark.parametrize("family", ["vit", "deit", "deit with a token", "beit", "swin"])
@every_change
def test_what_timm_resizes_by_itself_is_what_timm_makes_of_it(family, change) -> None:
    name, kwargs, patch = FAMILIES[family]
    before, after = (patch * grid for grid in CHANGES[change])
    old = make(family, before // patch)
    theirs = copy.deepcopy(old)
    with warnings.catch_warnings(action="ignore"):
        sides = min(7, after // 4), min(7, after // 8)
        windows = {"window_size": [(side, side) for side in sides]} if family == "swin" else {}
        theirs.set_input_size(img_size=(after, after), **windows)
    new = create_backbone(name, 5, input_size=after, kwargs=kwargs).double().eval()
    new.load_state_dict(resized_weights(old, new))
    assert torch.equal(new(images(after)), theirs(images(after)))


@pytest.mark.parametrize("family", ["cyclemlp", "resnet"])
@every_change
def test_what_is_bound_to_no_grid_stays_to_the_bit(family, change) -> None:
    name, kwargs, patch = FAMILIES[family]
    before, after = (patch * grid for grid in CHANGES[change])
    old = make(family, before // patch)
    new = create_backbone(name, 5, input_size=after, kwargs=kwargs).double().eval()
    new.load_state_dict(resized_weights(old, new))
    assert torch.equal(new(images(after)), old(images(after)))


def test_a_family_that_no_way_is_known_for_is_told_with_its_parameter() -> None:
    kwargs = {"depth": 1, "embed_dim": 16, "num_heads": 2}
    old = create_backbone("cait_xxs24_224", 5, input_size=32, kwargs=kwargs)
    with pytest.raises(UserError) as caught:
        resized(old, "cait_xxs24_224", 64, kwargs)
    assert str(caught.value) == (
        "data.input_size: 'cait_xxs24_224' cannot be resized from 32 to 64 pixels: no way is known to resize its "
        "'pos_embed'"
    )


def test_a_size_that_the_patch_does_not_divide_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"data.input_size: 9 pixels are not divisible by the patch of 2 .* try 8 or 10"
    ):
        resized(make("mixer", 4), "mixer_micro_32", 9, SMALL)


def test_a_size_among_the_arguments_gives_way() -> None:
    old = create_backbone("mixer_micro_32", 5, kwargs=SMALL | {"img_size": 8})
    assert pixels(resized(old, "mixer_micro_32", 16, SMALL | {"img_size": 8})) == 16


def test_heads_of_other_classes_are_no_hindrance() -> None:
    old = make("vit", 4)
    new = create_backbone("vit_tiny_patch16_224", 7, input_size=12, kwargs=VIT)
    state = resized_weights(old, new)
    assert state["head.weight"].shape == (5, 12)
    assert state["pos_embed"].shape == new.state_dict()["pos_embed"].shape
    assert head_names(make("deit with a token", 4)) == ("head.", "head_dist.")
    assert head_names(timm.create_model("resnet10t")) == ("fc.",)
