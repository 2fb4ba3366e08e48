"""Top-1, top-5 and loss of every head of a classifier on one split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixstill.data.split import Split
from mixstill.distill.student import Head, Space, StudentOutput
from mixstill.errors import DataError, RunError
from mixstill.train.processes import ALONE, Processes
from mixstill.views import normalise, resize, to_float


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
    return scores["average"] if "average" in scores else scores["class"]


def plain(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    """The scores as plain values, for JSON."""
    return {name: asdict(score) for name, score in scores.items()}


HEADS: tuple[Head, ...] = ("average", "class", "distill")


def heads_of(output: Tensor | StudentOutput, space: Space = "logit") -> dict[Head, Tensor]:
    """The logits [B,K] of each head by name; without token modules there is the head `class` alone."""
    if isinstance(output, Tensor):
        return {"class": output}
    return {name: output.predict(name, space) for name in (HEADS if len(output.heads) else HEADS[1:2])}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Split,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    input_size: int,
    batch_size: int,
    amp: bool = False,
    space: Space = "logit",
    processes: Processes = ALONE,
    order: Sequence[int] | None = None,
    place: str = "evaluation",
) -> dict[str, Score]:
    """The score of every head. Images are given at `input_size` pixels in the normalisation (mean, std).

    Top-5 counts the classes that there are where they are fewer than five. Heads are averaged in `space`.
    Each of the processes evaluates its share of the samples. The model's mode is put back. `order` tells the model's
    number of each class of the data, where it is another. Raises `RunError`, in which `place` is told, where a loss is
    not finite; `DataError` where no image can be read.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(len(HEADS), 4, dtype=torch.float64, device=next(model.parameters()).device)
    for pixels, labels in data.eval_batches(batch_size, processes.rank, processes.count):
        images = normalise(resize(to_float(pixels), input_size), mean, std)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            output = model(images)
        for name, logits in heads_of(output, space).items():
            known = logits if order is None else logits[:, list(order)]
            sums[HEADS.index(name)] += _counts(known.float(), labels)
    model.train(training)
    scores: dict[str, Score] = {}
    for name, (n, top1, top5, loss) in zip(HEADS, processes.sum(sums).tolist(), strict=True):
        if n and not math.isfinite(loss):
            raise RunError(f"{place}: the loss of the {name} head is {loss / n}")
        if n:
            scores[name] = Score(100 * top1 / n, 100 * top5 / n, loss / n, int(n))
    if not scores:
        raise DataError("data: there is no image to evaluate that can be read")
    return scores


def _counts(logits: Tensor, labels: Tensor) -> Tensor:
    """[4] float64: how many there are, how many are right at top-1 and at top-5, and the summed loss."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    right = best == labels.unsqueeze(1)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    n = loss.new_tensor(len(labels))
    return torch.stack([n, right[:, 0].sum(), right.sum(), loss]).double()
