"""The mutual information of a module's spatial and channel tokens: estimated from below, and pushed down.

MINE (Belghazi et al., ICML 2018), as STD (Li et al., ICML 2022, Algorithm 1) uses it: a statistics network psi ascends
the Donsker-Varadhan bound V(psi, tokens) <= I(T_S; T_C), while the student's tokens descend it.
Shapes: B batch, C channels, N patch tokens, M modules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixstill.errors import UserError
from mixstill.rng import Domain, scalars


class StatisticsNetwork(nn.Module):
    """psi, a 3-layer MLP on a spatial and a channel token: [B, C] and [B, N] -> [B]."""

    def __init__(self, channels: int, patches: int, width: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels + patches, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(self, spatial: Tensor, channel: Tensor) -> Tensor:
        """The statistic of each pair of tokens."""
        statistic: Tensor = self.layers(torch.cat([spatial, channel], dim=-1))
        return statistic.squeeze(-1)


class MutualInformation(nn.Module):
    """The regulariser: one statistics network, and one running mean of e^psi, for each module.

    A single backward serves both sides: its loss is -V, which the statistics networks descend, and the gradient is
    reversed and scaled by `weight` on its way into the tokens, so that they descend weight * V.

    The gradient of log mean e^psi from a batch is biased, since the denominator is of the same few samples; as in
    MINE, section 3.2, its denominator is a running mean over batches. The value is the batch's own.

    Args:
        shapes: (C, N) of each module's pair of tokens.
        width: hidden width of the statistics networks.
        ema_rate: share of a new batch in the running mean, in (0, 1]; 1 leaves the gradient as it is.
    """

    log_ema: Tensor

    def __init__(self, shapes: Sequence[tuple[int, int]], width: int = 512, ema_rate: float = 0.01) -> None:
        super().__init__()
        if not shapes:
            raise UserError("mi.weight: needs at least one teacher in distill.teachers, whose tokens it regularises")
        self.networks = nn.ModuleList(StatisticsNetwork(c, n, width) for c, n in shapes)
        self.ema_rate = ema_rate
        # log E[e^psi]; -inf, the log of nothing, until a first batch sets it
        self.register_buffer("log_ema", torch.full((len(shapes),), -math.inf))

    def forward(
        self, pairs: Sequence[tuple[Tensor, Tensor]], shift: int, weight: float, *, limited: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch and the estimates: M pairs of (T_S [B, C], T_C [B, N]) -> scalar, [M] in nats.

        Computed in the dtype of the networks (float32), under autocast too. In training mode the running means
        take the batch in; in eval mode they stay.

        Args:
            pairs: the tokens of each module, of the same samples.
            shift: a marginal pair has the channel token of the sample `shift` places before, 1 <= shift < B.
            weight: what the tokens' gradient is scaled by.
            limited: the tokens descend a module's V only where it is above 0. No mutual information is below: a bound
                there tells of a statistics network that lags, and tokens that descended it in step after step ran away
                with a run. Algorithm 1 has no such limit.

        Raises:
            UserError: if the batch has fewer than 2 samples.
            ValueError: if `shift` pairs a sample with itself.
        """
        batch = len(pairs[0][0])
        _require_two(batch)
        if not 1 <= shift < batch:
            raise ValueError(f"shift is {shift}: it must be in 1..{batch - 1} for a batch of {batch}")

        joints, marginals, entered = [], [], []
        with torch.autocast(pairs[0][0].device.type, enabled=False):
            for network, tokens in zip(self.networks, pairs, strict=True):
                spatial, channel = (_reverse(token.to(self.log_ema.dtype), weight) for token in tokens)
                joints.append(network(spatial, channel))
                marginals.append(network(spatial, channel.roll(shift, dims=0)))
                entered.append((spatial, channel))
            joint, marginal = torch.stack(joints), torch.stack(marginals)  # [M, B]
            loss = -(joint.mean(dim=-1) - self._corrected(log_mean_exp(marginal))).sum()
        estimates = dv_bound(joint, marginal).detach()
        if limited:
            for tokens, positive in zip(entered, estimates > 0, strict=True):
                _stop_unless(positive, tokens)
        return loss, estimates

    def _corrected(self, log_mean: Tensor) -> Tensor:
        """`log_mean` [M] with its gradient, E[grad psi e^psi] / E[e^psi], divided by the running mean instead."""
        batch = log_mean.detach()
        keep = math.log1p(-self.ema_rate) if self.ema_rate < 1 else -math.inf
        running = torch.logaddexp(self.log_ema + keep, batch + math.log(self.ema_rate))
        running = torch.where(self.log_ema.isinf(), batch, running)
        if self.training:
            self.log_ema.copy_(running)
        ratio = (batch - running).exp()  # at most 1 / ema_rate, since the running mean holds the batch
        return batch + ratio * (log_mean - batch)


def dv_bound(joint: Tensor, marginal: Tensor) -> Tensor:
    """The Donsker-Varadhan bound mean(joint) - log mean exp(marginal), in nats: statistics [..., B] twice -> [...].

    A lower bound on the mutual information for any statistic, once the means are over many samples.
    """
    return joint.mean(dim=-1) - log_mean_exp(marginal)


def log_mean_exp(values: Tensor) -> Tensor:
    """log of the mean of exp(values) over the last axis, without overflow: [..., B] -> [...]."""
    return values.logsumexp(dim=-1) - math.log(values.shape[-1])


def derangement_shift(seed: int, epoch: int, step: int, batch: int) -> int:
    """How far a step's channel tokens are rolled to pair each sample with another one: in 1..batch-1, all alike.

    Raises:
        UserError: if the batch has fewer than 2 samples.
    """
    _require_two(batch)
    (draw,) = scalars(seed, Domain.MARGINAL, epoch, step, 1)
    return 1 + int(draw * (batch - 1))


def _require_two(batch: int) -> None:
    if batch < 2:
        raise UserError(
            f"train.batch_size: {batch} sample in a forward pass; mi.weight needs at least 2, to pair each with another"
        )


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -weight (Ganin and Lempitsky, ICML 2015)."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None


def _reverse(tokens: Tensor, weight: float) -> Tensor:
    reversed_: Tensor = _Reverse.apply(tokens, weight)
    return reversed_


def _stop_unless(condition: Tensor, tokens: Sequence[Tensor]) -> None:
    """Let no gradient through the tokens where the condition, a scalar on their device, is false."""
    for token in tokens:
        if token.requires_grad:
            hooked = cast(Any, token)  # PyTorch leaves register_hook untyped
            hooked.register_hook(lambda gradient: gradient.where(condition, torch.zeros_like(gradient)))
