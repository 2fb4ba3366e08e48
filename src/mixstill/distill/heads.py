"""The heads of a backbone's own: the class head, and that of a distillation token where it has one.

timm's convention (its DeiT, LeViT, EfficientFormer and others): `set_distilled_training`, after which `forward_head`
gives (class, distillation) while the module is in training mode, and the mean of both in evaluation.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixstill.distill.features import blank_image
from mixstill.errors import UserError


def class_logits(backbone: nn.Module, final: Tensor) -> Tensor:
    """Final features -> the logits [B,K] that the backbone gives by itself."""
    return cast(Tensor, cast(Any, backbone).forward_head(final))


def class_and_token_logits(backbone: nn.Module, final: Tensor) -> tuple[Tensor, Tensor]:
    """Final features -> the logits [B,K] of the class head and of the distillation token's, in any mode.

    `separate_heads` was called on the backbone before.
    """
    if backbone.training:
        return cast(tuple[Tensor, Tensor], cast(Any, backbone).forward_head(final))
    with _as_if_training(backbone):
        return cast(tuple[Tensor, Tensor], cast(Any, backbone).forward_head(final))


@contextmanager
def _as_if_training(backbone: nn.Module) -> Iterator[None]:
    """The module that averages the heads gives both; dropout and norms, modules of their own, stay as they are."""
    speakers = [module for module in backbone.modules() if hasattr(module, "distilled_training")]
    for module in speakers:
        module.training = True
    try:
        yield
    finally:
        for module in speakers:
            module.training = False


@torch.no_grad()
def separate_heads(backbone: nn.Module) -> None:
    """Have the backbone give its two heads apart. Raises `UserError` if it has no distillation token."""
    name = type(backbone).__name__
    lacking = UserError(
        f"distill.teachers: the place 'token' is a distillation token, which {name} does not have; "
        f"choose a model such as deit_small_distilled_patch16_224 or mixer_s16_distilled_224, or another place"
    )
    if not hasattr(backbone, "set_distilled_training"):
        raise lacking
    cast(Any, backbone).set_distilled_training(True)
    with blank_image(backbone) as blank, _as_if_training(backbone):
        both = cast(Any, backbone).forward_head(cast(Any, backbone).forward_features(blank))
    if not isinstance(both, tuple):  # timm has the method in some models whose second head is left out
        raise lacking
