"""Vision MLPs with a distillation token: against the equations in double precision, and timm's convention."""

from functools import partial

import pytest
import timm
import torch
from timm.layers import GatedMlp
from timm.models import group_parameters
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock, SpatialGatingBlock
from timm.optim import create_optimizer_v2
from torch import nn

from mixstill.models import DistilledMlpMixer

SMALL = {"img_size": (8, 12), "patch_size": 4, "num_blocks": 3, "embed_dim": 8, "num_classes": 5}
PATCHES = 6  # a grid of 2 x 3
FAMILIES = {
    "mixer": {},
    "resmlp": {"mlp_ratio": 4, "block_layer": partial(ResBlock, init_values=0.1), "norm_layer": Affine},
    "gmlp": {"mlp_ratio": 6, "block_layer": SpatialGatingBlock, "mlp_layer": GatedMlp},
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def small(family="mixer", **kwargs):
    """A small model in double precision whose parameters are all far from zero and from one another."""
    torch.manual_seed(0)
    model = DistilledMlpMixer(**SMALL | FAMILIES[family] | kwargs).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 8, 12, dtype=torch.float64)


def heads_of(model, images):
    """(class, distillation) logits."""
    model.set_distilled_training()
    outputs = model.train()(images)
    model.eval().set_distilled_training(False)
    return outputs


def test_a_mixers_forward_is_the_equations_with_a_token_in_front(images):
    model = small(num_blocks=1)
    weights = dict(model.named_parameters())

    def linear(x, name):
        return torch.einsum("...i,oi->...o", x, weights[f"{name}.weight"]) + weights[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def mlp(x, name):
        hidden = linear(x, f"{name}.fc1")
        return linear(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2, f"{name}.fc2")

    rows = [weights["dist_token"][0].expand(2, 8)]
    for top in (0, 4):
        for left in (0, 4, 8):
            patch = images[:, :, top : top + 4, left : left + 4]
            rows.append(torch.einsum("bchw,ochw->bo", patch, weights["stem.proj.weight"]) + weights["stem.proj.bias"])
    x = torch.stack(rows, 1)
    x = x + mlp(norm(x, "blocks.0.norm1").mT, "blocks.0.mlp_tokens").mT
    x = x + mlp(norm(x, "blocks.0.norm2"), "blocks.0.mlp_channels")
    x = norm(x, "norm")
    torch.testing.assert_close(model.forward_features(images), x, rtol=1e-12, atol=1e-12)

    mean = sum(x[:, 1 + patch] for patch in range(PATCHES)) / PATCHES
    expected = linear(mean, "head"), linear(x[:, 0], "head_dist")
    torch.testing.assert_close(heads_of(model, images), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(images), sum(expected) / 2, rtol=1e-12, atol=1e-12)
    read = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(read, (mean + x[:, 0]) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "layers"),
    [("mixer", ["mlp_tokens.fc1"]), ("resmlp", ["linear_tokens"]), ("gmlp", ["mlp_channels.gate.proj"])],
)
def test_the_layers_that_mix_tokens_mix_one_more(family, layers):
    model = small(family)
    for block in model.blocks:
        for layer in layers:
            assert block.get_submodule(layer).in_features == PATCHES + 1
    if family == "mixer":
        assert all(block.mlp_tokens.fc2.out_features == PATCHES + 1 for block in model.blocks)


@every_family
def test_the_token_reaches_both_heads_and_so_do_the_patches(images, family):
    model = small(family)
    before = heads_of(model, images)
    with torch.no_grad():
        model.dist_token.add_(torch.randn(8))
    for one, other in zip(before, heads_of(model, images), strict=True):
        assert (one - other).abs().max() > 1e-6
    images[:, :, 7, 11] += 1  # the last patch
    for one, other in zip(before, heads_of(model, images), strict=True):
        assert (one - other).abs().max() > 1e-6


def test_the_heads_are_told_apart_in_distilled_training_only(images):
    model = small()
    for training in (False, True):
        for enabled in (False, True):
            model.train(training).set_distilled_training(enabled)
            output = model(images)
            assert isinstance(output, tuple) == (training and enabled)
    apart = heads_of(model, images)
    assert torch.equal(model(images), (apart[0] + apart[1]) / 2)
    assert torch.equal(model.train()(images), model.eval()(images))
    assert not torch.allclose(*apart)


@every_family
def test_every_parameter_gets_a_gradient_in_distilled_training(images, family):
    model = small(family, drop_path_rate=0.1, drop_rate=0.1)
    model.train().set_distilled_training()
    logits, distilled = model(images)
    (logits.square().sum() + distilled.square().sum()).backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_each_head_learns_from_its_own_teacher_alone(images):
    model = small()
    for index, (taught, other) in enumerate((("head", "head_dist"), ("head_dist", "head"))):
        model.zero_grad()
        heads_of(model, images)[index].sum().backward()
        assert model.get_submodule(taught).weight.grad.any()
        assert model.get_submodule(other).weight.grad is None
        assert model.dist_token.grad.any()


