"""Stochastic depth: its rates over the depth, its mean, and the same draws however a batch is split."""

import pytest
import timm
import torch

from mixstill.models.drop_path import DropPath, place_paths, schedule_drop_path


def paths(backbone) -> list[DropPath]:
    return [module for module in backbone.modules() if isinstance(module, DropPath)]


def scheduled(name, mode, rate=0.3, **kwargs):
    backbone = timm.create_model(name, drop_path_rate=rate, num_classes=3, **kwargs)
    schedule_drop_path(backbone, rate, mode)
    return backbone


def test_the_rate_grows_with_the_depth_where_timm_makes_it_constant() -> None:
    backbone = scheduled("mixer_digits", "linear", num_blocks=4, embed_dim=8)
    assert [path.rate for path in paths(backbone)] == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_the_rate_grows_over_the_blocks_that_have_one() -> None:
    """CaiT: constant in timm, with blocks at the end that have none."""
    found = [path.rate for path in paths(scheduled("cait_xxs24_224", "linear", rate=0.2, depth=4, embed_dim=48))]
    assert found[:4] == pytest.approx([0.0, 0.2 / 3, 0.4 / 3, 0.2])
    assert set(found[4:]) == {0.0}


@pytest.mark.parametrize(
    ("name", "kwargs"), [("vit_tiny_patch16_224", {"depth": 4, "embed_dim": 12}), ("convnext_atto", {})]
)
def test_growing_rates_of_timm_stay(name, kwargs) -> None:
    with torch.device("meta"):
        own = timm.create_model(name, drop_path_rate=0.3, **kwargs)
        rates = [module.drop_prob for module in own.modules() if isinstance(module, timm.layers.DropPath)]
        ours = [path.rate for path in paths(scheduled(name, "linear", **kwargs)) if path.rate > 0]
    assert ours == pytest.approx(rates)
    assert rates == sorted(rates)


@pytest.mark.parametrize(
    ("name", "kwargs", "count"),
    [
        ("mixer_digits", {"num_blocks": 3, "embed_dim": 8}, 3),
        ("vit_tiny_patch16_224", {"depth": 3, "embed_dim": 12}, 6),
        ("resnet18", {}, 8),  # timm's first block has None
    ],
)
def test_a_constant_rate_is_that_of_every_block(name, kwargs, count) -> None:
    found = paths(scheduled(name, "constant", **kwargs))
    assert len(found) == count
    assert {path.rate for path in found} == {0.3}


def test_a_sample_is_dropped_whole_or_scaled_up_and_its_mean_stays() -> None:
    path = DropPath(0.25).train()
    torch.manual_seed(0)
    out = path(torch.ones(20000, 2, 3))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(out.amin(dim=(1, 2)), out.amax(dim=(1, 2)))
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(path.eval()(torch.ones(5, 2)), torch.ones(5, 2))


def test_parts_of_a_batch_take_their_rows_of_what_the_batch_draws() -> None:
    backbone = scheduled("mixer_digits", "linear", rate=0.5, num_blocks=3, embed_dim=8).train()
    torch.nn.init.normal_(backbone.head.weight)  # timm starts it at zero
    images = torch.rand(12, 3, 8, 8)
    place_paths(backbone, 3, 1, torch.arange(12))
    whole = backbone(images)
    for rows in (torch.arange(12), torch.tensor([0, 1, 10, 11]), torch.tensor([4])):
        place_paths(backbone, 3, 1, rows)
        torch.testing.assert_close(backbone(images[rows]), whole[rows])
    for seed, epoch, first in ((4, 1, 0), (3, 2, 0), (3, 1, 12)):
        place_paths(backbone, seed, epoch, torch.arange(first, first + 12))
        assert not torch.equal(backbone(images), whole)
    place_paths(backbone, 3, 1, None)
    torch.manual_seed(5)
    again = backbone(images)
    torch.manual_seed(5)
    assert torch.equal(backbone(images), again)


def test_each_module_and_each_of_its_calls_has_draws_of_its_own() -> None:
    backbone = scheduled("mixer_digits", "constant", rate=0.5, num_blocks=3, embed_dim=8).train()
    place_paths(backbone, 3, 1, torch.arange(64))
    masks = [path(torch.ones(64)) for path in paths(backbone) for _ in range(2)]
    assert len({tuple(mask.tolist()) for mask in masks}) == 6


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("tnt_s_legacy_patch16_224", {"depth": 2, "embed_dim": 24, "img_size": 32}),
        ("mobilevit_xxs", {}),
    ],
)
def test_patches_that_lie_along_the_batch_take_the_draws_of_their_sample(name, kwargs) -> None:
    """TNT and MobileViT look into patches: a branch there has several rows for each sample."""
    backbone = scheduled(name, "constant", rate=0.5, **kwargs).train()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    images = torch.rand(6, 3, 32, 32)
    place_paths(backbone, 3, 1, torch.arange(6))
    whole = backbone(images)
    for rows in (torch.tensor([0, 5]), torch.tensor([3])):
        place_paths(backbone, 3, 1, rows)
        torch.testing.assert_close(backbone(images[rows]), whole[rows])


def test_all_rows_of_a_sample_are_kept_or_dropped_together() -> None:
    path = DropPath(0.5).train()
    path.place(torch.tensor([[0.9, 0.1, 0.7]]))
    assert path(torch.ones(6, 2)).tolist() == [[2.0] * 2] * 2 + [[0.0] * 2] * 2 + [[2.0] * 2] * 2


def test_gradient_checkpointing_draws_the_same_paths_again() -> None:
    backbone = scheduled("mixer_digits", "constant", rate=0.5, num_blocks=3, embed_dim=8).train()
    torch.nn.init.normal_(backbone.head.weight)
    images, found = torch.rand(12, 3, 8, 8), []
    for checkpointed in (False, True):
        backbone.set_grad_checkpointing(checkpointed)
        place_paths(backbone, 3, 1, torch.arange(12))
        final, _ = backbone.forward_intermediates(images)
        backbone.forward_head(final).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in backbone.parameters()])
        backbone.zero_grad()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
