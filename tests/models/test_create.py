import contextlib
import logging
from urllib.error import URLError

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models import _builder

from mixstill.errors import UserError
from mixstill.models.create import create_backbone, patch_size, pixels, token_mixing_width

SMALL = {"num_blocks": 2, "embed_dim": 8}
SMALL_VIT = {"depth": 3, "embed_dim": 12, "num_heads": 3, "patch_size": 8}
SMALL_SWIN = {"depths": (1, 1), "embed_dim": 12, "num_heads": (1, 2), "window_size": 2}


def message_of(*arguments, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        create_backbone(*arguments, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- input sizes ---


@pytest.mark.parametrize(
    ("name", "kwargs", "usual", "other", "patch"),
    [
        ("mixer_digits", SMALL, 8, 12, 2),
        ("vit_tiny_patch16_224", SMALL_VIT, 224, 32, 8),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, 224, 32, 4),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}, 224, 64, None),
        ("cifar_resnet8", {"width": 4}, 32, 16, None),
        ("levit_128s", {"embed_dim": (16, 16, 16), "num_heads": (1, 1, 1), "depth": (1, 1, 1)}, 224, 64, None),
    ],
)
def test_a_backbone_is_built_for_its_input_size(name, kwargs, usual, other, patch):
    with torch.device("meta"):
        assert pixels(create_backbone(name, 5, kwargs=kwargs)) == usual
    backbone = create_backbone(name, 5, input_size=other, kwargs=kwargs).eval()
    assert pixels(backbone) == other
    assert patch_size(backbone) == patch
    assert backbone.pretrained_cfg["input_size"] == (3, other, other)
    assert backbone(torch.randn(1, 3, other, other)).shape == (1, 5)
    assert timm.get_pretrained_cfg(name).input_size == (3, usual, usual)


def test_the_usual_input_size_changes_nothing():
    given, usual = create_backbone("mixer_digits", 5, input_size=8), create_backbone("mixer_digits", 5)
    assert {key: value.shape for key, value in given.state_dict().items()} == {
        key: value.shape for key, value in usual.state_dict().items()
    }


def test_img_size_among_the_arguments_may_not_contradict_input_size():
    kwargs = {**SMALL, "img_size": 16}
    for size in (None, 16):
        assert pixels(create_backbone("mixer_digits", 5, input_size=size, kwargs=kwargs)) == 16
    assert message_of("mixer_digits", 5, input_size=8, kwargs=kwargs) == (
        f"data.input_size: 8 pixels, but {kwargs | {'num_classes': 5}} build 'mixer_digits' for 16"
    )


@pytest.mark.parametrize(
    ("name", "size", "kwargs", "told"),
    [
        ("mixer_digits", 9, SMALL, "9 pixels are not divisible by the patch of 2 of 'mixer_digits'; try 8 or 10"),
        (
            "mixer_digits",
            None,
            {**SMALL, "patch_size": 3},
            "8 pixels are not divisible by the patch of 3 of 'mixer_digits'; try 6 or 9",
        ),
        (
            "mixer_digits",
            None,
            {**SMALL, "patch_size": 5, "img_size": 24},
            "24 pixels are not divisible by the patch of 5 of 'mixer_digits'; try 20 or 25",
        ),
        (
            "vit_tiny_patch16_224",
            30,
            SMALL_VIT,
            "30 pixels are not divisible by the patch of 8 of 'vit_tiny_patch16_224'; try 24 or 32",
        ),
        (
            "mixer_digits",
            None,
            {**SMALL, "patch_size": 16, "img_size": 8},
            "8 pixels are not divisible by the patch of 16 of 'mixer_digits'; try 16",
        ),
    ],
)
def test_a_size_that_the_patch_does_not_divide_is_a_users_mistake(name, size, kwargs, told):
    assert message_of(name, 5, input_size=size, kwargs=kwargs) == f"data.input_size: {told}"


