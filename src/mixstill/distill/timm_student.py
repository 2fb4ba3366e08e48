"""A student under timm's calling convention, so that timm's own scripts can train it."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from mixstill.distill.student import Student, StudentOutput


class TimmStudent(nn.Module):
    """A student under timm's calling convention, for timm's own scripts: tensors out, two of them while distilling."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        self.num_classes = student.num_classes
        self.pretrained_cfg = self.default_cfg = cast(Any, student.backbone).pretrained_cfg
        self.distilled_training = False

    def set_distilled_training(self, enable: bool = True) -> None:
        """Switch the training output to (class logits, mean distillation logits), as timm's distilled models have."""
        self.distilled_training = enable

    def no_weight_decay(self) -> set[str]:
        """The student's own, under this module's names."""
        return {f"student.{name}" for name in self.student.no_weight_decay()}

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images [B,3,H,W] -> the average of the heads [B,K]; in distilled training, (class, distillation) [B,K]."""
        output: StudentOutput = self.student(images)
        if self.training and self.distilled_training:
            return output.logits, output.predict("distill")
        return output.predict("average")
