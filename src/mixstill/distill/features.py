"""Reading a backbone's features Z [B,N,C] at chosen blocks, through timm's `forward_intermediates`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mixstill.errors import UserError, one_line
from mixstill.models.create import pixels


@dataclass(frozen=True)
class Layout:
    """In which format a backbone gives its features, and (patches N, channels C) after each block it lets us read."""

    format: Literal["NLC", "NCHW"]
    shapes: tuple[tuple[int, int], ...]


@contextmanager
def blank_image(backbone: nn.Module) -> Iterator[Tensor]:
    """A blank image [1,3,H,W] of the backbone's input size; meanwhile the backbone is in evaluation mode."""
    side = pixels(backbone)
    channels = getattr(backbone, "in_chans", None) or cast(Any, backbone).pretrained_cfg["input_size"][0]
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    try:
        yield next(backbone.parameters()).new_zeros(1, channels, side, side)
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def probe(backbone: nn.Module) -> Layout:
    """The layout, from one blank image.

    Raises `UserError` for a backbone without `forward_intermediates`, or one that does not run at its input size.
    """
    if not hasattr(backbone, "forward_intermediates"):
        name = type(backbone).__name__
        raise UserError(f"model: {name} has no forward_intermediates, so no token module can read its features")
    try:
        with blank_image(backbone) as blank:
            return _layout(backbone, blank)
    except (AssertionError, RuntimeError, ValueError) as error:
        name, side = type(backbone).__name__, pixels(backbone)
        raise UserError(f"model: {name} cannot read images of {side} pixels: {one_line(error, 160)}") from error


def _layout(backbone: nn.Module, blank: Tensor) -> Layout:
    try:
        return _layout_in(backbone, blank, "NLC")
    except (AssertionError, ValueError):  # how convolutional and windowed families say that they only give maps
        return _layout_in(backbone, blank, "NCHW")


def _layout_in(backbone: nn.Module, blank: Tensor, output_format: Literal["NLC", "NCHW"]) -> Layout:
    _, features = cast(Any, backbone).forward_intermediates(blank, output_fmt=output_format)
    shapes = [_rows(feature, output_format).shape for feature in features]
    return Layout(output_format, tuple((shape[1], shape[2]) for shape in shapes))


def read_features(
    backbone: nn.Module, images: Tensor, blocks: Iterable[int], layout: Layout
) -> tuple[Tensor, dict[int, Tensor]]:
    """Images [B,3,H,W] -> the final features, ready for `forward_head`, and Z [B,N,C] after each of `blocks`."""
    indices = sorted(set(blocks))
    if not indices:
        return cast(Any, backbone).forward_features(images), {}
    final, features = cast(Any, backbone).forward_intermediates(
        images, indices=indices, norm=False, output_fmt=layout.format
    )
    return final, {index: _rows(feature, layout.format) for index, feature in zip(indices, features, strict=True)}


def _rows(feature: Tensor, output_format: str) -> Tensor:
    return feature.flatten(2).transpose(1, 2) if output_format == "NCHW" else feature
