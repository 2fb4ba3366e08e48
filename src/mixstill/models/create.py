"""Building any timm backbone by name at any input size, with a user's mistakes told in one line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import timm
import torch
from torch import nn

from mixstill.errors import UserError, one_line, root, unknown
from mixstill.quiet import no_warnings, only_errors


def create_backbone(
    name: str,
    num_classes: int | None = None,
    *,
    input_size: int | None = None,
    pretrained: bool = False,
    drop_path: float = 0.0,
    kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """timm's `create_model` for `name` (mixstill's own included), at `input_size` pixels per side.

    `num_classes` is the model's own where it is not given.
    Where the backbone takes images of any size, `input_size` only stands in its `pretrained_cfg`, for `pixels`.

    Raises `UserError` for an unknown name, arguments that the model does not take, an input size that the patch does
    not divide or that an `img_size` among the arguments contradicts, and weights that cannot be fetched.
    """
    if ":" not in name and not timm.is_model(name):
        raise unknown("model", name, timm.list_models())
    arguments = dict(kwargs or {})
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    if input_size is not None and "img_size" not in arguments:
        with torch.device("meta"):
            trial = _create(name, False, arguments, input_size)
        if pixels(trial) != input_size:  # its registered name sets a size of its own
            arguments["img_size"] = input_size
    size, patch = arguments.get("img_size"), arguments.get("patch_size")
    if isinstance(size, int) and isinstance(patch, int):
        _check_patch(name, size, patch)
    backbone = _create(name, pretrained, arguments, input_size)
    found = patch_size(backbone)
    if found is not None and (input_size, size, patch) != (None, None, None):  # else it is as timm has it
        _check_patch(name, pixels(backbone), found)
    if input_size not in (None, pixels(backbone)):
        raise UserError(f"data.input_size: {input_size} pixels, but {arguments} build {name!r} for {pixels(backbone)}")
    return backbone


def _create(name: str, pretrained: bool, arguments: dict[str, Any], input_size: int | None) -> nn.Module:
    # timm builds its models of a fixed size for the one in their pretrained_cfg
    overlay = None if input_size is None else {"input_size": (3, input_size, input_size)}
    try:
        # the hub's client warns of each of its retries, timm tells what it does not find; the error says it once
        with only_errors("huggingface_hub"), only_errors("timm.models", logging.CRITICAL), no_warnings():
            return timm.create_model(name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **arguments)
    except UserError:  # of mixstill's own backbones
        raise
    except Exception as error:  # a user's arguments and the hub's client fail in many ways
        if (pretrained or ":" in name) and isinstance(error, OSError | RuntimeError):
            why = dict.fromkeys((one_line(root(error), 160), one_line(error, 160)))  # what the client wraps comes first
            raise UserError(f"model: the weights of {name!r} cannot be fetched: {'; '.join(why)}") from error
        raise UserError(f"model: {name!r} cannot be built with {arguments}: {one_line(error)}") from error


def _check_patch(name: str, size: int, patch: int) -> None:
    if size % patch:
        below = size - size % patch
        nearest = " or ".join(str(valid) for valid in (below, below + patch) if valid)
        raise UserError(
            f"data.input_size: {size} pixels are not divisible by the patch of {patch} of {name!r}; try {nearest}"
        )


def _patches(backbone: nn.Module) -> Any:
    """timm's patch embedding, where the backbone has one: `stem` in its MLPs, `patch_embed` elsewhere.

    What has a `patch_size` and no `img_size` is a convolution whose patches overlap (PVT v2).
    """
    candidates = (getattr(backbone, name, None) for name in ("patch_embed", "stem"))
    return next((found for found in candidates if hasattr(found, "patch_size") and hasattr(found, "img_size")), None)


def patch_size(backbone: nn.Module) -> int | None:
    """Pixels per side of the patches that the backbone cuts its input into; None if it cuts none."""
    patches = _patches(backbone)
    return None if patches is None else _side(patches.patch_size)


def pixels(backbone: nn.Module) -> int:
    """Pixels per side of the input that the backbone was built for."""
    size = getattr(_patches(backbone), "img_size", None)
    return _side(cast(Any, backbone).pretrained_cfg["input_size"][1:] if size is None else size)


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else int(size[0])


def token_mixing_width(backbone: nn.Module) -> int | None:
    """The hidden width of the backbone's own token mixing, where it has one (Mixer); else None."""
    for name, module in backbone.named_modules():
        if name.endswith("mlp_tokens.fc2"):  # not fc1, which is twice as wide where it is gated (gMixer)
            return int(cast(nn.Linear, module).in_features)
    return None