def test_patches_that_overlap_need_not_divide_the_input():
    with torch.device("meta"):
        backbone = create_backbone("pvt_v2_b0", 5, input_size=96)
        assert (pixels(backbone), patch_size(backbone)) == (96, None)
        assert backbone.patch_embed.patch_size == (7, 7)
        assert backbone(torch.empty(1, 3, 96, 96)).shape == (1, 5)


def test_a_model_of_timm_whose_own_size_its_patch_does_not_divide_is_built_as_it_is():
    with torch.device("meta"):
        backbone = create_backbone("vit_so400m_patch14_siglip_384", 5, kwargs={"depth": 1})
        assert (pixels(backbone), patch_size(backbone)) == (384, 14)
        assert backbone(torch.empty(1, 3, 384, 384)).shape == (1, 5)
    told = "392 pixels are not divisible by the patch of 16 of 'vit_tiny_patch16_224'; try 384 or 400"
    assert message_of("vit_tiny_patch16_224", 5, kwargs={"img_size": 392}) == f"data.input_size: {told}"


# --- names and arguments ---


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mixer_s16_225", "'mixer_s16_225'; did you mean 'mixer_s16_224'?"),
        ("resnet_50", "'resnet_50'; did you mean 'resnet50'?"),
        ("", "''; there are "),
        ("?", "'?'; there are "),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, hint):
    assert message_of(name, 5).startswith(f"model: unknown value {hint}")


@pytest.mark.parametrize(
    ("name", "kwargs", "reason"),
    [
        ("mixer_digits", {"blocks": 3}, "unexpected keyword argument 'blocks'"),
        ("mixer_digits", {"embed_dim": "wide"}, ""),
        ("mixer_digits", {"embed_dim": -1}, "negative dimension"),
        ("mixer_s16_224", {"patch_size": 8}, "multiple values for keyword argument 'patch_size'"),
        ("vit_tiny_patch16_224", {"num_heads": 0}, "by zero"),
        ("vit_tiny_patch16_224", {"num_heads": 5}, ""),
        ("swin_tiny_patch4_window7_224", {**SMALL_SWIN, "depths": (1, 1, 1)}, "out of range"),
        ("resnet10t.none", {}, "Invalid pretrained tag (none) for resnet10t."),
        ("hub:resnet", {}, "Unknown model source 'hub'"),
    ],
)
@pytest.mark.parametrize("size", [None, 64])
def test_arguments_that_the_model_does_not_take_are_told_in_one_line(name, kwargs, reason, size):
    message = message_of(name, 5, input_size=size, kwargs=kwargs)
    assert message.startswith(f"model: {name!r} cannot be built with {kwargs | {'num_classes': 5}}: ")
    assert reason in message


def test_the_mistakes_that_mixstills_own_backbones_tell_are_left_as_they_are():
    assert message_of("cifar_resnet8", 5, kwargs={"depth": 9}).startswith("depth: 9 is not valid; it must be 6n+2")


def test_arguments_reach_the_model_and_stay_as_they_were():
    kwargs = {"num_blocks": 2, "embed_dim": 8, "num_classes": 9}
    backbone = create_backbone("mixer_digits", 7, input_size=12, drop_path=0.3, kwargs=kwargs)
    assert (len(backbone.blocks), backbone.embed_dim, backbone.num_classes) == (2, 8, 7)
    assert kwargs == {"num_blocks": 2, "embed_dim": 8, "num_classes": 9}


@pytest.mark.parametrize(
    ("name", "kwargs", "rates"),
    [
        ("mixer_digits", SMALL, [0.3, 0.3]),
        ("vit_tiny_patch16_224", SMALL_VIT, [0.15, 0.15, 0.3, 0.3]),
        ("cifar_resnet8", {}, [0.0, 0.15, 0.3]),
    ],
)
def test_drop_path_reaches_the_model(name, kwargs, rates):
    backbone = create_backbone(name, 5, drop_path=0.3, kwargs=kwargs)
    found = [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath)]
    assert found == pytest.approx(rates)
    plain = create_backbone(name, 5, kwargs=kwargs)
    assert not any(module.drop_prob for module in plain.modules() if isinstance(module, DropPath))


