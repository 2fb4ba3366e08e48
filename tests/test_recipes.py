"""Recipes: each shipped one is a valid config with an honest header, and files may build on one another."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import timm
import torch

from mixstill import recipes
from mixstill.config import Config
from mixstill.distill.classifier import build_student
from mixstill.distill.equation import equation
from mixstill.distill.placement import Placement
from mixstill.distill.sizes import count_parameters
from mixstill.errors import UserError
from mixstill.overrides import parse
from mixstill.train.optim import build_optimizer, learning_rate

load = cache(recipes.load)


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_loads_and_says_what_it_is_for(name) -> None:
    config = load(name)
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
    needs_data = load(name).data.dataset != "digits"
    assert ("data" in line.config) == needs_data


IMAGENET = [name for name in recipes.names() if name.startswith("imagenet-")]
OTHERS = [name for name in recipes.names() if name not in IMAGENET]
FINE_TUNED = {
    "imagenet-deit-b-distilled-384": "imagenet-deit-b-distilled",
    "imagenet-std-mixer-s16-448": "imagenet-std-mixer-s16",
}
STD = [name for name in IMAGENET if name.startswith("imagenet-std-") and name not in FINE_TUNED]
DEIT = [f"imagenet-deit-{size}" for size in ("ti", "s", "b")]
# One student and the same teachers, with each loss that may teach it.
FAMILY = {
    "none": ("cifar100-mixer-s4", "imagenet-mixer-s16"),
    "soft": ("cifar100-soft", "imagenet-soft-mixer-s16"),
    "hard": ("cifar100-hard", "imagenet-hard-mixer-s16"),
    "token": ("cifar100-token", "imagenet-token-mixer-s16"),
    "two-heads": ("cifar100-two-heads", "imagenet-two-heads-mixer-s16"),
    "std": ("cifar100-std-r56", "imagenet-std-mixer-s16"),
}
DOCS = Path(__file__).parents[1] / "docs" / "students.md"
DEITS_WAY = ("soft", "hard", "token", "two-heads")  # what is not STD, and is compared with it


@pytest.mark.parametrize("name", OTHERS)
def test_the_teachers_of_a_recipe_are_recipes_of_the_same_data(name) -> None:
    config = load(name)
    for text in config.distill.teachers:
        assert load(Placement.parse(text).teacher).data.dataset == config.data.dataset


@pytest.mark.parametrize("name", IMAGENET)
def test_the_teachers_of_an_imagenet_recipe_are_named_weights_of_timm(name) -> None:
    teachers = {Placement.parse(text).teacher for text in load(name).distill.teachers}
    plain = {f"imagenet-{student}" for student in STUDENTS} | {"imagenet-resmlp-s24-lamb", *DEIT}
    assert bool(teachers) == (name not in plain)
    for teacher in teachers:
        cfg = timm.get_pretrained_cfg(teacher, allow_unregistered=False)
        assert f"{cfg.architecture}.{cfg.tag}" == teacher
        assert cfg.has_weights
        assert (cfg.num_classes, cfg.input_size) == (1000, (3, 224, 224))


STUDENTS = ("mixer-s16", "mixer-b16", "resmlp-s24", "resmlp-b24", "cyclemlp-b1", "cyclemlp-b2")


def test_every_imagenet_row_of_the_papers_has_its_recipe() -> None:
    ablations = ("cyclemlp-b2-r50", "cyclemlp-b2-swin-b", "cyclemlp-b2-last")
    assert set(STD) == {f"imagenet-std-{name}" for name in (*STUDENTS, *ablations)}
    family = {at_224 for _, at_224 in FAMILY.values()} | {"imagenet-two-heads-cyclemlp-b2"}
    deit = {*DEIT, *(f"{name}-distilled" for name in DEIT)}
    plain = {f"imagenet-{name}" for name in (*STUDENTS, "resmlp-s24-lamb")}
    assert set(IMAGENET) == {*STD, *family, *deit, *plain, *FINE_TUNED}


@pytest.mark.parametrize("name", STD)
def test_a_distilled_recipe_differs_from_its_plain_students_in_the_distillation_alone(name) -> None:
    student = "-".join(name.removeprefix("imagenet-std-").split("-")[:2])
    distilled, plain = load(name), load(f"imagenet-{student}")
    assert replace(distilled, distill=plain.distill, mi=plain.mi) == plain
    assert distilled.distill.kind == "hard"
    assert distilled.mi.weight > 0


@pytest.mark.parametrize("way", DEITS_WAY)
@pytest.mark.parametrize("data", [0, 1], ids=["cifar100", "imagenet"])
def test_a_family_differs_in_the_distillation_alone(way, data) -> None:
    plain, std, taught = (load(FAMILY[name][data]) for name in ("none", "std", way))
    assert replace(taught, model=plain.model, distill=plain.distill) == plain
    own = "mixer_s4_distilled_32" if data == 0 else "mixer_s16_distilled_224"
    assert taught.model == (replace(plain.model, name=own) if way == "token" else plain.model)
    placed = [Placement.parse(text) for text in taught.distill.teachers]
    modules = [Placement.parse(text) for text in std.distill.teachers]
    assert [at.teacher for at in placed] == [at.teacher for at in modules]
    place = {"soft": "class", "hard": "class", "token": "token"}.get(way)
    assert [at.place for at in placed] == [place or at.place for at in modules]
    assert (taught.distill.tokens == "none") == (way == "two-heads")
    assert taught.distill.weights == std.distill.weights
    kind, alpha, tau = ("soft", 0.1, 3.0) if way == "soft" else ("hard", 0.5, 1.0)
    assert (taught.distill.kind, taught.distill.alpha, taught.distill.tau) == (kind, alpha, tau)


@pytest.mark.parametrize("way", FAMILY)
def test_the_docs_write_out_the_loss_of_each_of_a_family(way) -> None:
    config = load(FAMILY[way][0])
    placed = list(config.distill.teachers)
    lines = equation(config, placed, [Placement.parse(text).teacher for text in placed])
    terms = [line for line in lines if line.startswith(("L = ", "once per epoch"))]
    told = DOCS.read_text(encoding="utf-8")
    assert f"{way.replace('-', ' '):<12}" + f"\n{'':<12}".join(terms) + "\n" in told
    assert all(f"`{name}`" in told for name in FAMILY[way])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("imagenet-token-mixer-s16", 19_045_880),
        ("imagenet-two-heads-mixer-s16", 19_556_312),
        ("imagenet-two-heads-cyclemlp-b2", 27_830_552),
    ],
)
def test_what_stands_for_the_papers_deit_distillation_is_as_large_as_its_header_says(name, parameters) -> None:
    with torch.device("meta"):
        assert count_parameters(build_student(load(name), 1000)) == parameters
    assert f"{parameters:,}" in recipes.header(name)["what"]
    assert f"| {parameters:,} |" in DOCS.read_text(encoding="utf-8")


def test_two_heads_on_a_cyclemlp_stand_where_its_modules_would() -> None:
    heads, modules = (load(f"imagenet-{way}-cyclemlp-b2") for way in ("two-heads", "std"))
    assert replace(modules, distill=replace(modules.distill, tokens="none"), mi=heads.mi) == heads


@pytest.mark.parametrize("plain", [*DEIT, "cifar100-deit-ti"])
def test_a_distilled_deit_is_the_plain_one_with_a_token(plain) -> None:
    taught, without = load(f"{plain}-distilled"), load(plain)
    name = without.model.name.replace("_patch", "_distilled_patch")
    assert taught.model == replace(without.model, name=name)
    assert replace(taught, model=without.model, distill=without.distill) == without
    teacher = "regnety_160.deit_in1k" if plain in DEIT else "cifar100-resnet56"
    assert taught.distill.teachers == (f"{teacher}@token",)
    assert (taught.distill.kind, taught.distill.alpha) == ("hard", 0.5)


@pytest.mark.parametrize(("size", "name"), [("ti", "tiny"), ("s", "small"), ("b", "base")])
def test_a_deit_differs_from_the_mixers_recipe_in_the_model_alone(size, name) -> None:
    config, mixer = load(f"imagenet-deit-{size}"), load("imagenet-mixer-s16")
    assert config == replace(mixer, model=replace(mixer.model, name=f"deit_{name}_patch16_224"))


SMALL = {"resmlp-s12": "resmlp_s12_4_32", "gmlp-ti": "gmlp_ti4_32", "cyclemlp-b1": "cyclemlp_b1_32"}


@pytest.mark.parametrize("student", SMALL)
def test_a_small_student_is_taught_as_the_mixer_is(student) -> None:
    config, mixer = load(f"cifar100-std-{student}"), load("cifar100-std")
    assert config.model == replace(mixer.model, name=SMALL[student])
    places = replace(mixer.distill, teachers=config.distill.teachers)
    undecayed = replace(mixer.optim, no_decay=config.optim.no_decay)
    assert config == replace(mixer, model=config.model, distill=places, optim=undecayed)
    first = "8" if student == "cyclemlp-b1" else "2/3"
    assert config.distill.teachers == (f"cifar100-resnet32@{first}", "cifar100-resnet56@last")


@pytest.mark.parametrize("name", FINE_TUNED)
def test_fine_tuning_is_deits_at_more_pixels(name) -> None:
    config, before = load(name), load(FINE_TUNED[name])
    parts = {part: getattr(before, part) for part in ("model", "data", "optim", "train")}
    assert replace(config, **parts) == before
    assert config.model == replace(before.model, drop_path=0.0)
    assert config.data == replace(before.data, input_size=int(name.rpartition("-")[2]))
    assert config.optim == replace(before.optim, lr=5e-6, min_lr=5e-6, weight_decay=1e-8)
    assert config.train == replace(
        before.train, epochs=30, batch_size=512, device_batch_size=config.train.device_batch_size
    )
    assert learning_rate(config, 20 * 2500, 2500, 512) == pytest.approx(5e-6)
    assert recipes.header(name)["command"].endswith(" --init-from RUN")
    assert "--init-from" in recipes.header(name)["what"]


@pytest.mark.parametrize("name", [name for name in STD if "cyclemlp" in name] + ["cifar100-std-cyclemlp-b1"])
def test_the_modules_of_a_cyclemlp_sit_in_its_last_stage(name) -> None:
    config = load(name)
    patches = 16 if config.data.dataset == "cifar100" else 49
    with torch.device("meta"):
        assert set(build_student(config, 1000).token_shapes.values()) == {(512, patches)}


@pytest.mark.parametrize("name", [name for name in IMAGENET if not name.endswith("lamb") and name not in FINE_TUNED])
def test_the_imagenet_recipes_are_deits(name) -> None:
    config = load(name)
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


@pytest.mark.parametrize("name", [name for name in recipes.names() if "resmlp" in name and name not in STD])
def test_a_resmlps_affine_layers_are_undecayed(name) -> None:
    config = load(name)
    with torch.device("meta"):
        student = build_student(config, 1000)
        groups = build_optimizer(config.optim, student).param_groups
    undecayed = {parameter for group in groups if not group["weight_decay"] for parameter in group["params"]}
    backbone = dict(student.backbone.named_parameters())
    assert {name for name, parameter in backbone.items() if parameter not in undecayed} == {
        name for name in backbone if name.endswith("weight")
    }


def test_the_cifar_students_see_deits_views_at_a_rate_for_their_batch() -> None:
    config = load("cifar100-std")
    assert (config.views.crop, config.views.aa, config.views.reprob) == ("pad", "rand-m9-mstd0.5-inc1", 0.25)
    assert (config.views.mixup, config.views.cutmix, config.views.aug_repeats) == (0.8, 1.0, 1)
    assert learning_rate(config, 5 * 390, 390, 128) == pytest.approx(1.25e-4, rel=1e-2)


def test_overrides_go_over_the_recipe() -> None:
    config = recipes.load("digits", {"optim": {"lr": "0.5"}, "model": {"kwargs": {"embed_dim": 8}}})
    assert config.optim.lr == 0.5
    assert config.model.kwargs["embed_dim"] == 8
    assert config.data == load("digits").data


def test_a_file_may_build_on_a_file_and_that_on_a_shipped_recipe(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("base: digits\noptim:\n  lr: 5e-4\ntrain:\n  seed: 1\n")
    (tmp_path / "b.yml").write_text(f"base: {tmp_path / 'a.yaml'}\ntrain:\n  seed: 2\n")
    config = recipes.load(str(tmp_path / "b.yml"))
    assert config.train.seed == 2
    assert config.optim.lr == 5e-4
    assert config.data.samples_per_class == load("digits").data.samples_per_class


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
