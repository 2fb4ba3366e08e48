"""Recipes: each shipped one is a valid config with an honest header, and files may build on one another."""

from dataclasses import replace

import pytest
import timm
import torch

from mixstill import recipes
from mixstill.config import Config
from mixstill.distill.classifier import build_student
from mixstill.distill.placement import Placement
from mixstill.errors import UserError
from mixstill.overrides import parse
from mixstill.train.optim import build_optimizer, learning_rate


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_loads_and_says_what_it_is_for(name) -> None:
    config = recipes.load(name)
    assert config != Config()
    header = recipes.header(name)
    assert list(header) == ["what", "source", "command", "measured"]
    assert all(header.values())


@pytest.mark.parametrize("name", recipes.names())
def test_the_command_in_a_header_is_one_that_trains_that_recipe(name) -> None:
    program, command, *rest = recipes.header(name)["command"].split()
    assert (program, command) == ("mixstill", "train")
    line = parse(rest)
    assert line.words == [name]
    needs_data = recipes.load(name).data.dataset != "digits"
    assert ("data" in line.config) == needs_data


IMAGENET = [name for name in recipes.names() if name.startswith("imagenet-")]
OTHERS = [name for name in recipes.names() if name not in IMAGENET]
DISTILLED = [name for name in IMAGENET if name.startswith("imagenet-std-")]


@pytest.mark.parametrize("name", OTHERS)
def test_the_teachers_of_a_recipe_are_recipes_of_the_same_data(name) -> None:
    config = recipes.load(name)
    for text in config.distill.teachers:
        assert recipes.load(Placement.parse(text).teacher).data.dataset == config.data.dataset


@pytest.mark.parametrize("name", IMAGENET)
def test_the_teachers_of_an_imagenet_recipe_are_named_weights_of_timm(name) -> None:
    teachers = {Placement.parse(text).teacher for text in recipes.load(name).distill.teachers}
    assert bool(teachers) == (name in DISTILLED)
    for teacher in teachers:
        cfg = timm.get_pretrained_cfg(teacher, allow_unregistered=False)
        assert f"{cfg.architecture}.{cfg.tag}" == teacher
        assert cfg.has_weights
        assert (cfg.num_classes, cfg.input_size) == (1000, (3, 224, 224))


def test_every_imagenet_row_of_the_paper_has_its_recipe() -> None:
    students = {"mixer-s16", "mixer-b16", "resmlp-s24", "resmlp-b24", "cyclemlp-b1", "cyclemlp-b2"}
    ablations = {"cyclemlp-b2-r50", "cyclemlp-b2-swin-b", "cyclemlp-b2-last"}
    assert set(DISTILLED) == {f"imagenet-std-{name}" for name in students | ablations}
    assert set(IMAGENET) - set(DISTILLED) == {f"imagenet-{name}" for name in students | {"resmlp-s24-lamb"}}


@pytest.mark.parametrize("name", DISTILLED)
def test_a_distilled_recipe_differs_from_its_plain_students_in_the_distillation_alone(name) -> None:
    student = "-".join(name.removeprefix("imagenet-std-").split("-")[:2])
    distilled, plain = recipes.load(name), recipes.load(f"imagenet-{student}")
    assert replace(distilled, distill=plain.distill, mi=plain.mi) == plain
    assert distilled.distill.kind == "hard"
    assert distilled.mi.weight > 0


@pytest.mark.parametrize("name", [name for name in DISTILLED if "cyclemlp" in name])
def test_the_modules_of_a_cyclemlp_sit_in_its_last_stage(name) -> None:
    config = recipes.load(name)
    with torch.device("meta"):
        assert set(build_student(config, 1000).token_shapes.values()) == {(512, 49)}


