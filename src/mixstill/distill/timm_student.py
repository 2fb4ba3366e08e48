"""A student under timm's calling convention, so that timm's own scripts can train, validate and measure it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from mixstill.distill.student import Student
from mixstill.distill.tokens import TokenModule
from mixstill.models.create import pixels

_START = re.compile(r"(?<!\[)\^")  # the mark of a beginning, which may stand in each alternative of a pattern
# What timm's scripts read of a model besides its methods.
_FACTS = ("in_chans", "num_features", "head_hidden_size", "feature_info")


class TimmStudent(Student):
    """A student whose output is tensors, as timm's scripts expect: two of them while distilling.

    Parameters are named as the student's, so that the weights of a run fit. `forward_features` and `forward_head` are
    the backbone's; the distillation heads read what lies between them and join in `forward` alone.
    """

    def __init__(self, backbone: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(backbone, *args, **kwargs)
        side = pixels(backbone)
        own: dict[str, Any] = student_cfg(self._timm.pretrained_cfg)
        self.pretrained_cfg = self.default_cfg = own | {"input_size": (own["input_size"][0], side, side)}
        self.distilled_training = False
        for name in _FACTS:
            if hasattr(backbone, name):
                setattr(self, name, getattr(backbone, name))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        """Images [B,3,H,W] -> the average of the heads [B,K]; in distilled training, (class, distillation) [B,K]."""
        if not self.num_classes:  # timm's way of asking for pooled features
            return cast(Tensor, self.backbone(images))
        output = super().forward(images)
        if self.training and self.distilled_training:
            return output.logits, output.predict("distill")
        return output.predict("average")

    def set_distilled_training(self, enable: bool = True) -> None:
        """Switch the training output to (class logits, mean distillation logits), as timm's distilled models have."""
        self.distilled_training = enable

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's activations in the backward pass."""
        self._timm.set_grad_checkpointing(enable)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W] -> the backbone's final features."""
        return cast(Tensor, self._timm.forward_features(images))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The backbone's final features -> class logits [B,K], or with `pre_logits` pooled features [B,C]."""
        found = self._timm.forward_head(features, pre_logits=pre_logits)
        return cast(Tensor, sum(found) / len(found) if isinstance(found, tuple) else found)

    def forward_intermediates(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The backbone's."""
        return self._timm.forward_intermediates(images, *args, **kwargs)

    def get_classifier(self) -> tuple[nn.Module, ...]:
        """The class head, or heads, and those of the token modules."""
        own = self._timm.get_classifier()
        heads = own if isinstance(own, tuple) else (own,)
        return *heads, *(cast(nn.Module, module.head) for module in self.token_modules.values())

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New last layers for `num_classes`, and another pooling of the backbone where one is named."""
        self._timm.reset_classifier(num_classes, global_pool)
        self.num_classes = num_classes
        for module in self.token_modules.values():
            cast(TokenModule, module).reset_head(num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The backbone's patterns of parameter names; the token modules, unmatched, come last, as heads do in timm."""
        matcher: dict[str, Any] = self._timm.group_matcher(coarse=coarse)
        return {group: _below_backbone(patterns) for group, patterns in matcher.items()}

    @property
    def _timm(self) -> Any:
        return self.backbone


def student_cfg(cfg: dict[str, Any]) -> dict[str, Any]:
    """timm's cfg of a backbone, with the names that its layers have in a student, and without its weights."""
    names = {key: cfg.get(key) for key in ("first_conv", "classifier")}
    below = {key: _name_below_backbone(name) for key, name in names.items() if name}
    return cfg | below | {"url": "", "file": None, "hf_hub_id": None, "architecture": None}


def _name_below_backbone(name: str | Sequence[str]) -> str | tuple[str, ...]:
    return f"backbone.{name}" if isinstance(name, str) else tuple(f"backbone.{one}" for one in name)


def _below_backbone(patterns: Any) -> Any:
    """timm's pattern, or list of (pattern, order), for names that begin with `backbone.`."""
    if isinstance(patterns, str):
        return rf"^backbone\.(?:{_START.sub('', patterns)})"
    return [(_below_backbone(pattern), order) for pattern, order in patterns]
