"""The students' names in timm's registry: `std_` and the name of a vision MLP, as `std_mixer_s16_224`."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import timm
from timm.models import generate_default_cfgs, get_pretrained_cfg, load_pretrained, model_entrypoint, register_model

from mixstill import models as models  # first, so that its backbones have students too
from mixstill.distill.placement import Placement
from mixstill.distill.timm_student import TimmStudent, student_cfg
from mixstill.distill.tokens import TokenKind
from mixstill.errors import UserError

PREFIX = "std_"
VISION_MLPS = ("mixer_*", "gmixer_*", "resmlp_*", "gmlp_*", "cyclemlp_*")
PLACES = ("last", "last")  # the published sizes count one module for each of two teachers


def _is_mlp(name: str) -> bool:
    """Whether it is a vision MLP of timm's or ours; another's of such a name may be anything."""
    home = model_entrypoint(name).__module__.partition(".")[0]
    return home in ("timm", "mixstill") and any(fnmatch.fnmatch(name, glob) for glob in VISION_MLPS)


def create_student(
    backbone: str,
    pretrained: bool = False,
    *,
    places: Sequence[str] | str | float = PLACES,
    tokens: TokenKind = "spatial+channel",
    steps: int = 1,
    propagate: bool = False,
    **kwargs: Any,
) -> TimmStudent:
    """A student under timm's convention.

    Args:
        backbone: timm name of the backbone.
        pretrained: of the backbone; the modules' weights are new, unless timm gives those of a whole student
            (`local-dir:`, `hf-hub:`).
        places: one module at each, as `last`, `2/3` or a block index; several in one word are parted by commas.
        tokens: which tokens the modules have.
        steps: token updates K in each module.
        propagate: a later module starts from the tokens of the one before.
        kwargs: of the backbone.

    Raises:
        UserError: a place that the backbone does not have, tokens that there are not, or no step.
    """
    if kwargs.pop("features_only", False):
        raise UserError(f"features_only: not of a student; take {backbone!r}")
    named = [str(place) for place in places] if isinstance(places, list | tuple) else str(places).split(",")
    # Without propagation each module has a teacher of its own; tokens propagate between the modules of one.
    placements = [Placement("0" if propagate else str(m), place) for m, place in enumerate(named)]
    # Where timm reads a folder or the hub, its cfg is of the whole student; a tag, or none, is of the backbone.
    whole = None if isinstance(kwargs.get("pretrained_cfg"), str) else kwargs.pop("pretrained_cfg", None)
    body = model_entrypoint(backbone)(pretrained=pretrained and whole is None, **kwargs)
    student = TimmStudent(body, placements, tokens=tokens, steps=steps, propagate=propagate)
    placed = next(body.parameters())  # where timm's `device` and `dtype` put it
    student.token_modules.to(placed.device, placed.dtype)
    student.pretrained_cfg["architecture"] = PREFIX + backbone
    if pretrained and whole is not None:
        cfg = whole if isinstance(whole, dict) else whole.to_dict()
        load_pretrained(student, pretrained_cfg=cfg, num_classes=student.num_classes)
    return student


def _cfg(backbone: str) -> dict[str, Any]:
    return student_cfg(cast(Any, get_pretrained_cfg(backbone)).to_dict())


# timm's `register_model` looks its entries up here.
default_cfgs = generate_default_cfgs({PREFIX + name: _cfg(name) for name in timm.list_models() if _is_mlp(name)})


def _register(name: str) -> None:
    entry = partial(create_student, name.removeprefix(PREFIX))
    entry.__name__, entry.__module__ = name, __name__  # type: ignore[attr-defined]
    register_model(entry)


for _name in default_cfgs:
    _register(_name)
