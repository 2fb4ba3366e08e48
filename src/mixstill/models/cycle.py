"""The layers of CycleMLP (Chen et al., "CycleMLP: A MLP-like Architecture for Dense Prediction", ICLR 2022).

Where a Mixer's token mixing is tied to the number of patches, a cycle fully-connected layer reads each channel at a
neighbouring pixel, so that images of any size fit.

Shapes: B batch, C channels, H and W height and width of the grid.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

SHIFTS = (0, 1, -1)  # pixels that the channels 0, 1, 2, and again 3, 4, 5, ... are read away
HEIGHT, WIDTH = 1, 2  # dimensions of [B,H,W,C]


class CycleLinear(nn.Linear):
    """The cycle fully-connected layer: a linear layer along the channels whose inputs come from neighbouring pixels.

    y[p] = W x'[p] + b, where x'_i[p] = x_i[p + s_i] along one dimension of the image, s = 0, +1, -1, 0, +1, ..., and
    x = 0 outside of the image.
    """

    def __init__(self, channels: int, dim: int, **placed: Any) -> None:
        super().__init__(channels, channels, **placed)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """[B,H,W,C] -> [B,H,W,C]."""
        cycle, size = len(SHIFTS), x.shape[self.dim]
        padded = F.pad(x, (0, 0, 1, 1) if self.dim == WIDTH else (0, 0, 0, 0, 1, 1))
        # Channels are grouped by their shift, and the columns of W alike: slices are cheaper than a gather.
        shifted = [padded.narrow(self.dim, 1 + shift, size)[..., i::cycle] for i, shift in enumerate(SHIFTS)]
        columns = [self.weight[:, i::cycle] for i in range(cycle)]
        return F.linear(torch.cat(shifted, -1), torch.cat(columns, -1), self.bias)


class CycleMixing(nn.Module):
    """The spatial mixing of a block: three branches, weighted per image and channel by what they hold on average.

    x -> proj(sum_j a_j y_j) with y = (shifted along the width, along the height, not at all) and
    a = softmax_j(MLP(mean over the pixels of sum_j y_j)).
    """

    def __init__(self, channels: int, **placed: Any) -> None:
        super().__init__()
        self.width = CycleLinear(channels, WIDTH, **placed)
        self.height = CycleLinear(channels, HEIGHT, **placed)
        self.point = nn.Linear(channels, channels, bias=False, **placed)
        self.reweight = Mlp(channels, channels // 4, channels * 3, **placed)
        self.proj = nn.Linear(channels, channels, **placed)

    def forward(self, x: Tensor) -> Tensor:
        """[B,H,W,C] -> [B,H,W,C]."""
        width, height, point = self.width(x), self.height(x), self.point(x)
        mean = (width + height + point).mean((1, 2))
        weights = self.reweight(mean).unflatten(-1, (-1, 3)).movedim(-1, 0).softmax(0)  # [3,B,C]
        a, b, c = weights[:, :, None, None]
        return cast(Tensor, self.proj(a * width + b * height + c * point))


class CycleBlock(nn.Module):
    """x <- x + mixing(LN(x)); x <- x + MLP(LN(x))."""

    def __init__(self, channels: int, mlp_ratio: float, drop_path: float, **placed: Any) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, **placed)
        self.mixing = CycleMixing(channels, **placed)
        self.norm2 = nn.LayerNorm(channels, **placed)
        self.mlp = Mlp(channels, int(channels * mlp_ratio), **placed)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[B,H,W,C] -> [B,H,W,C]."""
        x = x + self.drop_path(self.mixing(self.norm1(x)))
        return cast(Tensor, x + self.drop_path(self.mlp(self.norm2(x))))
