"""The learning rate against timm's own scheduler, and what is decayed."""

import math

import pytest
import timm
import torch
from timm.optim import Lamb
from timm.scheduler import CosineLRScheduler

from mixstill.config import Config, OptimConfig, TrainConfig
from mixstill.distill.placement import Placement
from mixstill.distill.student import Student
from mixstill.errors import UserError
from mixstill.train.optim import build_optimizer, learning_rate, set_rate


def small_student() -> Student:
    backbone = timm.create_model("mixer_digits", num_classes=10, num_blocks=2, embed_dim=16)
    return Student(backbone, [Placement("a", "0"), Placement("b")])


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("min_lr", [0.0, 1e-5])
def test_the_rate_of_every_step_is_timms(warmup_epochs, min_lr) -> None:
    per_epoch, epochs = 6, 5
    config = OptimConfig(lr=3e-3, warmup_epochs=warmup_epochs, warmup_lr=1e-6, min_lr=min_lr)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=epochs * per_epoch,
        lr_min=min_lr,
        warmup_t=int(warmup_epochs * per_epoch),
        warmup_lr_init=1e-6,
        warmup_prefix=False,
        t_in_epochs=False,
    )
    for step in range(epochs * per_epoch):
        scheduler.step_update(step)
        rate = learning_rate(Config(optim=config, train=TrainConfig(epochs=epochs)), step, per_epoch, 128)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


def test_the_rate_follows_the_equation_and_stays_at_its_end() -> None:
    options = OptimConfig(lr=1.0, warmup_epochs=2.0, warmup_lr=0.2, min_lr=0.1)
    config = Config(optim=options, train=TrainConfig(epochs=10))
    assert learning_rate(config, 0, 4, 8) == 0.2
    assert learning_rate(config, 2, 4, 8) == pytest.approx(0.2 + 0.8 * 2 / 8)
    assert learning_rate(config, 8, 4, 8) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 8 / 40)) / 2)
    assert learning_rate(config, 40, 4, 8) == learning_rate(config, 99, 4, 8) == pytest.approx(0.1)


def test_the_peak_is_scaled_by_the_batch_and_the_ends_are_not() -> None:
    """DeiT: lr * batch / 512 for the peak; warm-up and end as they are."""
    options = OptimConfig(lr=5e-4, lr_base_size=512, warmup_epochs=1.0, warmup_lr=1e-6, min_lr=1e-5)
    config = Config(optim=options, train=TrainConfig(epochs=2))
    assert learning_rate(config, 0, 100, 1024) == 1e-6
    assert learning_rate(config, 100, 100, 1024) == pytest.approx(1e-5 + (1e-3 - 1e-5) / 2)
    assert learning_rate(config, 200, 100, 1024) == pytest.approx(1e-5)


def decayed(model, **options) -> set[str]:
    """The names of the parameters that are decayed; each parameter is in one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(OptimConfig(weight_decay=0.3, **options), model)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(names)
    assert {group["weight_decay"] for group in optimizer.param_groups} <= {0.0, 0.3}
    return {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_biases_norms_and_tokens_are_not_decayed_unless_all_are(opt) -> None:
    student = small_student()
    matrices = {name for name, parameter in student.named_parameters() if parameter.ndim > 1}
    tokens = {name for name, _ in student.named_parameters() if name.endswith(".start")}
    assert len(tokens) == 4
    assert decayed(student, opt=opt) == matrices - tokens
    assert decayed(student, opt=opt, decay_all=True) == {name for name, _ in student.named_parameters()}


def test_parameters_are_left_undecayed_by_pattern() -> None:
    student = small_student()
    spared = decayed(student) - decayed(student, no_decay=("backbone.blocks.0.*", "backbone.head.weight"))
    assert spared == {
        name
        for name, parameter in student.named_parameters()
        if parameter.ndim > 1 and (name.startswith("backbone.blocks.0.") or name == "backbone.head.weight")
    }
    with pytest.raises(UserError, match=r"optim.no_decay: 'backbone.block.0' matches no parameter; the nearest is 'b"):
        build_optimizer(OptimConfig(no_decay=("backbone.block.0",)), student)


def test_lamb_is_timms_and_an_unknown_optimizer_is_told_with_the_nearest() -> None:
    lamb = build_optimizer(OptimConfig(opt="lamb", opt_eps=1e-6, opt_betas=(0.8, 0.9)), small_student())
    assert isinstance(lamb, Lamb)
    assert {(group["betas"], group["eps"]) for group in lamb.param_groups} == {((0.8, 0.9), 1e-6)}
    with pytest.raises(UserError, match=r"optim.opt: unknown value 'adamx'; did you mean 'adam"):
        build_optimizer(OptimConfig(opt="adamx"), small_student())
    with pytest.raises(UserError, match=r"optim.opt: 'adahessian' needs second derivatives"):
        build_optimizer(OptimConfig(opt="adahessian"), small_student())
    with pytest.raises(UserError, match=r"optim.opt_betas: \(0.9,\) is not valid; adamw has 2"):
        build_optimizer(OptimConfig(opt_betas=(0.9,)), small_student())


def test_the_options_of_the_optimizers_arrive() -> None:
    model = small_student()
    adamw = build_optimizer(OptimConfig(lr=0.1, opt_eps=1e-6, opt_betas=(0.5, 0.6)), model)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {(group["betas"], group["eps"], group["lr"]) for group in adamw.param_groups} == {((0.5, 0.6), 1e-6, 0.1)}
    sgd = build_optimizer(OptimConfig(opt="sgd", momentum=0.7), model)
    assert isinstance(sgd, torch.optim.SGD)
    assert {(group["momentum"], group["nesterov"]) for group in sgd.param_groups} == {(0.7, True)}
    set_rate(sgd, 0.25)
    assert {group["lr"] for group in sgd.param_groups} == {0.25}
