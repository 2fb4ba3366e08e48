"""What is bound to a grid of patches, carried over to a grid of another size.

A linear layer y = W x + b from patches to patches becomes W' = U W R and b' = U b. R reads what stands on the new
patches as values on the old ones, U writes what the old ones would have got to the new ones. The rows of both sum to
one, so a constant input keeps its answer.

Shapes: N patches of the old grid and N' of the new one, in raster order; D hidden units; K tiles per side. Where a
layer mixes more tokens than the patches, these `extra` ones come first and are left apart.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]  # rows and columns of patches


class Regrid:
    """The matrices U [N',N] and R [N,N'] between two grids, and what they make of weights."""

    def __init__(self, write: Tensor, read: Tensor) -> None:
        self.write = write
        self.read = read

    def outputs(self, weight: Tensor, extra: int = 0) -> Tensor:
        """U W, of weights or biases by their outputs: [extra+N, ...] -> [extra+N', ...]."""
        return torch.cat([weight[:extra], _product(self.write, weight[extra:], weight)])

    def inputs(self, weight: Tensor, extra: int = 0) -> Tensor:
        """W R, of weights by their inputs: [..., extra+N] -> [..., extra+N']."""
        return torch.cat([weight[..., :extra], _product(weight[..., extra:], self.read, weight)], -1)


def _product(first: Tensor, second: Tensor, like: Tensor) -> Tensor:
    """The sum over the last dimension of the first and the first of the second, in float64; in the dtype of `like`."""
    product: Tensor = torch.tensordot(first.double(), second.double(), 1)
    return product.to(like.dtype)


def interpolation(old: Grid, new: Grid) -> Regrid:
    """Bicubic (Keys, a = -1/2), antialiased where the grid gets coarser, as timm resizes position embeddings.

    With A(n, n') [n',n] the interpolation along one side, U = A(h, h') x A(w, w') and R = A(h', h) x A(w', w), the
    Kronecker products. In the inside R = U^T N / N': columns are interpolated like rows, and scaled by N / N'.
    """
    (rows, columns), (new_rows, new_columns) = old, new
    return Regrid(
        torch.kron(_bicubic(rows, new_rows), _bicubic(columns, new_columns)),
        torch.kron(_bicubic(new_rows, rows), _bicubic(new_columns, columns)),
    )


def _bicubic(old: int, new: int) -> Tensor:
    """A [new,old] in float64: each row has the weights of the old points in a new one."""
    points = torch.eye(old, dtype=torch.float64)[None, None]
    return F.interpolate(points, (new, old), mode="bicubic", antialias=True, align_corners=False)[0, 0]


class Tiling(Regrid):
    """K x K tiles, each of the size of the old grid (h, w): tile (a, b) has the rows a h ... and the columns b w ...

    U repeats a value on each tile, R = U^T / K^2 is the mean over the tiles, so that R U = 1.
    """

    def __init__(self, old: Grid, factor: int) -> None:
        rows, columns = (torch.eye(side, dtype=torch.float64).repeat(factor, 1) for side in old)
        write = torch.kron(rows, columns)
        super().__init__(write, write.T / factor**2)
        self.tiles = factor**2
        a, b = (torch.arange(factor).repeat_interleave(side) for side in old)
        self.tile = (a[:, None] * factor + b).flatten()
        """Of each of the N' patches, the number of its tile."""

    def hidden_inputs(self, weight: Tensor, extra: int = 0) -> Tensor:
        """W_1 [D, extra+N] of a token MLP -> block-diagonal [K^2 D, extra+N'], one copy of the hidden units per tile.

        Each copy sees the extra tokens. (Tolstikhin et al., "MLP-Mixer", NeurIPS 2021, appendix C.)
        """
        tokens, patches = weight[:, :extra], _product(weight[:, extra:], self.write.T, weight)
        return torch.cat([torch.cat([tokens, patches * (self.tile == t)], 1) for t in range(self.tiles)])

    def hidden_outputs(self, weight: Tensor, extra: int = 0) -> Tensor:
        """W_2 [extra+N, D] of a token MLP -> block-diagonal [extra+N', K^2 D].

        The extra tokens get the mean over the copies.
        """
        tokens, patches = weight[:extra] / self.tiles, _product(self.write, weight[extra:], weight)
        return torch.cat([torch.cat([tokens, patches * (self.tile == t)[:, None]]) for t in range(self.tiles)], 1)

    def hidden(self, bias: Tensor) -> Tensor:
        """b_1 [D] of a token MLP -> [K^2 D]."""
        return bias.repeat(self.tiles)
