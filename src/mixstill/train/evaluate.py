"""Top-1, top-5 and loss of every head of a classifier on one split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixstill.data import Resident, normalise, resize, to_float
from mixstill.distill.student import Head, Space, StudentOutput


@dataclass(frozen=True)
class Score:
    """Top-1 and top-5 accuracy in percent, and the mean cross-entropy in nats, over n samples."""

    top1: float
    top5: float
    loss: float
    n: int

    def __str__(self) -> str:
        return f"* Acc@1 {self.top1:.3f} Acc@5 {self.top5:.3f} loss {self.loss:.3f}"


def main_head(scores: Mapping[str, Score]) -> Score:
    """The score that counts: of the average of the heads, or of the only head."""
    return scores.get("average", scores["class"])


def plain(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    """The scores as plain values, for JSON."""
    return {name: asdict(score) for name, score in scores.items()}


def heads_of(output: Tensor | StudentOutput, space: Space = "logit") -> dict[str, Tensor]:
    """The logits [B,K] of each head by name; a plain classifier has the head `class` alone."""
    if isinstance(output, Tensor):
        return {"class": output}
    names: tuple[Head, ...] = ("average", "class", "distill") if len(output.heads) else ("class",)
    return {name: output.predict(name, space) for name in names}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Resident,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    input_size: int,
    batch_size: int,
    amp: bool = False,
    space: Space = "logit",
) -> dict[str, Score]:
    """The score of every head. Images are given at `input_size` pixels in the normalisation (mean, std).

    Top-5 counts the classes that there are where they are fewer than five. Heads are averaged in `space`.
    The model's mode is put back.
    """
    training = model.training
    model.eval()
    sums: dict[str, Tensor] = {}
    n = 0
    for ids in data.eval_batches(batch_size):
        images = normalise(resize(to_float(data.pixels[ids]), input_size), mean, std)
        labels = data.labels[ids]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            output = model(images)
        for name, logits in heads_of(output, space).items():
            counts = _counts(logits.float(), labels)
            sums[name] = sums[name] + counts if name in sums else counts
        n += len(labels)
    model.train(training)
    scores = {}
    for name, counts in sums.items():
        top1, top5, loss = (counts / n).tolist()
        scores[name] = Score(100 * top1, 100 * top5, loss, n)
    return scores


def _counts(logits: Tensor, labels: Tensor) -> Tensor:
    """[3] float64: how many are right at top-1 and at top-5, and the summed loss."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    right = best == labels.unsqueeze(1)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([right[:, 0].sum().double(), right.sum().double(), loss.double()])
