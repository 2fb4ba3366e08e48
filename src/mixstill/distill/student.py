"""A student is any backbone plus token modules that read its features: take the modules off, and the backbone is left.

Shapes: B batch, N patches, C channels, K classes, M modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mixstill.distill.features import Layout, probe, read_features
from mixstill.distill.placement import Placement
from mixstill.distill.tokens import TokenKind, TokenModule, Tokens
from mixstill.errors import UserError
from mixstill.models.create import token_mixing_width

Head = Literal["average", "class", "distill"]
Space = Literal["logit", "probability"]


@dataclass(frozen=True)
class StudentOutput:
    """What a student returns, whatever mode it is in: class logits [B,K], distillation logits [M,B,K], M tokens."""

    logits: Tensor
    heads: Tensor
    tokens: tuple[Tokens, ...]

    def predict(self, head: Head = "average", space: Space = "logit") -> Tensor:
        """[B,K] of one head: `average` is the mean of the class head and of the mean distillation head.

        Without modules each head is the class head. In the space `probability` the averages are of probabilities,
        and their logarithm is returned, so that a softmax gives them back (DeiT's paper; its code averages logits).
        """
        if head == "class" or len(self.heads) == 0:
            return self.logits
        logits, heads = self.logits, self.heads
        mean: Callable[[Tensor, int], Tensor] = torch.mean
        if space == "probability":
            logits, heads, mean = logits.float().log_softmax(-1), heads.float().log_softmax(-1), _log_mean_exp
        distilled = mean(heads, 0)
        return distilled if head == "distill" else mean(torch.stack([logits, distilled]), 0)


def prediction(output: Tensor | StudentOutput) -> Tensor:
    """The logits [B,K] that a classifier of any kind predicts by: a student's average, a plain model's own."""
    return output.predict() if isinstance(output, StudentOutput) else output


def _log_mean_exp(values: Tensor, dim: int) -> Tensor:
    return values.logsumexp(dim) - math.log(values.shape[dim])


class Student(nn.Module):
    """A backbone with one token module per placement.

    Args:
        backbone: a timm model with `forward_intermediates`.
        placements: which teacher speaks where; each pair (teacher, block) once.
        tokens: which tokens the modules have.
        steps: token updates K in each module.
        propagate: a teacher's later module starts from the tokens of its earlier one.

    Raises:
        UserError: a backbone without `forward_intermediates`, a place out of range or named twice, or tokens that
            would propagate between blocks of different shapes.
    """

    def __init__(
        self,
        backbone: nn.Module,
        placements: Sequence[Placement] = (),
        *,
        tokens: TokenKind = "spatial+channel",
        steps: int = 1,
        propagate: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = int(cast(Any, backbone).num_classes)
        self.placements = tuple(placements)
        self.layout = probe(backbone) if self.placements else Layout("NLC", ())
        shapes = self.layout.shapes
        self.blocks = tuple(placement.index(len(shapes)) for placement in self.placements)
        self._refuse_twins()
        self.earlier = self._earlier() if propagate else (None,) * len(self.blocks)
        self.token_modules = nn.ModuleList()
        width = token_mixing_width(backbone)
        for block, before in zip(self.blocks, self.earlier, strict=True):
            patches, channels = shapes[block]
            module = TokenModule(
                patches,
                channels,
                self.num_classes,
                tokens=tokens,
                steps=steps,
                spatial_hidden=width,
                learned_start=before is None,
            )
            self.token_modules.append(module)

    def forward(self, images: Tensor) -> StudentOutput:
        """Normalised images [B,3,H,W] -> the output of every head, and the tokens."""
        final, features = read_features(self.backbone, images, self.blocks, self.layout)
        logits: Tensor = cast(Any, self.backbone).forward_head(final)
        outputs: dict[int, tuple[Tensor, Tokens]] = {}
        for m in sorted(range(len(self.blocks)), key=self.blocks.__getitem__):
            before = self.earlier[m]
            earlier = None if before is None else outputs[before][1]
            outputs[m] = self.token_modules[m](features[self.blocks[m]], earlier)
        ordered = [outputs[m] for m in range(len(self.blocks))]
        heads = torch.stack([head for head, _ in ordered]) if ordered else logits.new_empty(0, *logits.shape)
        return StudentOutput(logits, heads, tuple(tokens for _, tokens in ordered))

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizer factory leaves undecayed: the tokens, and what the backbone names."""
        named: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        undecayed = {f"backbone.{name}" for name in named}  # timm's ViT names tokens that not every ViT has
        return {name for name, _ in self.named_parameters() if name.endswith(".start") or name in undecayed}

    @property
    def token_shapes(self) -> list[tuple[int, int]]:
        """(channels C of T_S, patches N of T_C) of each module."""
        return [(self.layout.shapes[block][1], self.layout.shapes[block][0]) for block in self.blocks]

    def _refuse_twins(self) -> None:
        teachers = [placement.teacher for placement in self.placements]
        pairs = list(zip(teachers, self.blocks, strict=True))
        for placement, pair in zip(self.placements, pairs, strict=True):
            if pairs.count(pair) > 1:
                raise UserError(f"distill.teachers: {placement} stands twice at block {pair[1]} of the student")

    def _earlier(self) -> tuple[int | None, ...]:
        """For each module, the module of the same teacher at the nearest lower block; None for a teacher's first."""
        result: list[int | None] = []
        for m, (placement, block) in enumerate(zip(self.placements, self.blocks, strict=True)):
            lower = [
                other
                for other, at in enumerate(self.blocks)
                if other != m and at < block and self.placements[other].teacher == placement.teacher
            ]
            before = max(lower, key=self.blocks.__getitem__, default=None)
            if before is not None and self.token_shapes[before] != self.token_shapes[m]:
                raise UserError(
                    f"distill.propagate: tokens at {self.placements[before]} and {placement} differ in (channels, "
                    f"patches): {self.token_shapes[before]} and {self.token_shapes[m]}; they cannot propagate"
                )
            result.append(before)
        return tuple(result)
