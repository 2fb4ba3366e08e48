"""How long a run will take, worked out from what its parts take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixstill.config import TrainConfig


@dataclass(frozen=True)
class Costs:
    """Seconds: to begin, of a step, of what the regulariser does once per epoch, of an evaluation, of a checkpoint."""

    start: float
    step: float
    regulariser: float
    evaluation: float
    checkpoint: float


@dataclass(frozen=True)
class Forecast:
    """What a run comes to: seconds of an epoch and of the whole, and how often it does what."""

    epoch: float
    total: float
    steps: int
    evaluations: int
    checkpoints: int


def forecast(options: TrainConfig, per_epoch: int, images: Sequence[int], ema: bool, costs: Costs) -> Forecast:
    """The forecast of a run from its first step to its last, as `mixstill.train.loop.fit` takes them.

    `images` are the sizes of the splits that it is measured on: the first in each evaluation, all at the end. A split
    of size 0 does not tell its size, and is taken to cost as much as an evaluation. With `ema` its moving average is
    measured on them too.
    """
    whole = options.epochs * per_epoch
    last = min(whole, options.max_steps or whole)
    measured = {last, *range(0, last, per_epoch * options.eval_interval)} - {0}
    saved = measured | {*range(0, last, options.checkpoint_interval or whole)}  # the first before any step
    sizes = [count / images[0] if count and images[0] else 1 for count in images]  # in evaluations
    closing = sum(sizes) * (1 + ema) - 1
    epoch = per_epoch * costs.step + costs.regulariser + costs.evaluation / options.eval_interval
    total = (
        costs.start
        + last * costs.step
        + last // per_epoch * costs.regulariser
        + (len(measured) + closing) * costs.evaluation
        + len(saved) * costs.checkpoint
    )
    return Forecast(epoch, total, last, len(measured), len(saved))
