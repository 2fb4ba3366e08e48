"""The optimizer and the learning rate as a function of the step."""

from __future__ import annotations

import fnmatch
import inspect
import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers, param_groups_weight_decay
from torch import nn

from mixstill.config import Config, OptimConfig
from mixstill.errors import UserError, nearest, one_line, unknown


def learning_rate(config: Config, step: int, steps_per_epoch: int, batch_size: int) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up, then a cosine over all steps to `min_lr`.

    As in timm and DeiT the cosine counts from step 0, so that the warm-up covers its beginning, and the scale of
    `lr_base_size` is on the peak alone.
    """
    options, epochs = config.optim, config.train.epochs
    peak = options.lr * (batch_size / options.lr_base_size if options.lr_base_size else 1)
    warmup, total = options.warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup:
        return options.warmup_lr + (peak - options.warmup_lr) * step / warmup
    return options.min_lr + (peak - options.min_lr) * (1 + math.cos(math.pi * min(step / total, 1.0))) / 2


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer `config.opt` over the parameters of `model`.

    Biases, norms, tokens and what matches `no_decay` stay undecayed, unless `decay_all`. Raises `UserError` for an
    unknown optimizer, for betas of another number than it has, and for a pattern that matches no parameter.
    """
    names = [str(name) for name in list_optimizers()]
    if config.opt not in names:
        raise unknown("optim.opt", config.opt, names)
    about = get_optimizer_info(config.opt)
    if about.second_order:
        raise UserError(f"optim.opt: {config.opt!r} needs second derivatives, which a step here does not compute")
    arguments: dict[str, Any] = {}
    if about.has_eps and config.opt_eps is not None:
        arguments["eps"] = config.opt_eps
    if about.has_betas and config.opt_betas is not None:
        if len(config.opt_betas) != about.num_betas:
            raise UserError(f"optim.opt_betas: {config.opt_betas} is not valid; {config.opt} has {about.num_betas}")
        arguments["betas"] = config.opt_betas
    if config.opt in ("sgd", "nesterov"):
        arguments["nesterov"] = config.momentum > 0
    if _has_fused(about.opt_class) and next(model.parameters()).device.type in ("cpu", "cuda"):
        arguments["fused"] = True
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            _groups(config, model),
            opt=config.opt,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **arguments,
        )
    except (TypeError, ValueError, AssertionError, ImportError) as error:  # some need packages or more arguments
        raise UserError(f"optim.opt: {config.opt!r} cannot be made: {one_line(error)}") from error
    return optimizer


def _has_fused(optimizer: Any) -> bool:
    """Whether an optimizer is PyTorch's own and has a fused form, one pass over all parameters."""
    return isinstance(optimizer, type) and "fused" in inspect.signature(optimizer).parameters


def _groups(config: OptimConfig, model: nn.Module) -> list[dict[str, Any]] | list[nn.Parameter]:
    """The parameters, the undecayed ones apart."""
    names = [name for name, _ in model.named_parameters()]
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    for pattern in config.no_decay:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            near = nearest(pattern, names)
            raise UserError(f"optim.no_decay: {pattern!r} matches no parameter; the nearest is {near or names[0]!r}")
        spared = spared | set(matched)
    if config.decay_all:
        return list(model.parameters())
    groups: list[dict[str, Any]] = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=spared)
    return groups


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
