"""A student is any backbone plus token modules that read its features: take the modules off, and the backbone is left.

Shapes: B batch, N patches, C channels, K classes, M placements, each of which has a distillation head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from mixstill.distill.features import Layout, probe, read_features
from mixstill.distill.heads import class_and_token_logits, class_logits, separate_heads
from mixstill.distill.placement import CLASS, TOKEN, Placement
from mixstill.distill.tokens import TokenKind, TokenModule, Tokens
from mixstill.errors import UserError, unknown
from mixstill.models.create import token_mixing_width

Head = Literal["average", "class", "distill"]
Space = Literal["logit", "probability"]


@dataclass(frozen=True)
class StudentOutput:
    """What a student returns, whatever mode it is in: class logits [B,K], distillation logits [M,B,K], M tokens.

    A head of the backbone's own has no tokens.
    """

    logits: Tensor
    heads: Tensor
    tokens: tuple[Tokens, ...]
    distinct: tuple[int, ...] | None = None
    """The placements whose heads count in the mean distillation head; all, if None."""

    def predict(self, head: Head = "average", space: Space = "logit") -> Tensor:
        """[B,K] of one head: `average` is the mean of the class head and of the mean distillation head.

        A head of the backbone's own that several teachers speak to counts once, and the class head not among them.
        Without modules each head is the class head. In the space `probability` the averages are of probabilities,
        and their logarithm is returned, so that a softmax gives them back (DeiT's paper; its code averages logits).
        """
        if head == "class" or len(self.heads) == 0 or self.distinct == ():
            return self.logits
        logits, heads = self.logits, self.heads if self.distinct is None else self.heads[list(self.distinct)]
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
    """A backbone with one distillation head per placement: a token module's, or one of the backbone's own.

    Args:
        backbone: a timm model; one with `forward_intermediates` where token modules are to read it.
        placements: which teacher speaks where; each pair (teacher, block) once. At the place `class` it speaks to the
            class logits themselves (usual distillation), at `token` to the backbone's own distillation token (DeiT).
            Where no teacher speaks to it, a backbone with such a token gives the mean of its two heads as class logits.
        tokens: which tokens the modules have.
        steps: token updates K in each module.
        propagate: a teacher's later module starts from the tokens of its earlier one.

    Raises:
        UserError: a backbone without `forward_intermediates` or without the token that is spoken to, a place out of
            range or named twice, tokens that there are not, no step, or tokens that would propagate between blocks of
            different shapes.
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
        if tokens not in get_args(TokenKind):
            raise unknown("tokens", tokens, get_args(TokenKind))
        if not isinstance(steps, int) or steps < 1:
            raise UserError(f"steps: {steps!r} is not valid; it must be a whole number, 1 or more")
        super().__init__()
        self.backbone = backbone
        self.num_classes = int(cast(Any, backbone).num_classes)
        self.placements = tuple(placements)
        self.has_token_head = any(placement.place == TOKEN for placement in self.placements)
        if self.has_token_head:
            separate_heads(backbone)
        reads = not all(placement.at_head for placement in self.placements)
        self.layout = probe(backbone) if reads else Layout("NLC", ())
        shapes = self.layout.shapes
        self.blocks = tuple(None if place.at_head else place.index(len(shapes)) for place in self.placements)
        self._refuse_twins()
        self.earlier = self._earlier() if propagate else (None,) * len(self.blocks)
        places = [placement.place if placement.at_head else str(m) for m, placement in enumerate(self.placements)]
        self.distinct = tuple(m for m, place in enumerate(places) if place != CLASS and places.index(place) == m)
        self.order = sorted(range(len(self.blocks)), key=self._depth)  # earlier tokens before those that they start
        self.token_modules = nn.ModuleDict()  # by the number m of the placement
        width = token_mixing_width(backbone)
        for m, block in enumerate(self.blocks):
            if block is None:
                continue
            patches, channels = shapes[block]
            self.token_modules[str(m)] = TokenModule(
                patches,
                channels,
                self.num_classes,
                tokens=tokens,
                steps=steps,
                spatial_hidden=width,
                learned_start=self.earlier[m] is None,
            )

    def forward(self, images: Tensor) -> StudentOutput:
        """Normalised images [B,3,H,W] -> the output of every head, and the tokens."""
        blocks = [block for block in self.blocks if block is not None]
        final, features = read_features(self.backbone, images, blocks, self.layout)
        own: dict[str, Tensor] = {}
        if self.has_token_head:
            own[CLASS], own[TOKEN] = class_and_token_logits(self.backbone, final)
        else:
            own[CLASS] = class_logits(self.backbone, final)
        outputs: dict[int, tuple[Tensor, Tokens]] = {}
        for m in self.order:
            block, before = self.blocks[m], self.earlier[m]
            if block is None:
                outputs[m] = own[self.placements[m].place], Tokens()
            else:
                earlier = None if before is None else outputs[before][1]
                outputs[m] = self.token_modules[str(m)](features[block], earlier)
        ordered = [outputs[m] for m in range(len(self.blocks))]
        logits = own[CLASS]
        heads = torch.stack([head for head, _ in ordered]) if ordered else logits.new_empty(0, *logits.shape)
        return StudentOutput(logits, heads, tuple(tokens for _, tokens in ordered), self.distinct)

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizer factory leaves undecayed: the tokens, and what the backbone names."""
        named: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        undecayed = {f"backbone.{name}" for name in named}  # timm's ViT names tokens that not every ViT has
        return {name for name, _ in self.named_parameters() if name.endswith(".start") or name in undecayed}

    @property
    def token_shapes(self) -> dict[int, tuple[int, int]]:
        """(channels C of T_S, patches N of T_C) of each placement that has a module, by its number."""
        shapes = self.layout.shapes
        return {m: (shapes[block][1], shapes[block][0]) for m, block in enumerate(self.blocks) if block is not None}

    def _depth(self, m: int) -> int:
        block = self.blocks[m]
        return -1 if block is None else block

    def _refuse_twins(self) -> None:
        pairs = [
            (placement.teacher, placement.place if block is None else block)
            for placement, block in zip(self.placements, self.blocks, strict=True)
        ]
        for placement, pair in zip(self.placements, pairs, strict=True):
            if pairs.count(pair) > 1:
                where = f"at the {pair[1]} head" if placement.at_head else f"at block {pair[1]}"
                raise UserError(f"distill.teachers: {placement} stands twice {where} of the student")

    def _earlier(self) -> tuple[int | None, ...]:
        """For each module, the module of the same teacher at the nearest lower block; None for a teacher's first."""
        result: list[int | None] = []
        for m, placement in enumerate(self.placements):
            lower = [
                other
                for other in self.token_shapes
                if self._depth(other) < self._depth(m) and self.placements[other].teacher == placement.teacher
            ]
            before = max(lower, key=self._depth, default=None)
            if before is not None and self.token_shapes[before] != self.token_shapes[m]:
                raise UserError(
                    f"distill.propagate: tokens at {self.placements[before]} and {placement} differ in (channels, "
                    f"patches): {self.token_shapes[before]} and {self.token_shapes[m]}; they cannot propagate"
                )
            result.append(before)
        return tuple(result)


def backbone_of(model: nn.Module) -> nn.Module:
    """The backbone of a student; a model that is none is its own."""
    return model.backbone if isinstance(model, Student) else model
