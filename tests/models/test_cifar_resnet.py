import re

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_data_config
from timm.models import _builder, group_parameters
from torch import nn

from mixstill.errors import UserError
from mixstill.models import CifarResNet
from mixstill.models.cifar_resnet import DEPTHS, PadShortcut

# chenyaofo (B) and akamaster (A), 10 classes; 8 and 110 by the same arithmetic, 110 as akamaster's.
PUBLISHED = {
    "B": {20: 272_474, 32: 466_906, 44: 661_338, 56: 855_770},
    "A": {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962},
}
COUNTS = [(shortcut, depth, count) for shortcut, counts in PUBLISHED.items() for depth, count in counts.items()]


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def small(**kwargs):
    torch.manual_seed(0)
    return CifarResNet(**{"depth": 8, "width": 4, "num_classes": 5} | kwargs)


def settled(model):
    """The model in eval mode, with batch-norm statistics and affine parameters that are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


@pytest.mark.parametrize(("shortcut", "depth", "expected"), COUNTS)
def test_parameters_are_as_many_as_published(shortcut, depth, expected):
    name = f"cifar_resnet{depth}"
    assert count(timm.create_model(name, num_classes=10, shortcut=shortcut, device="meta")) == expected
    assert count(timm.create_model(name, num_classes=100, shortcut=shortcut, device="meta")) == expected + 5_850


def test_names_are_those_of_the_public_weights():
    batch_norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{key}" for key in batch_norm}
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            for layer in (1, 2):
                expected.add(f"layer{stage}.{block}.conv{layer}.weight")
                expected |= {f"layer{stage}.{block}.bn{layer}.{key}" for key in batch_norm}
    assert set(CifarResNet(20, shortcut="A").state_dict()) == expected
    for stage in (2, 3):
        expected.add(f"layer{stage}.0.downsample.0.weight")
        expected |= {f"layer{stage}.0.downsample.1.{key}" for key in batch_norm}
    assert set(CifarResNet(20, shortcut="B").state_dict()) == expected


def test_shortcut_a_subsamples_and_pads_channels_on_both_sides():
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    expected = torch.zeros(2, 9, 3, 3, dtype=torch.float64)
    for row in range(3):
        for column in range(3):
            expected[:, 2:6, row, column] = x[:, :, 2 * row, 2 * column]
    assert torch.equal(PadShortcut(5)(x), expected)
    assert not list(PadShortcut(5).parameters())


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_forward_is_the_papers_network(shortcut):
    model = settled(small(depth=14, shortcut=shortcut).double())
    weights = model.state_dict()

    def norm(x, name):
        mean, variance, scale, shift = (
            weights[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def conv(x, name, stride):
        return F.conv2d(x, weights[f"{name}.weight"], stride=stride, padding=weights[f"{name}.weight"].shape[-1] // 2)

    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    x = norm(conv(images, "conv1", 1), "bn1").relu()
    for stage in (1, 2, 3):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = norm(conv(x, f"{at}.conv1", stride), f"{at}.bn1").relu()
            y = norm(conv(y, f"{at}.conv2", 1), f"{at}.bn2")
            if stride == 2 and shortcut == "A":
                zeros = torch.zeros_like(y[:, : y.shape[1] // 4])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            elif stride == 2:
                x = norm(conv(x, f"{at}.downsample.0", 2), f"{at}.downsample.1")
            x = (y + x).relu()
    expected = x.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]
    torch.testing.assert_close(model(images), expected, rtol=1e-10, atol=1e-10)


def test_intermediates_are_the_three_stages_and_lead_to_the_logits():
    model = settled(small())
    images = torch.randn(2, 3, 32, 32)
    features, stages = model.forward_intermediates(images)
    assert [stage.shape for stage in stages] == [(2, 4, 32, 32), (2, 8, 16, 16), (2, 16, 8, 8)]
    for stage, info in zip(stages, model.feature_info, strict=True):
        assert (stage.shape[1], 32 // stage.shape[2]) == (info["num_chs"], info["reduction"])
    assert torch.equal(features, model.forward_features(images))
    assert torch.equal(features, stages[-1])
    assert torch.equal(model.forward_head(features), model(images))
    assert torch.equal(model.forward_head(features, pre_logits=True), features.mean((2, 3)))
    assert model.num_features == model.head_hidden_size == 16


def test_intermediates_can_be_chosen_and_end_early():
    model = settled(small())
    images = torch.randn(2, 3, 32, 32)
    _, (first, second, third) = model.forward_intermediates(images)
    (only,) = model.forward_intermediates(images, indices=1, intermediates_only=True)
    assert torch.equal(only, third)
    final, chosen = model.forward_intermediates(images, indices=[0, -2])
    assert torch.equal(final, third)
    assert torch.equal(chosen[0], first)
    assert torch.equal(chosen[1], second)
    model.layer3 = None  # not to be reached
    final, chosen = model.forward_intermediates(images, indices=[1], stop_early=True)
    assert torch.equal(final, second)
    assert torch.equal(chosen[0], second)
    with pytest.raises(ValueError, match="NLC"):
        model.forward_intermediates(images, output_fmt="NLC")


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_every_parameter_gets_a_gradient_and_checkpointing_leaves_it_the_same(shortcut, monkeypatch):
    images, gradients = torch.randn(4, 3, 8, 8), []
    calls = []
    forward = PadShortcut.forward
    monkeypatch.setattr(PadShortcut, "forward", lambda self, x: calls.append(1) or forward(self, x))
    for checkpointing in (False, True):
        model = small(shortcut=shortcut)
        model.set_grad_checkpointing(checkpointing)
        model(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(recomputed, plain)
    assert len(calls) == (2 + 4 if shortcut == "A" else 0), "the second run recomputes each of the two"


def test_the_classifier_can_be_replaced_and_removed():
    model = small().double().eval()
    model.reset_classifier(9)
    assert model.get_classifier() is model.fc
    assert model.fc.weight.dtype == torch.float64
    assert model(torch.zeros(1, 3, 8, 8, dtype=torch.float64)).shape == (1, 9)
    assert not model.fc.training
    model.reset_classifier(0)
    assert model(torch.zeros(1, 3, 8, 8, dtype=torch.float64)).shape == (1, 16)
    model.reset_classifier(0, "")
    assert model(torch.zeros(1, 3, 8, 8, dtype=torch.float64)).shape == (1, 16, 2, 2)
    model.reset_classifier(3, "catavgmax")
    assert model.head_hidden_size == 32
    assert model(torch.zeros(1, 3, 8, 8, dtype=torch.float64)).shape == (1, 3)


def test_convolutions_start_as_he_et_al_say():
    torch.manual_seed(0)
    weight = CifarResNet(8).layer3[0].conv2.weight
    expected = (2 / (3 * 3 * 64)) ** 0.5
    assert weight.std().item() == pytest.approx(expected, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=expected / 50)


def test_drop_path_rises_linearly_and_dropout_precedes_the_classifier():
    model = small(drop_path_rate=0.2, drop_rate=0.5)
    rates = [getattr(model, stage)[0].drop_path.drop_prob for stage in ("layer1", "layer2", "layer3")]
    assert rates == pytest.approx([0, 0.1, 0.2])
    pooled = model.forward_head(torch.ones(50, 16, 2, 2), pre_logits=True)
    assert set(pooled.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("coarse", "blocks"),
    [
        (False, ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1"]),
        (True, ["layer1", "layer2", "layer3"]),
    ],
)
def test_groups_for_layer_decay_are_stem_blocks_and_head(coarse, blocks):
    model = small(depth=14)
    found = list(group_parameters(model, model.group_matcher(coarse)).values())
    expected = [("conv1", "bn1"), *blocks, "fc"]
    assert len(found) == len(expected)
    for names, prefix in zip(found, expected, strict=True):
        assert names
        assert all(name.startswith(prefix) for name in names)


@pytest.mark.parametrize("name", DEPTHS)
def test_timm_resolves_input_size_normalisation_and_crop(name):
    model = timm.create_model(name, in_chans=1, num_classes=3, width=4, device="meta")
    assert len(model.layer3) == (int(name.removeprefix("cifar_resnet")) - 2) // 6
    assert model(torch.zeros(1, 1, 32, 32, device="meta")).shape == (1, 3)
    resolved = resolve_data_config({}, model=model)
    assert (resolved["mean"], resolved["std"]) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))
    assert resolved["crop_pct"] == 1.0
    assert model.default_cfg["input_size"] == (3, 32, 32)
    assert model.default_cfg is model.pretrained_cfg


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_public_weights_are_of_either_data_set(depth, tmp_path, monkeypatch):
    asked = []

    def fetch(url, **_):
        asked.append(url)
        return CifarResNet(depth, num_classes=10 if "cifar10_" in url else 100).state_dict()

    monkeypatch.setattr(_builder, "load_state_dict_from_url", fetch)
    for tag, num_classes, mean in (("cifar100", 100, 0.5071), ("cifar10", 10, 0.4914)):
        model = timm.create_model(f"cifar_resnet{depth}.{tag}", pretrained=True)
        assert model.num_classes == num_classes
        assert model.pretrained_cfg["mean"][0] == mean
        assert re.fullmatch(
            rf"https://github\.com/chenyaofo/pytorch-cifar-models/releases/download/resnet/{tag}_resnet{depth}-\w{{8}}\.pt",
            asked.pop(),
        )
    other = timm.create_model(f"cifar_resnet{depth}", pretrained=True, num_classes=7, in_chans=1)
    assert "/cifar100_" in asked.pop()
    assert (other.fc.out_features, other.conv1.in_channels) == (7, 1)


def test_features_only_gives_the_stages():
    model = timm.create_model("cifar_resnet8", width=4, features_only=True, out_indices=(0, 2))
    assert [feature.shape for feature in model(torch.zeros(2, 3, 8, 8))] == [(2, 4, 8, 8), (2, 16, 2, 2)]


@pytest.mark.parametrize("depth", [2, 18, 34])
def test_a_depth_that_is_not_6n_plus_2_is_an_error(depth):
    with pytest.raises(UserError, match=f"depth: {depth} is not valid; it must be 6n"):
        CifarResNet(depth)


def test_an_unknown_shortcut_is_an_error():
    with pytest.raises(UserError, match="shortcut: unknown value 'C'; choose from A, B"):
        CifarResNet(20, shortcut="C")
