import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mixstill.distill.registry import default_cfgs
from mixstill.distill.sizes import own_models, size_of
from mixstill.errors import UserError

MIXER_DIGITS = (16, 64, 32, 10)  # patches N, channels C, hidden width of the spatial MLP, classes K


def module_params(patches: int, channels: int, hidden: int, classes: int) -> int:
    token_s, token_c = channels, patches
    norms = 2 * channels + 2 * (channels + 1)
    spatial = (patches + 1) * hidden + hidden + hidden + 1
    channel = (channels + 1) * 4 * channels + 4 * channels + 4 * channels + 1
    head = (channels + patches) * classes + classes
    return token_s + token_c + norms + spatial + channel + head


def module_macs(patches: int, channels: int, hidden: int, classes: int) -> int:
    spatial = channels * ((patches + 1) * hidden + hidden)
    channel = patches * ((channels + 1) * 4 * channels + 4 * channels)
    return spatial + channel + (channels + patches) * classes


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        ("std_mixer_digits", MIXER_DIGITS),
        ("std_mixer_s4_32", (64, 512, 256, 100)),
        ("std_mixer_s16_224", (196, 512, 256, 1000)),
        ("std_mixer_s16_distilled_224", (196, 512, 256, 1000)),
        ("std_gmixer_12_224", (196, 384, 192, 1000)),
        ("std_resmlp_12_224", (196, 384, 192, 1000)),
        ("std_resmlp_s12_4_32", (64, 384, 192, 100)),
        ("std_gmlp_ti16_224", (196, 128, 64, 1000)),
        ("std_gmlp_ti4_32", (64, 128, 64, 100)),
        ("std_cyclemlp_b1_224", (49, 512, 256, 1000)),
        ("std_cyclemlp_b1_32", (16, 512, 256, 100)),
        ("std_cyclemlp_b1_64", (16, 512, 256, 100)),
    ],
)
def test_modules_have_the_size_that_is_worked_out_by_hand(name, geometry) -> None:
    size = size_of(name)
    assert size.modules == 2
    assert size.params - size.plain_params == 2 * module_params(*geometry)
    assert size.macs - size.plain_macs == 2 * module_macs(*geometry)


def test_a_backbones_multiply_adds_are_those_counted_by_hand() -> None:
    patches, channels, hidden, classes = MIXER_DIGITS
    tokens, per_patch = channels * 2 * patches * hidden, patches * 2 * channels * 4 * channels
    stem, blocks = patches * channels * 3 * 2 * 2, 4
    assert size_of("mixer_digits").macs == stem + blocks * (tokens + per_patch) + channels * classes


@pytest.mark.parametrize(
    "name",
    [
        *("std_mixer_micro_32", "std_gmlp_micro_32", "std_resmlp_micro_32", "std_cyclemlp_micro_32", "cifar_resnet8"),
        *("mixer_micro_distilled_32", "test_vit", "test_convnext", "test_efficientnet"),
    ],
)
def test_sizes_are_those_of_the_model_with_real_weights(name) -> None:
    model, size = timm.create_model(name).eval().requires_grad_(False), size_of(name)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # PyTorch 2.14's counter does not know the fused attention of a CPU
        model(torch.zeros(1, 3, size.input_size, size.input_size))
    assert size.macs == counter.get_total_flops() // 2
    assert size.params == sum(parameter.numel() for parameter in model.parameters())
    assert size.num_classes == model.num_classes


@pytest.mark.parametrize("name", ["mixer_digits", "cyclemlp_micro_32", "mixer_micro_distilled_32"])
def test_a_students_plain_size_is_its_backbones(name) -> None:
    student, plain = size_of(f"std_{name}"), size_of(name)
    assert (student.plain_params, student.plain_macs) == (plain.params, plain.macs)
    assert (plain.plain_params, plain.plain_macs, plain.modules) == (plain.params, plain.macs, 0)
    assert (student.name, plain.name) == (f"std_{name}", name)
    assert student.params > plain.params
    assert student.macs > plain.macs


def test_mixer_s4_at_32_pixels_has_the_published_size() -> None:
    assert size_of("mixer_s4_32").params == 17_156_196
    assert size_of("mixer_s4_32", 10).params == 17_110_026


def test_places_and_tokens_are_taken() -> None:
    patches, channels, hidden, classes = MIXER_DIGITS
    one = size_of("std_mixer_digits", places=["2/3"])
    assert (one.modules, one.params - one.plain_params) == (1, module_params(*MIXER_DIGITS))
    bare = size_of("std_mixer_digits", tokens="none")
    assert bare.params - bare.plain_params == 2 * (2 * channels + channels * classes + classes)
    spatial = size_of("std_mixer_digits", tokens="spatial")
    kept = 3 * channels + (patches + 1) * hidden + hidden + hidden + 1 + channels * classes + classes
    assert spatial.params - spatial.plain_params == 2 * kept
    shallow = size_of("std_cyclemlp_b1_224", places=["0", "last"])  # 56x56 pixels of 64 channels
    modules = module_params(56 * 56, 64, 32, 1000) + module_params(49, 512, 256, 1000)
    assert shallow.params - shallow.plain_params == modules
    at_head = size_of("std_mixer_micro_distilled_32", places=["token"])
    assert (at_head.modules, at_head.params) == (0, at_head.plain_params)


def test_classes_and_input_size_are_taken() -> None:
    size = size_of("std_mixer_digits", 7, 12)
    assert (size.num_classes, size.input_size) == (7, 12)
    assert size.params - size.plain_params == 2 * module_params(36, 64, 32, 7)


def test_a_model_without_classes_of_its_own_gets_a_thousand() -> None:
    assert timm.get_pretrained_cfg_value("vit_small_patch8_224", "num_classes") == 0
    assert size_of("vit_small_patch8_224").num_classes == 1000


def test_own_models_are_what_mixstill_registered() -> None:
    found = set(own_models())
    assert set(default_cfgs) <= found
    assert {"cifar_resnet56", "mixer_s4_32", "cyclemlp_b5_224", "std_gmlp_s16_224"} <= found
    assert {"mixer_b16_224", "resnet18"} & found == set()
    assert [size_of(name).source for name in ("std_mixer_b32_224", "std_mixer_digits", "test_vit")] == [
        *("timm", "mixstill", "timm")
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "std_resnet18"}, "model: unknown value 'std_resnet18'; did you mean"),
        (
            {"name": "std_mixer_digits", "input_size": 9},
            "not divisible by the patch of 2 of 'mixer_digits'; try 8 or 10",
        ),
        ({"name": "std_mixer_digits", "places": ["5/3"]}, "5/3: the place is out of range"),
        ({"name": "vgg11", "input_size": 8}, "model: 'vgg11' cannot read images of 8 pixels"),
    ],
)
def test_mistakes_are_told(arguments, said) -> None:
    with pytest.raises(UserError) as error:
        size_of(**arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
