"""CycleMLP: its layers against slow loops, its sizes against the published, and timm's methods one by one."""

from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_data_config
from timm.models import group_parameters
from torch import nn

from mixstill.errors import UserError
from mixstill.models import CycleMlp, distilled
from mixstill.models.cycle import HEIGHT, WIDTH, CycleBlock, CycleLinear, CycleMixing
from mixstill.models.cyclemlp import SIZES

PUBLISHED = {
    "cyclemlp_b1_224": 15_155_400,
    "cyclemlp_b2_224": 26_802_504,
    "cyclemlp_b3_224": 38_385_720,
    "cyclemlp_b4_224": 51_796_552,
    "cyclemlp_b5_224": 75_747_280,
}
TINY = {"depths": (1, 2, 1, 2), "embed_dims": (4, 5, 8, 8), "mlp_ratios": (4, 2, 1, 3), "num_classes": 5}


def tiny(**kwargs):
    """A small CycleMLP in double precision whose parameters are all far from zero and from one another."""
    torch.manual_seed(0)
    model = CycleMlp(**TINY | kwargs).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def randomised(layer):
    torch.manual_seed(0)
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def linear(inputs, outputs):
    return inputs * outputs + outputs


def block_count(channels, ratio):
    """Two norms, three branches (one without bias), their weighting, the projection, the MLP."""
    branches = 2 * linear(channels, channels) + channels**2
    weighting = linear(channels, channels // 4) + linear(channels // 4, 3 * channels)
    mlp = linear(channels, ratio * channels) + linear(ratio * channels, channels)
    return 2 * 2 * channels + branches + weighting + linear(channels, channels) + mlp


def count(depths, widths, ratios=(4, 4, 4, 4), classes=1000):
    blocks = sum(depth * block_count(*size) for depth, *size in zip(depths, widths, ratios, strict=True))
    halvings = sum(linear(3 * 3 * before, after) for before, after in pairwise(widths))
    return linear(7 * 7 * 3, widths[0]) + blocks + halvings + 2 * widths[-1] + linear(widths[-1], classes)


NARROW, WIDE = (64, 128, 320, 512), (96, 192, 384, 768)
COUNTS = {
    "cyclemlp_b1_224": count((2, 2, 4, 2), NARROW),
    "cyclemlp_b2_224": count((2, 3, 10, 3), NARROW),
    "cyclemlp_b3_224": count((3, 4, 18, 3), NARROW, (8, 8, 4, 4)),
    "cyclemlp_b4_224": count((3, 8, 27, 3), NARROW, (8, 8, 4, 4)),
    "cyclemlp_b5_224": count((3, 4, 24, 3), WIDE),
    "cyclemlp_b1_32": count((2, 2, 4, 2), NARROW, classes=100),
    "cyclemlp_b2_32": count((2, 3, 10, 3), NARROW, classes=100),
    "cyclemlp_b1_64": count((2, 2, 4, 2), NARROW, classes=100),
    "cyclemlp_b2_64": count((2, 3, 10, 3), NARROW, classes=100),
    "cyclemlp_micro_32": count((1, 1, 2, 1), (16, 32, 64, 64), classes=100),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_as_many_as_the_papers_layers_have(name):
    model = timm.create_model(name, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_layers_counted_so_give_the_published_sizes(name):
    assert COUNTS[name] == PUBLISHED[name]


def test_b2_with_a_second_head_has_the_size_that_the_baselines_tell():
    norm = 2 * 512  # of the pooled features
    assert COUNTS["cyclemlp_b2_224"] + norm + linear(512, 1000) == 27_316_528
    assert "27,316,528" in distilled.__doc__


def by_the_definition(x, weight, bias, dim):
    """y[b,h,w,o] = bias_o + sum_i weight_oi x[b, h + dy_i, w + dx_i, i], number by number."""
    images, height, width, channels = x.shape
    rows = []
    for b in range(images):
        for h in range(height):
            for w in range(width):
                for o in range(len(weight)):
                    total = bias[o]
                    for i in range(channels):
                        shift = (i + 1) % 3 - 1
                        row, column = (h + shift, w) if dim == HEIGHT else (h, w + shift)
                        if 0 <= row < height and 0 <= column < width:
                            total = total + weight[o, i] * x[b, row, column, i]
                    rows.append(total)
    return torch.stack(rows).view(images, height, width, len(weight))


@pytest.mark.parametrize("dim", [HEIGHT, WIDTH], ids=["height", "width"])
@pytest.mark.parametrize("grid", [(3, 4), (1, 2), (2, 1)])
@pytest.mark.parametrize("channels", [2, 5])
def test_a_cycle_layer_and_its_gradient_are_those_of_the_definition(dim, grid, channels):
    layer = randomised(CycleLinear(channels, dim))
    x = torch.randn(2, *grid, channels, dtype=torch.float64, requires_grad=True)
    inputs = (x, layer.weight, layer.bias)
    output, expected = layer(x), by_the_definition(*inputs, dim)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(output)
    found = torch.autograd.grad(output, inputs, direction)
    torch.testing.assert_close(found, torch.autograd.grad(expected, inputs, direction), rtol=1e-12, atol=1e-12)


def test_the_mixing_weighs_its_three_branches_by_image_and_channel():
    channels = 8
    mixing = randomised(CycleMixing(channels))
    x = torch.randn(2, 3, 4, channels, dtype=torch.float64)
    branches = [
        by_the_definition(x, mixing.width.weight, mixing.width.bias, WIDTH),
        by_the_definition(x, mixing.height.weight, mixing.height.bias, HEIGHT),
        x @ mixing.point.weight.T,
    ]
    mean = sum(branches).mean((1, 2))
    hidden = F.gelu(mean @ mixing.reweight.fc1.weight.T + mixing.reweight.fc1.bias)
    scores = hidden @ mixing.reweight.fc2.weight.T + mixing.reweight.fc2.bias
    mixed = torch.zeros_like(x)
    for image in range(2):
        for channel in range(channels):
            shares = scores[image, 3 * channel : 3 * channel + 3].exp()
            for share, branch in zip(shares / shares.sum(), branches, strict=True):
                mixed[image, :, :, channel] += share * branch[image, :, :, channel]
    expected = mixed @ mixing.proj.weight.T + mixing.proj.bias
    torch.testing.assert_close(mixing(x), expected, rtol=1e-12, atol=1e-12)
    assert mixing.point.bias is None
    assert mixing.reweight.fc1.out_features == channels // 4


def test_a_block_adds_the_mixing_and_then_the_mlp_of_its_norms():
    block = randomised(CycleBlock(8, 3, 0.0))
    x = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    y = x + block.mixing(block.norm1(x))
    torch.testing.assert_close(block(x), y + block.mlp(block.norm2(y)))
    assert block.mlp.fc1.out_features == 24


@pytest.mark.parametrize(
    ("pixels", "stride", "grids"),
    [
        (224, 4, [56, 28, 14, 7]),
        (64, 4, [16, 8, 4, 2]),
        (32, 4, [8, 4, 2, 1]),
        (32, 1, [32, 16, 8, 4]),
        (64, 2, [32, 16, 8, 4]),
        (40, 4, [10, 5, 3, 2]),
    ],
)
def test_the_grids_shrink_from_the_stems_stride(pixels, stride, grids):
    model = CycleMlp(**TINY | {"stem_stride": stride, "device": "meta"})
    _, features = model.forward_intermediates(torch.empty(1, 3, pixels, pixels, device="meta"))
    expected = [grids[stage] for stage, depth in enumerate(TINY["depths"]) for _ in range(depth)]
    assert [feature.shape[2] for feature in features] == expected
    for feature, info in zip(features, model.feature_info, strict=True):
        assert feature.shape[1] == info["num_chs"]
        assert -(-pixels // info["reduction"]) == feature.shape[2]
    assert all(isinstance(model.get_submodule(info["module"]), CycleBlock) for info in model.feature_info)


def test_the_stem_overlaps_and_sees_two_pixels_of_padding():
    model = tiny()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    padded = F.pad(images, (2, 2, 2, 2))
    patches = torch.stack([padded[0, :, 0:7, 0:7], padded[0, :, 0:7, 4:11], padded[0, :, 4:11, 0:7]])
    expected = torch.einsum("pchw,ochw->po", patches, model.stem.weight) + model.stem.bias
    stem = model.stem(images)[0]
    torch.testing.assert_close(torch.stack([stem[:, 0, 0], stem[:, 0, 1], stem[:, 1, 0]]), expected)


def test_an_unknown_stem_stride_is_a_users_mistake():
    with pytest.raises(UserError, match=r"^stem_stride: 3 is not valid; it must be 1, 2 or 4$"):
        CycleMlp(stem_stride=3)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 32, 48, dtype=torch.float64)


def test_intermediates_are_the_blocks_and_lead_to_the_logits(images):
    model = tiny()
    features, blocks = model.forward_intermediates(images)
    assert [tuple(block.shape[1:]) for block in blocks] == [
        (4, 8, 12),
        (5, 4, 6),
        (5, 4, 6),
        (8, 2, 3),
        *[(8, 1, 2)] * 2,
    ]
    assert torch.equal(features, model.norm(blocks[-1].permute(0, 2, 3, 1)))
    assert torch.equal(features, model.forward_features(images))
    assert torch.equal(model.forward_head(features), model(images))
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((1, 2)))
    assert pooled.shape[1] == model.num_features == model.head_hidden_size
    after = model.stages[1].blocks[0](model.stages[1].downsample(blocks[0]).permute(0, 2, 3, 1))
    torch.testing.assert_close(blocks[1], after.permute(0, 3, 1, 2))


def test_intermediates_can_be_chosen_formatted_normed_and_end_early(images):
    model = tiny()
    final, blocks = model.forward_intermediates(images)
    _, rows = model.forward_intermediates(images, output_fmt="NLC")
    for map_, row in zip(blocks, rows, strict=True):
        assert torch.equal(map_.flatten(2).transpose(1, 2), row)
    (only,) = model.forward_intermediates(images, indices=1, intermediates_only=True)
    assert torch.equal(only, blocks[-1])
    same, chosen = model.forward_intermediates(images, indices=[1, -2], norm=True)
    assert torch.equal(same, final)
    assert torch.equal(chosen[0], blocks[1])
    assert torch.equal(chosen[1].permute(0, 2, 3, 1), model.norm(blocks[-2].permute(0, 2, 3, 1)))
    model.stages[2].downsample = None  # not to be reached
    early, chosen = model.forward_intermediates(images, indices=[2], stop_early=True)
    assert torch.equal(chosen[0], blocks[2])
    assert torch.equal(early.permute(0, 3, 1, 2), blocks[2])
    with pytest.raises(ValueError, match="NLCC"):
        model.forward_intermediates(images, output_fmt="NLCC")


@pytest.mark.parametrize(("indices", "kept", "depths"), [(1, [5], [1, 2, 1, 2]), ([0, 1], [0, 1], [1, 1])])
def test_layers_that_no_intermediate_needs_can_be_pruned(images, indices, kept, depths):
    model = tiny()
    expected = model.forward_intermediates(images, kept, intermediates_only=True)
    assert model.prune_intermediate_layers(indices, prune_norm=True) == kept
    assert [len(stage.blocks) for stage in model.stages] == depths
    for found, before in zip(model.forward_intermediates(images, kept, intermediates_only=True), expected, strict=True):
        assert torch.equal(found, before)
    assert not list(model.norm.parameters())
    assert not list(model.head.parameters())
    assert model.num_classes == 0


def test_every_parameter_gets_a_gradient_and_checkpointing_leaves_it_the_same(images, monkeypatch):
    gradients, calls = [], []
    forward = CycleMixing.forward
    monkeypatch.setattr(CycleMixing, "forward", lambda self, x: calls.append(1) or forward(self, x))
    for checkpointing in (False, True):
        model = tiny()
        model.set_grad_checkpointing(checkpointing)
        model(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(recomputed, plain)
    assert len(calls) == 6 + 2 * 6, "the second run recomputes each of the six"


def test_the_classifier_can_be_replaced_and_removed(images):
    model = tiny()
    model.reset_classifier(9)
    assert model.get_classifier() is model.head
    assert model.head.weight.dtype == torch.float64
    assert not model.head.training
    assert model(images).shape == (2, 9)
    model.reset_classifier(0)
    assert model(images).shape == (2, 8)
    model.reset_classifier(0, "")
    assert model(images).shape == (2, 1, 2, 8)


@pytest.mark.slow
def test_it_compiles_in_one_graph_and_exports_with_any_batch(images):
    model = tiny(depths=(1, 1, 1, 1))
    expected = model(images)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), expected)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    torch.testing.assert_close(exported.module()(torch.cat([images, images])), torch.cat([expected, expected]))


@pytest.mark.filterwarnings("ignore")
def test_it_exports_to_onnx(images, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path = tiny(depths=(1, 1, 1, 1)).float(), tmp_path / "model.onnx"
    torch.onnx.export(model, (images.float(),), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.float().numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(images.float()), rtol=1e-4, atol=1e-4)


def test_linear_layers_start_as_deits_without_biases():
    torch.manual_seed(0)
    model = CycleMlp(**TINY | {"embed_dims": (64, 64, 64, 64)})
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.2)
            assert module.bias is None or not module.bias.any()


def test_drop_path_rises_linearly_and_dropout_precedes_the_classifier():
    model = CycleMlp(**TINY, drop_path_rate=0.2, drop_rate=0.5)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2])
    pooled = model.forward_head(torch.ones(50, 2, 2, 8), pre_logits=True)
    assert set(pooled.unique().tolist()) == {0.0, 2.0}


