"""Reading a backbone's features Z [B,N,C] at chosen blocks, through timm's `forward_intermediates`."""

from __future__ import annotations

from collections.abc import Iterable
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


@torch.no_grad()
def probe(backbone: nn.Module) -> Layout:
    """The layout, from one blank image.

    Raises `UserError` for a backbone without `forward_intermediates`, or one that does not run at its input size.
    """
    if not hasattr(backbone, "forward_intermediates"):
        name = type(backbone).__name__
        raise UserError(f"model: {name} has no forward_intermediates, so no token module can read its features")
    channels = cast(Any, backbone).pretrained_cfg["input_size"][0]
    side = pixels(backbone)
    blank = next(backbone.parameters()).new_zeros(1, getattr(backbone, "in_chans", channels), side, side)
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    try:
        return _layout(backbone, blank)
    except (AssertionError, RuntimeError, ValueError) as error:
        name = type(backbone).__name__
        raise UserError(f"model: {name} cannot read images of {side} pixels: {one_line(error, 160)}") from error
    finally:
        for module in training:
            module.training = True


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
