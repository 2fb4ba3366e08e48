"""Other people's names of parameters, in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mixstill.models.weights import State


def rename_cyclemlp(state: State) -> State:
    """A state dict of ShoufaChen/CycleMLP under our names; one that has them already stays as it is.

    Its cycle layers are convolutions of 1x1 with constant offsets; ours are linear layers that know their shifts.
    """
    return {
        _cyclemlp_name(key): tensor.flatten(1) if re.search(r"\.sfc_[hw]\.weight$", key) else tensor
        for key, tensor in state.items()
        if not key.endswith(".offset")
    }


def _cyclemlp_name(key: str) -> str:
    """Our name of a parameter of theirs: their stages and the transitions between them alternate in one list."""
    key = re.sub(r"^patch_embed\.proj\.", "stem.", key)
    key = re.sub(r"^network\.(\d+)\.proj\.", lambda found: f"stages.{(int(found[1]) + 1) // 2}.downsample.", key)
    key = re.sub(r"^network\.(\d+)\.", lambda found: f"stages.{int(found[1]) // 2}.blocks.", key)
    for theirs, ours in (
        (".attn.", ".mixing."),
        (".sfc_h.", ".width."),
        (".sfc_w.", ".height."),
        (".mlp_c.", ".point."),
    ):
        key = key.replace(theirs, ours)
    return key


def filter_cyclemlp(content: Mapping[str, Any], model: object) -> State:
    """timm's `pretrained_filter_fn`: what a file of weights holds -> a state dict under our names."""
    return rename_cyclemlp(content.get("model", content))
