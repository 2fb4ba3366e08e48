"""Parameters and multiply-adds of backbones and students, counted on the meta device: no weights are made."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from functools import cache

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixstill import models
from mixstill.distill.placement import Placement
from mixstill.distill.student import Student
from mixstill.models.create import create_backbone, pixels

PREFIX = "std_"
VISION_MLPS = ("*mixer_*", "resmlp_*", "gmlp_*", "cyclemlp_*")
MODULES = 2  # of a `std_` model: the published sizes count one for each of two teachers


@dataclass(frozen=True)
class Size:
    """One model: learned numbers, multiply-adds of one image, pixels per side."""

    name: str
    params: int
    macs: int
    input_size: int
    num_classes: int
    modules: int
    source: str


@cache
def own_models() -> list[str]:
    """The backbones that mixstill adds to timm, and their students."""
    own = sorted([*models.zoo.SIZES, *models.cyclemlp.SIZES, *models.cifar_resnet.DEPTHS])
    return own + [PREFIX + name for name in own if _is_mlp(name)]


@cache
def known_models() -> list[str]:
    """Every timm name, mixstill's included, and the student of each vision MLP."""
    names = list(timm.list_models())
    return names + [PREFIX + name for name in names if _is_mlp(name)]


def _is_mlp(name: str) -> bool:
    return any(fnmatch.fnmatch(name, glob) for glob in VISION_MLPS)


def size_of(name: str, num_classes: int | None = None) -> Size:
    """The size of a model by name; with `std_` in front, of the student with two modules at the last block."""
    plain = name.removeprefix(PREFIX)
    modules = MODULES if plain != name else 0
    with torch.device("meta"):
        if num_classes is None:
            num_classes = int(timm.get_pretrained_cfg_value(plain, "num_classes") or 1000)
        backbone = create_backbone(plain, num_classes)
        student = Student(backbone, [Placement(str(teacher)) for teacher in range(modules)])
        student.eval().requires_grad_(False)
        side = pixels(backbone)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            student(torch.empty(1, 3, side, side))
    params = sum(parameter.numel() for parameter in student.parameters())
    source = "mixstill" if name in own_models() else "timm"
    return Size(name, params, counter.get_total_flops() // 2, side, num_classes, modules, source)