# --- pretrained weights ---


@pytest.mark.parametrize("error", [OSError, ConnectionError, FileNotFoundError, RuntimeError])
@pytest.mark.parametrize(("name", "pretrained"), [("resnet10t", True), ("hf-hub:timm/resnet10t.c3_in1k", False)])
def test_weights_that_cannot_be_fetched_are_told_in_one_line(monkeypatch, name, pretrained, error):
    def offline(*_, **__):
        raise error("no route\nto the hub " + 1000 * "x")

    monkeypatch.setattr(timm, "create_model", offline)
    message = message_of(name, 5, pretrained=pretrained)
    assert message.startswith(f"model: the weights of {name!r} cannot be fetched: no route to the hub xx")
    assert len(message) < 250


def test_what_the_hubs_client_wraps_is_told_first(monkeypatch):
    def offline(*_, **__):
        try:
            raise ConnectionError("Name or service not known")
        except ConnectionError as error:
            raise OSError("An error happened while trying to locate the file on the Hub " + 200 * "x") from error

    monkeypatch.setattr(timm, "create_model", offline)
    said = message_of("resnet10t", 5, pretrained=True)
    assert said.startswith("model: the weights of 'resnet10t' cannot be fetched: Name or service not known; An error ")


@pytest.mark.parametrize("name", ["cyclemlp_b1_224", "cifar_resnet20", "cifar_resnet20.cifar10"])
def test_weights_that_stand_at_an_address_cannot_be_fetched_offline(monkeypatch, name):
    def offline(*_, **__):
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(_builder, "load_state_dict_from_url", offline)
    assert message_of(name, 5, pretrained=True) == (
        f"model: the weights of {name!r} cannot be fetched: <urlopen error [Errno -2] Name or service not known>"
    )


def test_a_model_without_pretrained_weights_is_told_in_one_line():
    message = message_of("mixer_digits", 5, pretrained=True)
    assert message.startswith("model: the weights of 'mixer_digits' cannot be fetched: No pretrained weights exist")


@pytest.mark.parametrize("name", ["mixer_digits", "resnet10t"])
def test_the_hubs_retries_are_silent_and_its_logging_is_left_as_it_was(monkeypatch, name):
    hub, create, levels = logging.getLogger("huggingface_hub"), timm.create_model, []

    def offline(name, pretrained, **kwargs):
        levels.append(hub.level)
        if name == "resnet10t":
            raise OSError
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(hub, "level", logging.INFO)
    with contextlib.suppress(UserError):
        create_backbone(name, 5, pretrained=True)
    assert (levels, hub.level) == ([logging.ERROR], logging.INFO)


def test_the_number_of_classes_is_the_models_own_unless_given():
    assert create_backbone("mixer_digits", kwargs=SMALL).num_classes == 10
    assert create_backbone("mixer_digits", 4, kwargs=SMALL).num_classes == 4


@pytest.mark.parametrize("pretrained", [False, True])
def test_pretrained_is_asked_for_only_where_it_was(monkeypatch, pretrained):
    asked, create = [], timm.create_model

    def record(name, pretrained, **kwargs):
        asked.append(pretrained)
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", record)
    create_backbone("mixer_digits", 5, input_size=12, pretrained=pretrained)
    assert asked == [False, pretrained]


# --- what a backbone tells ---


@pytest.mark.parametrize(
    ("name", "kwargs", "width"),
    [
        ("mixer_digits", {"embed_dim": 8}, 4),
        ("mixer_digits", {"embed_dim": 8, "mlp_ratio": (0.75, 4.0)}, 6),
        ("mixer_b16_224", {}, 384),
        ("resmlp_12_224", {}, None),
        ("gmlp_ti16_224", {}, None),
        ("cifar_resnet8", {}, None),
    ],
)
def test_the_token_mixing_width_is_a_mixers_own(name, kwargs, width):
    with torch.device("meta"):
        assert token_mixing_width(create_backbone(name, 5, kwargs=kwargs)) == width
