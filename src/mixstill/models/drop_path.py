"""Stochastic depth (Huang et al., ECCV 2016) that is drawn for the whole batch, wherever its samples are computed.

A batch may be spread over processes and passes. Each draws the same numbers, one per sample of the whole batch, and
takes those of its own rows: so a run has the same paths on one process and on many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import torch
from timm.layers import DropPath as TimmDropPath
from torch import Tensor, nn

Mode = Literal["linear", "constant"]
_NAME = re.compile(r"drop_path\d*")


class DropPath(nn.Module):
    """Leaves a sample out of a residual branch with probability `rate`, and scales up those that stay.

    `rows` int64 [b] are the places of the forward pass's samples in a batch of `total`; None: they are the batch.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.rows: Tensor | None = None
        self.total = 0

    def forward(self, branch: Tensor) -> Tensor:
        """[b, ...] -> [b, ...], each sample kept whole (over 1 - rate) or zero."""
        if not self.training or self.rate == 0:
            return branch
        draws = torch.rand(len(branch) if self.rows is None else self.total)  # on the CPU: the same for every device
        kept = (draws if self.rows is None else draws[self.rows]) >= self.rate
        scale = kept.to(branch.dtype) / (1 - self.rate)
        return branch * scale.to(branch.device, non_blocking=True).view(-1, *[1] * (branch.ndim - 1))

    def extra_repr(self) -> str:
        """What stands in the printed model."""
        return f"rate={self.rate:.3f}"


def schedule_drop_path(backbone: nn.Module, rate: float, mode: Mode) -> None:
    """Put our drop path in the place of the backbone's own, and give each block its rate.

    `linear`: from 0 at the first block to `rate` at the last, where timm makes it constant too (its MLPs); where timm
    has its own growing rates they stay. `constant`: `rate` in every block.
    """
    places = list(_places(backbone))
    blocks = list(dict.fromkeys(block for block, _, _ in places))
    found = [module.drop_prob for _, _, module in places if isinstance(module, TimmDropPath)]
    grown = len(set(found)) > 1 or len(found) < len(places)
    for block, name, module in places:
        own = module.drop_prob if isinstance(module, TimmDropPath) else 0.0
        linear = own if grown else rate * blocks.index(block) / max(len(blocks) - 1, 1)
        setattr(backbone.get_submodule(block), name, DropPath(rate if mode == "constant" else linear))


def _places(backbone: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """(block, attribute, module) of every drop path in order of depth, those included that timm left out as zero."""
    for dotted, module in backbone.named_modules():
        block, _, name = dotted.rpartition(".")
        left_out = isinstance(module, nn.Identity) and _NAME.fullmatch(name) is not None
        if isinstance(module, TimmDropPath) or left_out:
            yield block, name, module


def place_rows(model: nn.Module, rows: Tensor | None, total: int) -> None:
    """Tell every drop path which `rows` int64 [b] of a batch of `total` samples the next forward pass holds."""
    for module in model.modules():
        if isinstance(module, DropPath):
            module.rows, module.total = rows, total
