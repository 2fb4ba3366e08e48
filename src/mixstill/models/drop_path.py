"""Stochastic depth (Huang et al., ECCV 2016) whose draws belong to the samples of a batch, wherever they are computed.

A batch may be spread over processes and passes. What is drawn for a sample is a function of (seed, epoch, its place in
the epoch): so a run has the same paths on one process and on many.

Shapes: b samples of a forward pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import torch
from timm.layers import DropPath as TimmDropPath
from torch import Tensor, nn

from mixstill import rng

Mode = Literal["linear", "constant"]
_NAME = re.compile(r"drop_path\d*")
_CALLS = 4  # draws of a module for each sample: timm's blocks call theirs so often; CoaT's, six times, meet two again


class DropPath(nn.Module):
    """Leaves a sample out of a residual branch with probability `rate`, and scales up those that stay.

    `draws` float32 [calls, b] in [0, 1), on the device, are those of the next forward pass; without them torch's
    generator draws.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.draws: Tensor | None = None
        self.place(None)

    def place(self, draws: Tensor | None) -> None:
        """Take these draws for the next forward pass, in the same memory as those before: CUDA graphs read it there."""
        if draws is not None and self.draws is not None and draws.shape == self.draws.shape:
            self.draws.copy_(draws)
        else:
            self.draws = draws
        self.calls = self.recalls = 0

    def forward(self, branch: Tensor) -> Tensor:
        """[b, ...] -> [b, ...], each sample kept whole (over 1 - rate) or zero.

        A branch of [b * rows, ...], as of the patches that TNT and MobileViT look into, has all rows of a sample alike.
        """
        if not self.training or self.rate == 0:
            return branch
        if self.draws is None:
            draws = torch.rand(len(branch)).to(branch.device, non_blocking=True)
        else:
            draws = self.draws[self._number() % _CALLS]
        draws = draws.repeat_interleave(len(branch) // len(draws))
        scale = (draws >= self.rate).to(branch.dtype) / (1 - self.rate)
        return branch * scale.view(-1, *[1] * (branch.ndim - 1))

    def _number(self) -> int:
        """Which call of the forward pass this is; gradient checkpointing makes the same calls again in the backward."""
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:  # compiled, it is traced once
            self.calls += 1
            return self.calls - 1
        self.recalls += 1
        return self.recalls - 1

    def extra_repr(self) -> str:
        """What stands in the printed model."""
        return f"rate={self.rate:.3f}"


def schedule_drop_path(backbone: nn.Module, rate: float, mode: Mode) -> None:
    """Put our drop path in the place of the backbone's own, and give each block its rate.

    `linear`: from 0 at the first block to `rate` at the last, where timm makes it constant too (its MLPs); where timm
    has its own growing rates they stay. `constant`: `rate` in every block.
    """
    places = list(_places(backbone))
    own = [module.drop_prob if isinstance(module, TimmDropPath) else 0.0 for _, _, module in places]
    blocks = list(dict.fromkeys(block for (block, _, _), its in zip(places, own, strict=True) if its))
    grown = len({its for its in own if its}) > 1 or own[:1] == [0.0]
    for (block, name, _), its in zip(places, own, strict=True):
        linear = its if grown or not its else rate * blocks.index(block) / max(len(blocks) - 1, 1)
        setattr(backbone.get_submodule(block), name, DropPath(rate if mode == "constant" else linear))


def _places(backbone: nn.Module) -> Iterator[tuple[str, str, nn.Module | None]]:
    """(block, attribute, what stands there) of every drop path, those that timm left out as zero included."""
    for dotted, block in backbone.named_modules():
        children = dict(block.named_children())
        for name in [*children, *(name for name, value in vars(block).items() if value is None)]:
            module = children.get(name)
            left_out = _NAME.fullmatch(name) is not None and (module is None or isinstance(module, nn.Identity))
            if isinstance(module, TimmDropPath) or left_out:
                yield dotted, name, module


def place_paths(model: nn.Module, seed: int, epoch: int, samples: Tensor | None) -> None:
    """Draw the paths of the next forward pass, whose samples are the `samples` int64 [b] of an epoch.

    None: torch's own generator draws them.
    """
    modules = [module for module in model.modules() if isinstance(module, DropPath)]
    draws: list[Tensor | None] = [None] * len(modules)
    if samples is not None and modules:
        words = rng.uniform(seed, rng.Domain.DROP_PATH, epoch, samples.cpu(), _CALLS * len(modules))
        device, words = next(model.parameters()).device, words.T.contiguous()
        words = words.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else words
        draws = [*torch.split(words, _CALLS)]
    for module, its in zip(modules, draws, strict=True):
        module.place(its)
