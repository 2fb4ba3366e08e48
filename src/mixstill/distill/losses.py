"""What a head is taught by: labels, a teacher's decision or its distribution, and how much each teacher counts.

Every function starts from a float32 log-softmax, whatever the dtype of its logits, and keeps the samples apart;
only `class_loss` takes the batch mean. Shapes: B batch, K classes, M modules.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mixstill.errors import unknown

WeightKind = Literal["confidence", "entropy", "uniform"]

# The weights are softmax(sign * entropy): the surer teacher counts more, the less sure one, all alike.
_SIGN: dict[str, float] = {"confidence": -1.0, "entropy": 1.0, "uniform": 0.0}


def class_loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with the labels, in nats, mean over the batch: [B, K] and int64 [B] or float [B, K] -> scalar.

    Targets q (one-hot where they are indices) are smoothed to (1 - smoothing) q + smoothing / K.
    """
    if targets.is_floating_point():
        targets = targets.float()
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def hard_distillation(head: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the head with the teacher's decision, in nats: logits [..., K] twice -> [...].

    STD (Li et al., ICML 2022) and DeiT (Touvron et al., ICML 2021), equation 3. The decision is not smoothed.
    """
    decision = teacher.argmax(dim=-1, keepdim=True)
    return -_log_softmax(head).gather(-1, decision).squeeze(-1)


def soft_distillation(head: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """tau^2 KL(softmax(teacher / tau) || softmax(head / tau)), in nats: logits [..., K] twice -> [...].

    DeiT (Touvron et al., ICML 2021), equation 2. The sum over classes is kept whole for each sample, as in the
    equation; DeiT's code divides it by B*K instead of B, which makes the term K times weaker.
    """
    log_head = _log_softmax(head.float() / tau)
    target = torch.softmax(teacher.float() / tau, dim=-1)
    return tau**2 * F.kl_div(log_head, target, reduction="none").sum(dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of softmax(logits), in nats: [..., K] -> [...]. A class at -inf counts as 0."""
    # At -inf both p log p and its gradient are NaN; the most negative finite number gives their limit, 0.
    log_p = _log_softmax(logits).clamp_min(torch.finfo(torch.float32).min)
    return -(log_p.exp() * log_p).sum(dim=-1)


def teacher_weights(teacher_logits: Tensor, kind: WeightKind) -> Tensor:
    """The weight of each module on each sample, summing to 1 over the modules: [M, B, K] -> [M, B].

    `confidence` is softmax(-H) over M, H the entropy of that module's teacher on that sample; `entropy` is
    softmax(+H), the sign that STD's reproduction report prints; `uniform` is 1/M.

    Raises:
        UserError: for another kind.
    """
    if kind not in _SIGN:
        raise unknown("distill.weights", kind, _SIGN)
    return torch.softmax(_SIGN[kind] * entropy(teacher_logits), dim=0)


def _log_softmax(logits: Tensor) -> Tensor:
    return F.log_softmax(logits.float(), dim=-1)
