"""Parameters and multiply-adds of backbones and students, counted on the meta device: no weights are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import model_entrypoint
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from mixstill import rng
from mixstill.distill.placement import Placement
from mixstill.distill.registry import PLACES, PREFIX
from mixstill.distill.student import Student
from mixstill.distill.tokens import TokenKind
from mixstill.errors import UserError, one_line, unknown
from mixstill.models.create import create_backbone, pixels


@dataclass(frozen=True)
class Size:
    """One model: learned numbers, multiply-adds of one image, pixels per side.

    `plain_params` and `plain_macs` are of the backbone alone, once the modules are taken off.
    """

    name: str
    params: int
    macs: int
    input_size: int
    num_classes: int
    modules: int
    source: str
    plain_params: int
    plain_macs: int


def count_parameters(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def own_models() -> list[str]:
    """What mixstill adds to timm: backbones, and the student of each vision MLP, timm's included."""
    return [name for name in timm.list_models() if _source(name) == "mixstill"]


def _source(name: str) -> str:
    """The package that registered a name."""
    return str(model_entrypoint(name).__module__.partition(".")[0])


@rng.borrowed()
def size_of(
    name: str,
    num_classes: int | None = None,
    input_size: int | None = None,
    *,
    places: Sequence[str] = PLACES,
    tokens: TokenKind = "spatial+channel",
) -> Size:
    """The size of a model by name; with `std_` in front, of the student with a module of `tokens` at each of `places`.

    `num_classes` and `input_size` are the model's own where they are not given; `source` is the backbone's.

    Raises `UserError` for an unknown name, a place out of range, or an input size that the model does not take.
    """
    if not timm.is_model(name):
        raise unknown("model", name, timm.list_models())
    backbone = name.removeprefix(PREFIX)
    has_student = timm.is_model(PREFIX + backbone)
    size = _measure(backbone, num_classes, input_size, tuple(places) if has_student else (), tokens)
    if name == size.name:
        return size
    return replace(size, name=name, params=size.plain_params, macs=size.plain_macs, modules=0)


@cache  # so that a backbone and its student are measured at once
def _measure(
    backbone: str, num_classes: int | None, input_size: int | None, places: tuple[str, ...], tokens: TokenKind
) -> Size:
    """The size of a backbone's student."""
    num_classes = num_classes or timm.get_pretrained_cfg_value(backbone, "num_classes") or 1000
    with torch.device("meta"), _ShapesOnly():
        body = create_backbone(backbone, num_classes, input_size=input_size)
        student = Student(body, [Placement(str(m), place) for m, place in enumerate(places)], tokens=tokens)
        macs, plain_macs = count_macs(student, backbone, pixels(body))
    return Size(
        name=PREFIX + backbone,
        params=count_parameters(student),
        macs=macs,
        input_size=pixels(body),
        num_classes=student.num_classes,
        modules=len(student.token_modules),
        source=_source(backbone),
        plain_params=count_parameters(body),
        plain_macs=plain_macs,
    )


def count_macs(student: Student, name: str, side: int) -> tuple[int, int]:
    """Multiply-adds of one image, with the token modules and without, of a student on the meta device."""
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.device("meta"):
            student.eval().requires_grad_(False)(torch.empty(1, 3, side, side))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"model: {name!r} cannot read images of {side} pixels: {one_line(error, 160)}") from error
    flops = counter.get_flop_counts()  # two for each multiply-add; by the module's path and the operation
    of_modules = sum(sum(flops[f"Student.token_modules.{m}"].values()) for m in student.token_modules)
    total = counter.get_total_flops()
    return total // 2, (total - of_modules) // 2


_LEFT_OUT = {
    *(F.batch_norm, F.gelu, F.layer_norm, F.relu, F.silu),
    *(nn.init.constant_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_),
    *(Tensor.add_, Tensor.clamp_, Tensor.erfinv_, Tensor.fill_, Tensor.mul_),
    *(Tensor.normal_, Tensor.uniform_, Tensor.zero_),
}


class _ShapesOnly(TorchFunctionMode):
    """Leaves out what is not counted and changes no shape: norms, activations, biases, the drawing of weights.

    On the meta device these are Python, and would take most of the time.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LEFT_OUT:
            return args[0] if args else kwargs["tensor"]
        return func(*(args[:2] if func is F.linear else args), **(kwargs or {}))
