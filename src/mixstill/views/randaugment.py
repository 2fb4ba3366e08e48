"""RandAugment per sample and batched: each view its own operations and magnitudes, as timm's `RandAugment`.

A plan of small tensors is drawn on the host, and carried out on the device of the pixels.

Shapes: B batch, L layers, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixstill import rng
from mixstill.views.draws import between, chance, normal, unit
from mixstill.views.levels import CODES, arguments
from mixstill.views.operations import NOTHING, operate
from mixstill.views.policy import Policy, parse
from mixstill.views.warp import Fill

__all__ = ["NOTHING", "Plan", "Policy", "apply", "draw", "magnitudes", "parse"]

# The four words of a layer. The lowest bits of the first two, which their main use does not see, are coins besides.
_WHICH, _WHETHER, _MAGNITUDE = 0, 1, slice(2, 4)
_DRAWS = 4


@dataclass(frozen=True)
class Plan:
    """What each sample gets in each layer, on the CPU."""

    ops: Tensor
    """int64 [L, B], an index of `levels.OPS`, or `NOTHING`."""
    arguments: Tensor
    """float64 [L, B], as `levels.arguments` gives them."""
    bicubic: Tensor
    """bool [L, B], whether what moves pixels interpolates bicubically rather than bilinearly."""


def draw(policy: Policy, ids: Tensor, repeats: Tensor, seed: int, epoch: int, interpolation: str) -> Plan:
    """The plan of these views: ids, repeats int64 [B] on the CPU; interpolation bicubic, bilinear or random."""
    words = rng.bits(seed, rng.Domain.RANDAUGMENT, epoch, ids, _DRAWS * policy.layers, repeats)
    words = words.view(-1, policy.layers, _DRAWS).transpose(0, 1)
    ops = torch.tensor([CODES[name] for name in policy.ops])[_choose(words[..., _WHICH], policy)]
    given = arguments(ops, magnitudes(words[..., _MAGNITUDE], policy), (words[..., _WHICH] & 1).bool())
    ops = torch.where(chance(words[..., _WHETHER], policy.probability), ops, NOTHING)
    coin = (words[..., _WHETHER] & 1).bool()
    return Plan(ops, given, coin if interpolation == "random" else torch.full_like(coin, interpolation == "bicubic"))


def _choose(words: Tensor, policy: Policy) -> Tensor:
    """Which of the policy's operations: int64 [L, B] -> int64 [L, B]."""
    if policy.weights is None:
        return rng.integers(words, len(policy.ops))
    left = torch.tensor(policy.weights, dtype=torch.float64).repeat(words.shape[1], 1)
    chosen = []
    for layer in words:  # without replacement: what was chosen weighs nothing in the layers after
        sums = left.cumsum(1)
        threshold = unit(layer).unsqueeze(1) * sums[:, -1:]
        chosen.append(torch.searchsorted(sums, threshold, right=True))
        left = left.scatter(1, chosen[-1], 0.0)
    return torch.stack(chosen).squeeze(2)


def magnitudes(words: Tensor, policy: Policy) -> Tensor:
    """Normal, uniform or constant, and within the limit of the policy: int64 [..., 2] -> float64 [...]."""
    if policy.deviation == float("inf"):
        drawn = between(words[..., 0], 0.0, policy.magnitude)
    else:
        drawn = policy.magnitude + policy.deviation * normal(words[..., 0], words[..., 1])
    return drawn.clamp(0.0, policy.limit)


def apply(pixels: Tensor, plan: Plan, fill: Fill) -> Tensor:
    """Carry out the plan, layer by layer; `fill` in [0, 255] is for what comes from outside the image.

    uint8 [B, 3, H, W] on any device -> the same shape. The plan may hold fewer or more layers than one.
    """
    for ops, given, bicubic in zip(plan.ops, plan.arguments, plan.bicubic, strict=True):
        pixels = operate(pixels, ops, given, bicubic, fill)
    return pixels
