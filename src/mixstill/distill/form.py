"""The form in which a teacher's answers are stored: float16 logits, or the most probable classes alone.

Every loss on a teacher's answers is unchanged by a shift of its logits, so they are stored with the largest at 0: near
that float16 is finest. Shapes: B batch, K classes, k kept classes, W bytes of an answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_LEAST = torch.finfo(torch.float16).min
_BELOW = -(2.0**-24)  # float16's negative number next to 0


@dataclass(frozen=True)
class Form:
    """How answers to `classes` classes are stored: all of them, or the `top_k` most probable.

    All: the logits z_c - max z in float16. The k most probable: their numbers, the first of them the decision; and in
    float16 the logit that stands for each of the other K - k classes, log of the mean of exp(z_c - max z), followed by
    the logits z_c - max z of the second to the k-th. So the others share their probability evenly (marginal smoothing:
    FKD, Shen and Xing, ECCV 2022; TinyViT, Wu et al., ECCV 2022).
    """

    classes: int
    top_k: int | None = None

    @property
    def width(self) -> int:
        """W, bytes of one answer."""
        return 2 * self.classes if self.top_k is None else self.top_k * (self._index.itemsize + 2)

    @property
    def _index(self) -> torch.dtype:
        return torch.int16 if self.classes <= 32767 else torch.int32

    @torch.no_grad()
    def encode(self, logits: Tensor) -> Tensor:
        """Logits [B,K] of any float type -> uint8 [B,W] on their device.

        The decision stays exact: a class that would be rounded up to the largest is stored just below it. An answer
        with NaN or +infinity is stored as NaN.
        """
        logits = logits.float()
        decision = logits.argmax(dim=1, keepdim=True)
        largest = logits.gather(1, decision)
        shifted = (logits - largest).where(largest.isfinite(), torch.nan)
        shifted = shifted.clamp(_LEAST, _BELOW).scatter(1, decision, 0.0)
        if self.top_k is None:
            return shifted.half().view(torch.uint8)
        values, kept = shifted.topk(self.top_k, dim=1)
        values = torch.cat([self._others(shifted, kept).clamp(_LEAST, _BELOW), values[:, 1:]], dim=1)
        return torch.cat([kept.to(self._index).view(torch.uint8), values.half().view(torch.uint8)], dim=1)

    def decode(self, stored: Tensor) -> Tensor:
        """uint8 [B,W] -> logits float32 [B,K], the largest of each row 0."""
        if self.top_k is None:
            return stored.view(torch.float16).float()
        kept, others, values = self._unpacked(stored, self.top_k)
        return others.expand(-1, self.classes).scatter(1, kept, values)

    @torch.no_grad()
    def squares(self, stored: Tensor, logits: Tensor) -> Tensor:
        """How stored answers uint8 [B,W] compare with logits [B,K]: two sums of squares, [2], over all samples.

        Of the difference, and of both, each less its mean. With top-k it is about the classes that were kept and the
        mean of the others, since rounding alone may bring other classes among the k. A thousandth of a logit counts as
        nothing.
        """
        logits = logits.float()
        if self.top_k is None:
            then, now = self.decode(stored), logits
        else:
            kept, others, values = self._unpacked(stored, self.top_k)
            then = torch.cat([others, values], dim=1)
            now = torch.cat([self._others(logits, kept), logits.gather(1, kept)], dim=1)
        now = (now - now.amax(dim=1, keepdim=True)).clamp_min(_LEAST)
        then, now = (values - values.mean(dim=1, keepdim=True) for values in (then, now))
        both = then.square() + now.square() + 1e-6
        return torch.stack([(then - now).square().sum(), both.sum()])

    def _unpacked(self, stored: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The kept classes int64 [B,k], the logit of each other class [B,1], and those of the kept [B,k]."""
        size = top_k * self._index.itemsize
        kept = stored[:, :size].contiguous().view(self._index).long()
        values = stored[:, size:].contiguous().view(torch.float16).float()
        return kept, values[:, :1], F.pad(values[:, 1:], (1, 0))

    def _others(self, logits: Tensor, kept: Tensor) -> Tensor:
        """log of the mean of exp over the classes that are not kept: [B,K] and [B,k] -> [B,1]."""
        rest = logits.scatter(1, kept, -torch.inf).logsumexp(dim=1, keepdim=True)
        return rest - math.log(self.classes - kept.shape[1])

    def finite(self, stored: Tensor) -> bool:
        """Whether all that uint8 [B,W] on the CPU holds is finite."""
        return bool(self.decode(stored).isfinite().all())