def block(stage, index):
    return f"stages.{stage}.blocks.{index}"


def stage(index):
    return f"stages.{index}.downsample"


FINE = [
    *[{"stem"}, {block(0, 0)}, {stage(1), block(1, 0)}, {block(1, 1)}, {stage(2), block(2, 0)}],
    *[{stage(3), block(3, 0)}, {block(3, 1), "norm"}, {"head"}],  # timm's rule for the norm: with what is before it
]
COARSE = [
    *[{"stem"}, {block(0, 0)}, {stage(1), block(1, 0), block(1, 1)}, {stage(2), block(2, 0)}],
    *[{stage(3), block(3, 0), block(3, 1)}, {"norm", "head"}],
]


@pytest.mark.parametrize(("coarse", "expected"), [(False, FINE), (True, COARSE)])
def test_groups_for_layer_decay_are_stem_blocks_and_head(coarse, expected):
    model = tiny()
    modules = set().union(*FINE)
    found = group_parameters(model, model.group_matcher(coarse)).values()
    assert [{module for module in modules for name in names if name.startswith(f"{module}.")} for names in found] == (
        expected
    )
    assert sum(map(len, found)) == len(list(model.parameters()))
    assert model.no_weight_decay() == set()


CIFAR_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", SIZES)
def test_timm_resolves_input_size_normalisation_and_crop(name):
    model = timm.create_model(name, in_chans=1, num_classes=3, device="meta")
    pixels = int(name.rpartition("_")[2])
    resolved = resolve_data_config({}, model=model)
    assert resolved["input_size"] == (3, pixels, pixels)
    assert (resolved["mean"], resolved["std"]) == (IMAGENET_STATISTICS if pixels == 224 else CIFAR_STATISTICS)
    assert (resolved["crop_pct"], resolved["interpolation"]) == (0.875 if pixels == 224 else 1.0, "bicubic")
    assert model.default_cfg is model.pretrained_cfg
    assert timm.get_pretrained_cfg(name).num_classes == (1000 if pixels == 224 else 100)


