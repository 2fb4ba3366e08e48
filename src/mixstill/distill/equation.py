"""The loss of a run written out with its names and numbers, as `Objective` computes it."""

from __future__ import annotations

from collections.abc import Sequence

from mixstill.config import Config, DistillConfig, ViewsConfig
from mixstill.distill.placement import Placement

_BOUND = "bounded from below by a statistics network"
_SIGN = {"confidence": "-", "entropy": ""}


def equation(config: Config, module_names: Sequence[str], module_teachers: Sequence[str]) -> list[str]:
    """The loss, then what stands for what, in lines.

    Args:
        config: the resolved config.
        module_names: the name of each of the M modules, as `resnet32@2/3`.
        module_teachers: the name of each module's teacher.
    """
    options = config.distill
    if not module_names:
        return ["L = CE(class, y~)", _targets(config)]
    distilled = [
        f"{_weight(options, m, len(module_names))}{_distance(options, name, teacher)}"
        for m, (name, teacher) in enumerate(zip(module_names, module_teachers, strict=True), start=1)
    ]
    terms = [(1 - options.alpha, "CE(class, y~)"), (options.alpha, f"[{' + '.join(distilled)}]")]
    read = [name for name in module_names if not Placement.parse(name).at_head]
    information = f"[{' + '.join(f'I(T_S; T_C) @ {name}' for name in read)}]"
    if read and config.mi.weight and config.mi.every == "step":
        terms.append((config.mi.weight, information))
    lines = ["L = " + " + ".join(f"{_number(factor)} {text}" for factor, text in terms if factor)]
    if read and config.mi.weight and config.mi.every == "epoch":
        once = f"{_number(config.mi.weight)} {information}"
        lines.append(f"once per epoch, a plain gradient step at the rate {_number(config.mi.lr)} on {once}")
    lines.append(_targets(config))
    if options.alpha and len(module_names) > 1 and options.weights in _SIGN:
        lines.append(
            f"w = softmax over the modules of {_SIGN[options.weights]}H(teacher), H the entropy; on each sample"
        )
    if read and config.mi.weight:
        limit = ", where that is above 0" if config.mi.every == "step" else ""
        lines.append(f"I(T_S; T_C): mutual information of a module's tokens, {_BOUND}{limit}")
    return lines


def _weight(options: DistillConfig, m: int, count: int) -> str:
    if count == 1:
        return ""
    return f"w_{m} " if options.weights in _SIGN else f"1/{count} "


def _distance(options: DistillConfig, name: str, teacher: str) -> str:
    placement = Placement.parse(name)
    head = placement.place if placement.at_head else f"head {name}"
    if options.kind == "hard":
        return f"CE({head}, argmax {teacher})"
    tau = options.tau
    return f"{_number(tau**2)} KL({teacher} at tau {_number(tau)} || {head} at tau {_number(tau)})"


def _targets(config: Config) -> str:
    smoothing = config.train.smoothing
    smoothed = f"{_number(1 - smoothing)} y + {_number(smoothing)} / K" if smoothing else "y"
    return f"y~ = {smoothed}; y: the label" + _mixed(config.views)


def _mixed(views: ViewsConfig) -> str:
    """How labels and images are mixed; empty where they are not."""
    cutmix = views.cutmix > 0 or views.cutmix_minmax is not None
    kinds = []
    if views.mixup:
        kinds.append(f"mixup {_number(views.mixup)}")
    if cutmix:
        sides = views.cutmix_minmax
        kinds.append(f"cutmix {_number(views.cutmix)}" if sides is None else f"cutmix of sides {sides[0]}-{sides[1]}")
    if not kinds or not views.mixup_prob:
        return ""
    switch = f", switch {_number(views.mixup_switch_prob)}" if len(kinds) > 1 else ""
    often = "" if views.mixup_prob == 1 else f", on {_number(views.mixup_prob)} of the batches"
    return f", mixed ({' / '.join(kinds)}{switch}{often})"


def _number(value: float) -> str:
    return f"{value:.10g}"
