"""The loss of a student, term by term: L = (1 - alpha) CE(class, y) + alpha mean_b sum_m w_m(b) D_m(b).

Shapes: B batch, K classes, M modules (distillation heads), T teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixstill.config import DistillConfig
from mixstill.distill.losses import class_loss, hard_distillation, soft_distillation, teacher_weights


@dataclass(frozen=True)
class Terms:
    """The loss to differentiate, and each of its terms as a detached scalar to log."""

    total: Tensor
    named: dict[str, Tensor]


class Objective:
    """The objective of STD (Li et al., ICML 2022): labels for the class head, one teacher for each module's head.

    Args:
        config: alpha, the kind of distillation, its temperature and the kind of weights.
        smoothing: label smoothing of the class loss.
        modules: the name of each of the M modules, as `resnet32@2/3`; all different.
        module_teacher: for each module, the index of its teacher in `teachers`.
        teachers: the name of each of the T teachers; all different.
    """

    def __init__(
        self,
        config: DistillConfig,
        smoothing: float,
        modules: Sequence[str],
        module_teacher: Sequence[int],
        teachers: Sequence[str],
    ) -> None:
        self.config = config
        self.smoothing = smoothing
        self.modules = tuple(modules)
        self.module_teacher = tuple(module_teacher)
        self.teachers = tuple(teachers)

    def __call__(self, logits: Tensor, heads: Tensor, teacher_logits: Tensor | None, targets: Tensor) -> Terms:
        """The terms of one batch, in nats.

        Args:
            logits: of the class head, [B, K].
            heads: logits of the modules' heads, [M, B, K]; not read where there are no modules.
            teacher_logits: [T, B, K], or None where there are no modules. They get no gradient.
            targets: int64 [B], or float [B, K] where samples are mixed.

        Returns:
            Named `class`; for each module `distill/<module>`, the batch mean of D_m before weighting; for each
            teacher `weight/<teacher>`, the batch mean of its modules' weights together; `distill`, their weighted
            sum; and `total`. Without modules the total is the class loss, whatever alpha is.

        Raises:
            ValueError: if there are modules and no teacher logits.
        """
        class_term = class_loss(logits, targets, self.smoothing)
        if not self.modules:
            return _terms(class_term, {"class": class_term})
        if teacher_logits is None:
            raise ValueError(f"the modules {', '.join(self.modules)} need their teachers' logits")

        # A teacher at two places counts in both: the weights are over modules, not over teachers.
        taught_by = torch.stack([teacher_logits[t] for t in self.module_teacher]).detach()  # [M, B, K]
        weights = teacher_weights(taught_by, self.config.weights)  # [M, B]
        distances = self._distance(heads, taught_by)  # [M, B]
        distill_term = (weights * distances).sum(dim=0).mean()
        total = (1 - self.config.alpha) * class_term + self.config.alpha * distill_term

        per_module = dict(zip(self.modules, distances.mean(dim=1), strict=True))
        per_teacher = {name: torch.zeros_like(total) for name in self.teachers}
        for teacher, weight in zip(self.module_teacher, weights.mean(dim=1), strict=True):
            per_teacher[self.teachers[teacher]] += weight
        named = {
            "class": class_term,
            **{f"distill/{name}": distance for name, distance in per_module.items()},
            **{f"weight/{name}": weight for name, weight in per_teacher.items()},
            "distill": distill_term,
        }
        return _terms(total, named)

    def _distance(self, heads: Tensor, teachers: Tensor) -> Tensor:
        """D, the distance of each head from its own teacher: [M, B, K] twice -> [M, B]."""
        if self.config.kind == "hard":
            return hard_distillation(heads, teachers)
        return soft_distillation(heads, teachers, self.config.tau)


def _terms(total: Tensor, named: dict[str, Tensor]) -> Terms:
    return Terms(total, {name: term.detach() for name, term in {**named, "total": total}.items()})
