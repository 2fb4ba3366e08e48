"""The optimizer and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from mixstill.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up, then a cosine over all steps to `min_lr`.

    As in timm and DeiT the cosine counts from step 0, so that the warm-up covers its beginning.
    """
    warmup, total = config.warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup:
        return config.warmup_lr + (config.lr - config.warmup_lr) * step / warmup
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * min(step / total, 1.0))) / 2


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or Nesterov SGD over the parameters of `model`; biases, norms and tokens undecayed unless `decay_all`."""
    arguments: dict[str, Any] = {"betas": config.opt_betas, "eps": config.opt_eps}
    if config.opt == "sgd":
        arguments = {"nesterov": config.momentum > 0}
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        list(model.parameters()) if config.decay_all else model,  # timm spares what a model names
        opt=config.opt,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        **arguments,
    )
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
