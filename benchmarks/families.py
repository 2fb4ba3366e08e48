"""Walk the families of timm: can the smallest classifier of each be a student, and a teacher?

    python benchmarks/families.py --output results/families.json
    python benchmarks/families.py resnet mlp_mixer

A family is a module of timm's, its smallest classifier the one with the fewest parameters. It is tried with random
weights at the smallest images that it takes as a student.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from provenance import provenance
from torch import Tensor, nn

from mixstill.config import DistillConfig, OptimConfig
from mixstill.distill.classifier import Classifier, Facts
from mixstill.distill.objective import Objective
from mixstill.distill.placement import Placement
from mixstill.distill.student import Student
from mixstill.distill.teachers import Teacher
from mixstill.errors import UserError, one_line
from mixstill.models.create import create_backbone, pixels
from mixstill.models.drop_path import place_paths, schedule_drop_path
from mixstill.normalisation import IMAGENET
from mixstill.train.optim import build_optimizer

ROLES = ("student", "teacher")
CLASSES, BATCH = 5, 2
RATE = 0.1  # of drop path
FAINT = 0.1  # weights that are all smaller hide what is behind them
SIDES = (32, 48, 56, 64, 96, 112, 120, 128, 160, 192, 224, 240, 256)  # pixels to try before a model's own
PLACEMENTS = (Placement("a", "2/3"), Placement("b", "last"))
DATA = Facts(CLASSES, None, (0.5, 0.45, 0.4), (0.2, 0.25, 0.3), 40)  # what the student of a teacher sees
# Where even the smallest takes long: the same code with less of it, as far as its entry lets us.
_VIT = {"depth": 3, "embed_dim": 192, "num_heads": 3}
SMALLER: dict[str, dict[str, Any]] = {
    "beit": _VIT,
    "byoanet": {"self_attn_kwargs": {"block_size": 2, "halo_size": 1}},
    "deepseek_vit": _VIT,
    "gemma4_vit": _VIT,
    "mobilenetv5": {"channel_multiplier": 0.25},
    "naflexvit": _VIT,
    "nasnet": {"num_features": 1056},
    "qwen3_vit": _VIT,
    "tresnet": {"layers": [1, 1, 1, 1], "width_factor": 0.5},
    "vgg": {"mlp_ratio": 0.05},
    "vision_transformer_sam": _VIT | {"depth": 6},
}
SLOW = ("pnasnet",)  # without a smaller form; the tests leave it to this walk


@dataclass(frozen=True)
class Family:
    """A family's smallest classifier, built with `kwargs` for images of `pixels`, and what it cannot be.

    drop_path: whether it takes a rate of stochastic depth.
    reasons: by role, why it cannot have it.
    """

    model: str
    kwargs: dict[str, Any]
    parameters: int
    pixels: int
    drop_path: bool
    reasons: dict[str, str]


class Unfit(Exception):  # noqa: N818
    """What a student or a teacher has to do, and this one does not."""


def main() -> None:
    """Walk and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="modules of timm; default: all of them")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    there = families()
    chosen = options.families or list(there)
    rows: dict[str, dict[str, Any]] = {}
    no_classifiers: dict[str, str] = {}
    with ProcessPoolExecutor(options.workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        found = pool.map(look, chosen, [there[name] for name in chosen])
        for name, (family, others) in zip(chosen, found, strict=True):
            can = {role: role not in family.reasons for role in ROLES}
            rows[name] = asdict(family) | can | {"slow": name in SLOW}
            no_classifiers |= others
            print(f"{name}: {family.model} at {family.pixels} pixels: {family.reasons or 'both'}", flush=True)
    count = {"families": len(rows)} | {role: sum(row[role] for row in rows.values()) for role in ROLES}
    print(f"of {count['families']} families {count['student']} can be a student, {count['teacher']} a teacher")
    if options.output:
        result = provenance(torch.device("cpu")) | {
            "counts": count,
            "no_classifiers": no_classifiers,
            "families": rows,
        }
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def families() -> dict[str, list[str]]:
    """The models of each of timm's own modules, by module."""
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        package, _, module = timm.model_entrypoint(name).__module__.rpartition(".")
        if package == "timm.models":
            found.setdefault(module, []).append(name)
    return dict(sorted(found.items()))


def look(name: str, models: Iterable[str]) -> tuple[Family, dict[str, str]]:
    """What a family can be, and why which of its models are no classifiers."""
    sizes: dict[str, int] = {}
    others: dict[str, str] = {}
    for model in models:
        try:
            sketch = sketched(model)
        except UserError as error:
            others[model] = str(error)
            continue
        if sketch.num_classes == CLASSES:
            sizes[model] = sum(parameter.numel() for parameter in sketch.parameters())
        else:
            others[model] = f"has {sketch.num_classes} classes when {CLASSES} are asked for"
    model, kwargs = min(sizes, key=sizes.__getitem__), SMALLER.get(name, {})
    sketch = sketched(model, kwargs)
    parameters = sum(parameter.numel() for parameter in sketch.parameters())
    family = Family(model, kwargs, parameters, pixels(sketch), takes_drop_path(model, kwargs), {})
    for side in [*(side for side in SIDES if side < pixels(sketch)), pixels(sketch)]:
        family = replace(family, pixels=side, reasons=judge(model, kwargs, side, family.drop_path))
        if "student" not in family.reasons:
            break
    return family, others


def sketched(model: str, kwargs: Mapping[str, Any] | None = None, drop_path: float = 0.0) -> nn.Module:
    """The model without weights."""
    with torch.device("meta"):
        return create_backbone(model, CLASSES, drop_path=drop_path, kwargs=kwargs)


def takes_drop_path(model: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether the model takes a rate of stochastic depth."""
    try:
        sketched(model, kwargs, RATE)
    except UserError:
        return False
    return True


def judge(model: str, kwargs: Mapping[str, Any], side: int, drop_path: bool) -> dict[str, str]:
    """By role, why the model, built for images of `side` pixels, cannot have it."""
    try:
        backbone = built(model, kwargs, side, drop_path)
    except UserError as error:
        return dict.fromkeys(ROLES, str(error))
    found = {"student": why_not(train, backbone), "teacher": why_not(teach, backbone)}
    return {role: reason for role, reason in found.items() if reason is not None}


def built(model: str, kwargs: Mapping[str, Any], side: int, drop_path: bool) -> nn.Module:
    """The model with weights that hide nothing: what starts at next to nothing (heads, layer scales) is drawn anew."""
    torch.manual_seed(0)
    rate = RATE if drop_path else 0.0
    backbone = create_backbone(model, CLASSES, input_size=side, drop_path=rate, kwargs=kwargs)
    if drop_path:
        schedule_drop_path(backbone, rate, "linear")
    for parameter in backbone.parameters():
        if parameter.abs().max() < FAINT:
            nn.init.normal_(parameter, std=FAINT)
    return backbone


def why_not(trial: Callable[[nn.Module], None], backbone: nn.Module) -> str | None:
    """The reason why a trial fails; None where it does not."""
    try:
        trial(backbone)
    except Exception as error:  # models fail in many ways, and each is an answer
        return one_line(error, 160)
    return None


def train(backbone: nn.Module) -> None:
    """Two steps as a student of two made teachers. Raises if it is not its backbone, or leaves something unused."""
    plain, student = backbone, Student(copy.deepcopy(backbone), PLACEMENTS)
    images = torch.randn(BATCH, 3, pixels(plain), pixels(plain))
    targets, answers = torch.arange(BATCH), torch.randn(len(PLACEMENTS), BATCH, CLASSES)
    with torch.no_grad():
        expected = plain.eval()(images)
        check_logits(expected)
        check(torch.equal(student.eval()(images).logits, expected), "has other class logits in evaluation")

    names = [str(placement) for placement in PLACEMENTS]
    objective = Objective(DistillConfig(kind="hard"), 0.1, names, [0, 1], [place.teacher for place in PLACEMENTS])
    optimizer = build_optimizer(OptimConfig(), student)
    for step in range(2):
        output = forward(student, images, step)
        terms = objective(output.logits, output.heads, answers, targets)
        terms.total.backward()
        if step == 0:
            expected = forward(plain, images, step)
            check(torch.equal(output.logits, expected), "has other class logits in training")
            expected.logsumexp(dim=1).sum().backward()
            idle = unused(student) - {f"backbone.{name}" for name in unused(plain)}
            check(not idle, f"leaves unused: {', '.join(sorted(idle))}")
        check(output.heads.shape == (len(PLACEMENTS), BATCH, CLASSES), f"has heads of {list(output.heads.shape)}")
        check(bool(terms.total.isfinite()), f"has a loss of {terms.total.item()} at step {step}")
        optimizer.step()
        optimizer.zero_grad()


def teach(backbone: nn.Module) -> None:
    """Answer a student whose images have another size and normalisation. Raises if it does not, or if it learns."""
    about: dict[str, Any] = backbone.pretrained_cfg
    mean, std = about.get("mean") or IMAGENET[0], about.get("std") or IMAGENET[1]
    facts = Facts(CLASSES, None, tuple(mean), tuple(std), pixels(backbone))
    teacher = Teacher(Classifier(backbone, facts, type(backbone).__name__), DATA).train()
    answers = teacher(torch.randn(BATCH, 3, DATA.input_size, DATA.input_size))
    check_logits(answers)
    check(not answers.requires_grad and not any(p.requires_grad for p in teacher.parameters()), "is not frozen")
    check(not any(module.training for module in teacher.modules()), "does not stay in eval mode")


def check(fulfilled: bool, otherwise: str) -> None:
    """Raises `Unfit` with what is told otherwise."""
    if not fulfilled:
        raise Unfit(otherwise)


def check_logits(output: Any) -> None:
    """Raises `Unfit` for what is not logits [B,K] of different images."""
    found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    check(found == [BATCH, CLASSES], f"gives {found}, not logits {[BATCH, CLASSES]}")
    check(bool(output.isfinite().all()), "gives logits that are not finite")
    check(not torch.equal(output[0], output[1]), "gives all images the same logits")


def forward(model: nn.Module, images: Tensor, step: int) -> Any:
    """The forward pass of a training step, with the same random numbers for each model."""
    torch.manual_seed(step)
    place_paths(model, 0, 0, torch.arange(BATCH * step, BATCH * (step + 1)))
    return model.train()(images)


def unused(model: nn.Module) -> set[str]:
    """The parameters that got no gradient."""
    return {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}


if __name__ == "__main__":
    main()