@pytest.mark.parametrize("name", [name for name in IMAGENET if not name.endswith("lamb")])
def test_the_imagenet_recipes_are_deits(name) -> None:
    config = recipes.load(name)
    assert (config.train.epochs, config.train.batch_size, config.train.smoothing) == (300, 1024, 0.1)
    assert config.train.ema_decay == 0.99996
    optim = config.optim
    assert optim.lr * config.train.batch_size / optim.lr_base_size == pytest.approx(1e-3)
    assert (optim.opt, optim.weight_decay, optim.warmup_epochs) == ("adamw", 0.05, 5)
    assert (optim.warmup_lr, optim.min_lr, optim.clip_grad) == (1e-6, 1e-5, None)
    views = config.views
    assert (views.crop, views.interpolation, views.hflip, views.aa) == ("rrc", "bicubic", 0.5, "rand-m9-mstd0.5-inc1")
    assert (views.mixup, views.cutmix, views.mixup_prob, views.mixup_switch_prob) == (0.8, 1.0, 1.0, 0.5)
    assert (views.reprob, views.remode, views.recount, views.aug_repeats) == (0.25, "pixel", 1, 3)
    assert (config.model.drop_path, config.model.drop_path_mode) == (0.1, "linear")
    assert (config.data.input_size, config.data.crop_pct) == (224, 0.875)


@pytest.mark.parametrize("name", [name for name in IMAGENET if "resmlp" in name and name not in DISTILLED])
def test_a_resmlps_affine_layers_are_undecayed(name) -> None:
    config = recipes.load(name)
    with torch.device("meta"):
        student = build_student(config, 1000)
        groups = build_optimizer(config.optim, student).param_groups
    undecayed = {parameter for group in groups if not group["weight_decay"] for parameter in group["params"]}
    backbone = dict(student.backbone.named_parameters())
    assert {name for name, parameter in backbone.items() if parameter not in undecayed} == {
        name for name in backbone if name.endswith("weight")
    }


def test_the_cifar_students_see_deits_views_at_a_rate_for_their_batch() -> None:
    config = recipes.load("cifar100-std")
    assert (config.views.crop, config.views.aa, config.views.reprob) == ("pad", "rand-m9-mstd0.5-inc1", 0.25)
    assert (config.views.mixup, config.views.cutmix, config.views.aug_repeats) == (0.8, 1.0, 1)
    assert learning_rate(config, 5 * 390, 390, 128) == pytest.approx(1.25e-4, rel=1e-2)


def test_overrides_go_over_the_recipe() -> None:
    config = recipes.load("digits", {"optim": {"lr": "0.5"}, "model": {"kwargs": {"embed_dim": 8}}})
    assert config.optim.lr == 0.5
    assert config.model.kwargs["embed_dim"] == 8
    assert config.data == recipes.load("digits").data


def test_a_file_may_build_on_a_file_and_that_on_a_shipped_recipe(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("base: digits\noptim:\n  lr: 5e-4\ntrain:\n  seed: 1\n")
    (tmp_path / "b.yml").write_text(f"base: {tmp_path / 'a.yaml'}\ntrain:\n  seed: 2\n")
    config = recipes.load(str(tmp_path / "b.yml"))
    assert config.train.seed == 2
    assert config.optim.lr == 5e-4
    assert config.data.samples_per_class == recipes.load("digits").data.samples_per_class


def test_a_circle_of_bases_is_told(tmp_path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(f"base: {b}\n")
    b.write_text(f"base: {a}\n")
    with pytest.raises(UserError, match=f"recipe: {a} -> {b} -> {a} goes round in a circle"):
        recipes.load(str(a))


def test_an_unknown_recipe_is_told_with_the_nearest(tmp_path) -> None:
    with pytest.raises(UserError, match=r"recipe: unknown value 'digit'; did you mean 'digits'\?"):
        recipes.load("digit")
    with pytest.raises(UserError, match=r"recipe: '.*none.yaml': there is no such file"):
        recipes.load(str(tmp_path / "none.yaml"))


def test_an_unknown_field_in_a_file_is_told_with_the_nearest(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("train:\n  sead: 1\n")
    with pytest.raises(UserError, match=r"config: unknown value 'train.sead'; did you mean 'train.seed'\?"):
        recipes.load(str(tmp_path / "a.yaml"))


def test_a_header_line_goes_on_in_the_next(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(
        "# what: a thing\n#   that goes on: here\n# measured: no\ntrain:\n  seed: 1\n# source: x\n"
    )
    assert recipes.header(str(tmp_path / "a.yaml")) == {"what": "a thing that goes on: here", "measured": "no"}