@every_family
def test_intermediates_are_patches_without_the_token(images, family):
    model = small(family)
    x = torch.cat([model.dist_token.expand(2, -1, -1), model.stem(images)], 1)
    expected = []
    for block in model.blocks:
        x = block(x)
        expected.append(x[:, 1:])
    final, rows = model.forward_intermediates(images, output_fmt="NLC")
    assert final.shape == (2, PATCHES + 1, 8)
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(final, model.norm(x))
    assert torch.equal(final, model.forward_features(images))
    assert torch.equal(model.forward_head(final), model(images))
    maps = model.forward_intermediates(images, intermediates_only=True)
    assert [tuple(found.shape) for found in maps] == [(2, 8, 2, 3)] * 3
    for found, row in zip(maps, rows, strict=True):
        assert torch.equal(found[:, :, 1, 2], row[:, 5])
        assert torch.equal(found[:, :, 0, 1], row[:, 1])


def test_intermediates_can_be_chosen_normed_and_end_early(images):
    model = small()
    final, rows = model.forward_intermediates(images, output_fmt="NLC")
    (last,) = model.forward_intermediates(images, 1, output_fmt="NLC", intermediates_only=True)
    assert torch.equal(last, rows[-1])
    same, chosen = model.forward_intermediates(images, [0, -1], norm=True, output_fmt="NLC")
    assert torch.equal(same, final)
    torch.testing.assert_close(chosen, [model.norm(rows[0]), final[:, 1:]])
    model.blocks[2] = None  # not to be reached
    early, chosen = model.forward_intermediates(images, [1], stop_early=True, output_fmt="NLC")
    assert torch.equal(chosen[0], rows[1])
    torch.testing.assert_close(early[:, 1:], model.norm(rows[1]))
    with pytest.raises(ValueError, match="NHWC"):
        model.forward_intermediates(images, output_fmt="NHWC")


def test_layers_that_no_intermediate_needs_can_be_pruned(images):
    model = small()
    expected = model.forward_intermediates(images, [0, 1], intermediates_only=True)
    assert model.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
    assert len(model.blocks) == 2
    torch.testing.assert_close(model.forward_intermediates(images, intermediates_only=True), expected)
    assert not [name for name, _ in model.named_parameters() if name.startswith(("head", "norm"))]
    assert torch.equal(model(images), model.forward_features(images))


def test_both_heads_are_replaced_and_removed(images):
    model = small()
    assert model.get_classifier() == (model.head, model.head_dist)
    model.reset_classifier(9)
    assert [head.weight.dtype for head in model.get_classifier()] == [torch.float64] * 2
    assert not any(head.training for head in model.get_classifier())
    assert [tuple(logits.shape) for logits in heads_of(model, images)] == [(2, 9)] * 2
    assert model.head is not model.head_dist
    model.reset_classifier(0)
    features = model.forward_features(images)
    torch.testing.assert_close(model(images), model.forward_head(features, pre_logits=True))
    model.reset_classifier(0, "")
    assert torch.equal(model(images), features)


def test_the_token_is_in_the_stem_and_not_decayed():
    model = small()
    assert model.no_weight_decay() == {"dist_token"}
    groups = list(group_parameters(model, model.group_matcher()).values())
    assert set(groups[0]) == {"dist_token", "stem.proj.weight", "stem.proj.bias"}
    optimizer = create_optimizer_v2(model, opt="adamw", lr=0.1, weight_decay=0.05)
    undecayed = [p for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]]
    assert any(parameter is model.dist_token for parameter in undecayed)


def test_dropout_falls_on_what_each_head_reads():
    model = small(drop_rate=0.5, num_classes=0).train()
    ones = torch.ones(50, PATCHES + 1, 8, dtype=torch.float64)
    assert set(model.forward_head(ones).unique().tolist()) == {0.0, 1.0, 2.0}


def test_the_token_starts_small_and_the_heads_alike():
    torch.manual_seed(0)
    model = DistilledMlpMixer(img_size=8, patch_size=4, embed_dim=4096, num_blocks=0, num_classes=3, nlhb=True)
    assert model.dist_token.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.dist_token.mean().item() == pytest.approx(0, abs=0.002)
    assert model.dist_token.requires_grad
    for head in model.get_classifier():
        assert not head.weight.any()
        assert head.bias.tolist() == pytest.approx([-1.0986123] * 3)


def test_beside_the_token_and_its_head_the_parameters_are_those_of_the_plain_model():
    plain = timm.create_model("mixer_micro_32", device="meta")
    model = timm.create_model("mixer_micro_distilled_32", device="meta")
    assert isinstance(model, DistilledMlpMixer)
    assert type(plain) is MlpMixer
    assert set(model.state_dict()) - set(plain.state_dict()) == {"dist_token", "head_dist.weight", "head_dist.bias"}
    assert set(plain.state_dict()) <= set(model.state_dict())


@every_family
def test_distilled_training_compiles_in_one_graph_and_the_model_exports_with_any_batch(images, family):
    model = small(family, num_blocks=1)
    expected, mean = heads_of(model, images), model(images)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    model.train().set_distilled_training()
    torch.testing.assert_close(compiled(images), expected)
    model.eval()
    torch.testing.assert_close(compiled(images), mean)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    torch.testing.assert_close(exported.module()(torch.cat([images, images])), torch.cat([mean, mean]))


@pytest.mark.filterwarnings("ignore")
def test_it_exports_to_onnx(images, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path = small(num_blocks=1).float(), tmp_path / "model.onnx"
    torch.onnx.export(model, (images.float(),), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.float().numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(images.float()), rtol=1e-4, atol=1e-4)
