"""The learning rate against timm's own scheduler, and what is decayed."""

import math

import pytest
import timm
import torch
from timm.scheduler import CosineLRScheduler

from mixstill.config import OptimConfig
from mixstill.distill.placement import Placement
from mixstill.distill.student import Student
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
        assert learning_rate(config, step, per_epoch, epochs) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-9
        )


def test_the_rate_follows_the_equation_and_stays_at_its_end() -> None:
    config = OptimConfig(lr=1.0, warmup_epochs=2.0, warmup_lr=0.2, min_lr=0.1)
    assert learning_rate(config, 0, 4, 10) == 0.2
    assert learning_rate(config, 2, 4, 10) == pytest.approx(0.2 + 0.8 * 2 / 8)
    assert learning_rate(config, 8, 4, 10) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 8 / 40)) / 2)
    assert learning_rate(config, 40, 4, 10) == learning_rate(config, 99, 4, 10) == pytest.approx(0.1)


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
