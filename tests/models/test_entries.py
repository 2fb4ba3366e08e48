"""Every name of ours: how timm knows it, and all that timm asks of a model, at few channels."""

import pickle
import re
import sys
from types import ModuleType

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn

from mixstill.models import cifar_resnet, cyclemlp, zoo
from mixstill.models.entries import Entry, register

TABLES = {zoo: zoo.SIZES, cyclemlp: cyclemlp.SIZES, cifar_resnet: cifar_resnet.DEPTHS}
ENTRIES = {name: entry for table in TABLES.values() for name, entry in table.items()}
NARROW = {
    zoo: {"num_blocks": 4, "embed_dim": 16},
    cyclemlp: {"depths": (1, 1, 2, 1), "embed_dims": (8, 8, 8, 12)},
    cifar_resnet: {"width": 4},
}
HOMES = {name: module for module, table in TABLES.items() for name in table}
every_name = pytest.mark.parametrize("name", ENTRIES)
every_table = pytest.mark.parametrize("module", TABLES, ids=lambda module: module.__name__.split(".")[-1])


def narrow(name, **kwargs):
    """A model of few channels whose parameters are all far from zero: many start with a head or branches of zeros."""
    torch.manual_seed(0)
    model = timm.create_model(name, **NARROW[HOMES[name]], **kwargs)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.1, 0.5) if parameter.ndim < 2 else nn.init.normal_(parameter, std=0.2)
    return model.eval()


def images_of(name):
    torch.manual_seed(1)
    return torch.randn(2, *ENTRIES[name].cfg["input_size"])


# --- registration ---


@every_name
def test_a_name_is_a_function_of_its_module_that_says_what_it_is(name):
    function = getattr(HOMES[name], name)
    assert timm.model_entrypoint(name) is function
    assert pickle.loads(pickle.dumps(function)) is function
    assert function.__doc__ == ENTRIES[name].about
    assert "\n" not in function.__doc__
    assert function.__doc__.endswith(".")


@every_name
def test_the_number_of_parameters_is_the_one_that_is_said(name):
    (said,) = re.findall(r"([\d.]+) M parameters", ENTRIES[name].about)
    count = sum(parameter.numel() for parameter in timm.create_model(name, device="meta").parameters())
    decimals = len(said.partition(".")[2])
    assert abs(count / 1e6 - float(said)) <= 0.5 * 10**-decimals + 1e-3


@every_table
def test_timm_lists_the_names_of_a_module(module):
    assert set(timm.list_models(module=module.__name__.split(".")[-1])) == set(TABLES[module])
    assert set(TABLES[module]) <= set(timm.list_models())


@pytest.mark.parametrize("taken", ["resnet18", "mixer_digits", "resmlp_24_distilled_224"])
def test_a_name_that_is_taken_is_refused_and_none_is_registered(taken, monkeypatch):
    monkeypatch.setitem(sys.modules, "made", ModuleType("made"))
    before = timm.model_entrypoint(taken)
    entry = Entry("A model.", {}, {})
    with pytest.raises(ValueError, match=f"^{taken}: timm has a model of this name$"):
        register("made", {"brand_new": entry, taken: entry}, lambda *_: nn.Identity())
    assert not timm.is_model("brand_new")
    assert timm.model_entrypoint(taken) is before


@every_name
def test_the_default_cfg_names_the_classifier_and_the_first_layer(name):
    model = timm.create_model(name, **NARROW[HOMES[name]], device="meta")
    cfg, found = model.default_cfg, model.get_classifier()
    names = cfg["classifier"] if isinstance(cfg["classifier"], tuple) else (cfg["classifier"],)
    assert tuple(map(model.get_submodule, names)) == (found if isinstance(found, tuple) else (found,))
    assert model.get_submodule(cfg["first_conv"]).weight.shape[1] == 3


@every_name
def test_weights_are_had_by_name_where_they_are_published(name):
    tags = ENTRIES[name].weights
    assert timm.is_model_pretrained(name) == bool(tags)
    if not tags:
        assert timm.get_pretrained_cfg(name).tag is None
        with pytest.raises(RuntimeError, match="No pretrained weights"):
            timm.create_model(name, pretrained=True, device="meta")
        return
    for index, (tag, weights) in enumerate(tags.items()):
        cfg = timm.get_pretrained_cfg(f"{name}.{tag}")
        assert cfg.url == weights["url"]
        assert (cfg.num_classes, cfg.mean) == (
            weights.get("num_classes", ENTRIES[name].cfg["num_classes"]),
            weights.get("mean", ENTRIES[name].cfg["mean"]),
        )
        assert (timm.get_pretrained_cfg(name).tag == tag) == (index == 0)


# --- timm's methods ---


@every_name
def test_a_model_gives_logits_in_both_modes(name):
    model, images = narrow(name, drop_path_rate=0.1), images_of(name)
    for training in (True, False):
        logits = model.train(training)(images)
        assert logits.shape == (2, ENTRIES[name].cfg["num_classes"])
        assert logits.isfinite().all()
        assert logits.std(0).min() > 0


@every_name
def test_intermediates_are_maps_or_rows_and_lead_to_the_logits(name):
    model, images = narrow(name), images_of(name)
    final, maps = model.forward_intermediates(images)
    assert len(maps) == len(model.feature_info)
    for found, info in zip(maps, model.feature_info, strict=True):
        side = images.shape[-1] // info["reduction"]
        assert found.shape == (2, info["num_chs"], side, side)
    torch.testing.assert_close(model.forward_head(final), model(images))
    if HOMES[name] is cifar_resnet:
        return
    rows = model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    for row, found in zip(rows, maps, strict=True):
        torch.testing.assert_close(row, found.flatten(2).mT)


@every_name
def test_the_classifier_can_be_replaced_and_removed(name):
    model, images = narrow(name), images_of(name)
    model.reset_classifier(7)
    assert model(images).shape == (2, 7)
    assert model.num_classes == 7
    model.reset_classifier(0)
    assert model(images).shape == (2, model.num_features)


@every_name
def test_checkpointing_recomputes_blocks_and_leaves_the_gradients_that_every_parameter_has(name):
    images, gradients, calls = images_of(name), [], []
    for checkpointing in (False, True):
        model = narrow(name)
        model.set_grad_checkpointing(checkpointing)
        block = model.get_submodule(model.feature_info[0]["module"])
        layer = next(module for module in block.modules() if isinstance(module, nn.Linear | nn.Conv2d))
        layer.register_forward_hook(lambda *_, run=checkpointing: calls.append(run))
        model(images).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.any()
        torch.testing.assert_close(recomputed, plain)
    assert calls == [False, True, True]


@every_name
def test_groups_for_layer_decay_hold_every_parameter(name):
    model = narrow(name)
    groups = list(group_parameters(model, model.group_matcher()).values())
    names = [parameter for group in groups for parameter in group]
    assert sorted(names) == sorted(parameter for parameter, _ in model.named_parameters())
    assert f"{model.default_cfg['first_conv']}.weight" in groups[0]
    assert set(groups[-1]) == {key for key in names if key.startswith(("head", "fc."))}


@every_name
def test_features_only_gives_what_feature_info_says(name):
    images = images_of(name)
    model = timm.create_model(name, **NARROW[HOMES[name]], features_only=True).eval()
    features = model(images)
    assert len(features) >= 3
    for found, channels, reduction in zip(
        features, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert found.shape == (2, channels, *(side // reduction for side in images.shape[2:]))