@pytest.mark.parametrize(
    ("name", "grids"),
    [
        ("cyclemlp_b1_224", [56, 28, 14, 7]),
        ("cyclemlp_b1_32", [32, 16, 8, 4]),
        ("cyclemlp_b2_32", [32, 16, 8, 4]),
        ("cyclemlp_b1_64", [32, 16, 8, 4]),
        ("cyclemlp_b2_64", [32, 16, 8, 4]),
        ("cyclemlp_micro_32", [16, 8, 4, 2]),
    ],
)
def test_a_small_form_keeps_a_grid_in_its_last_stage(name, grids):
    with torch.device("meta"):
        model = timm.create_model(name, depths=(1, 1, 1, 1))
        features = model.forward_intermediates(
            torch.empty(1, *model.default_cfg["input_size"]), intermediates_only=True
        )
    assert [feature.shape[2] for feature in features] == grids
    assert model.default_cfg["pool_size"] == (grids[-1], grids[-1])


def test_features_only_gives_the_ends_of_the_stages():
    model = timm.create_model("cyclemlp_b1_224", **TINY | {"num_classes": 0}, features_only=True)
    assert [feature.shape[1:] for feature in model(torch.zeros(2, 3, 32, 32))] == [
        (4, 8, 8),
        (5, 4, 4),
        (8, 2, 2),
        (8, 1, 1),
    ]
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([4, 5, 8, 8], [4, 8, 16, 32])


def test_the_final_norm_is_for_the_last_stage_though_another_be_as_wide():
    torch.manual_seed(0)
    model = CycleMlp((1, 1, 1, 1), (8, 8, 8, 8), (1, 1, 1, 1), num_classes=3, stem_stride=1).eval()
    nn.init.normal_(model.norm.bias)
    images = torch.randn(1, 3, 16, 16)
    _, plain = model.forward_intermediates(images)
    _, normed = model.forward_intermediates(images, norm=True)
    assert [torch.equal(a, b) for a, b in zip(plain, normed, strict=True)] == [True, True, True, False]
    early, (third,) = model.forward_intermediates(images, indices=[2], stop_early=True)
    assert torch.equal(early.permute(0, 3, 1, 2), third)


def test_a_pooling_that_there_is_not_is_a_users_mistake():
    with pytest.raises(UserError, match="global_pool: 'max' is not valid"):
        CycleMlp(global_pool="max")
