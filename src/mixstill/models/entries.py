"""Tables of models: from each row the function is made by which timm knows the model's name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from timm.models import generate_default_cfgs, is_model, register_model
from torch import nn

Build = Callable[[str, bool, dict[str, Any]], nn.Module]


@dataclass(frozen=True)
class Entry:
    """A row: what stands behind a name."""

    about: str
    """One line: what it is, its tokens, parameters and published top-1."""
    cfg: dict[str, Any]
    """timm's pretrained cfg: size of the images, normalisation, crop, classes, names of layers."""
    size: dict[str, Any]
    """Arguments of the model's class."""
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By tag, the first by default: the `url` of published weights, and where their cfg differs."""


def register(module: str, table: Mapping[str, Entry], build: Build) -> None:
    """Make a function of each name in the module called `module`, and register it with timm.

    Args:
        module: `__name__` of the module that the functions shall belong to; its `default_cfgs` are made too.
        table: The rows by name.
        build: Of the name, whether pretrained, and further arguments: the model.

    Raises:
        ValueError: A name that is taken; nothing is registered then.
    """
    taken = [name for name in table if is_model(name)]
    if taken:
        raise ValueError(f"{', '.join(taken)}: timm has a model of this name")
    home = sys.modules[module].__dict__
    cfgs: dict[str, Any] = {}
    for name, entry in table.items():
        for tag, weights in (entry.weights or {"": {}}).items():
            cfgs[f"{name}.{tag}" if tag else name] = {**entry.cfg, **weights}
    home["default_cfgs"] = generate_default_cfgs(cfgs)  # where timm's `register_model` looks
    for name, entry in table.items():
        home[name] = register_model(_function(module, name, entry.about, build))


def _function(module: str, name: str, about: str, build: Build) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build(name, pretrained, kwargs)

    create.__module__, create.__qualname__, create.__name__, create.__doc__ = module, name, name, about
    return create
