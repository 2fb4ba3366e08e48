"""A student's weights at another resolution, for other teachers or for other classes: what of them goes on.

The backbone follows its family (`models.resizing`), and so do the parameters of its token modules that are bound to the
patches: the channel token, the spatial MLP, and the columns of the head that read the channel token.

Shapes: N patches, C channels, D hidden units of the spatial MLP, K tiles per side.
"""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn

from mixstill.distill.placement import Placement
from mixstill.distill.student import Student, backbone_of
from mixstill.errors import UserError
from mixstill.models.grids import Grid, Regrid, Tiling, interpolation
from mixstill.models.resizing import head_names, resized_weights, tiles_per_side
from mixstill.models.weights import State


def student_weights(old: nn.Module, new: Student, *, heads: bool = True) -> tuple[State, list[Placement]]:
    """What `new` begins with, and the placements whose modules begin anew, as `old` has none like them.

    Args:
        old: a student, or a backbone by itself.
        new: a student with the same backbone, at its own resolution. A module goes on where `old` has one of the same
            teacher, place and build.
        heads: take over the heads too; else those of `new` stay.

    Raises:
        UserError: a backbone, or tokens, that no way is known to resize.
    """
    backbone = backbone_of(old)
    state = {f"backbone.{name}": value for name, value in resized_weights(backbone, new.backbone).items()}
    tiles = tiles_per_side(backbone, new.backbone)
    anew = []
    for key, module in new.token_modules.items():
        placement = new.placements[int(key)]
        own: State = module.state_dict()
        known, patches = _module(old, placement.teacher, new.blocks[int(key)])
        if known.keys() == own.keys():
            own = resized_module(known, patches, new.token_shapes[int(key)][1], tiles)
        else:
            anew.append(placement)
        state |= {f"token_modules.{key}.{name}": value for name, value in own.items()}
    return state if heads else state | _heads(new), anew


def _module(old: nn.Module, teacher: str, block: int | None) -> tuple[State, int]:
    """The weights of the module for `teacher`, by its name wherever it lies, at `block`, and its patches N.

    No weights where there is none.
    """
    if not isinstance(old, Student):
        return {}, 0
    for m, (_, patches) in old.token_shapes.items():
        if old.blocks[m] == block and Path(old.placements[m].teacher).name == Path(teacher).name:
            return old.token_modules[str(m)].state_dict(), patches
    return {}, 0


def _heads(student: Student) -> State:
    """All heads: the backbone's own and those of the modules."""
    own = tuple(f"backbone.{name}" for name in head_names(student.backbone))
    modules = tuple(f"token_modules.{key}.head." for key in student.token_modules)
    return {name: value for name, value in student.state_dict().items() if name.startswith(own + modules)}


def resized_module(module: State, old: int, new: int, tiles: int = 1) -> State:
    """A token module's weights for `new` patches in the place of `old` ones.

    With `tiles` = 1 all that stands on patches is interpolated: the start U t of the channel token, and the columns W R
    of the spatial MLP (the token's own, its last, is left apart) and of the head. Where the backbone became K tiles per
    side, the start is repeated on each tile, the head reads the mean over the tiles, and each tile has a copy of the
    spatial MLP's hidden units, the mean over which the token gets.

    Raises `UserError` for patches that are no square grid.
    """
    if old == new:
        return module
    grid = _square(old)
    regrid = Tiling(grid, tiles) if tiles > 1 else interpolation(grid, _square(new))
    channel = any(name.startswith("channel.") for name in module)
    return {name: _resized(name, value, regrid, old if channel else 0) for name, value in module.items()}


def _resized(name: str, value: Tensor, regrid: Regrid, columns: int) -> Tensor:
    """One parameter; `columns` of the head, its last, read the channel token."""
    if name == "channel.start":
        return regrid.outputs(value)
    if name == "head.weight" and columns:
        return regrid.inputs(value, value.shape[1] - columns)
    if not name.startswith("spatial.steps."):
        return value
    layer = ".".join(name.split(".")[3:])
    if layer == "mlp.0.weight":
        joined = value.roll(1, 1)  # the token first
        wider = regrid.hidden_inputs(joined, 1) if isinstance(regrid, Tiling) else regrid.inputs(joined, 1)
        return wider.roll(-1, 1)
    if isinstance(regrid, Tiling) and layer == "mlp.0.bias":
        return regrid.hidden(value)
    if isinstance(regrid, Tiling) and layer == "mlp.2.weight":
        return value.repeat(1, regrid.tiles) / regrid.tiles
    return value


def _square(patches: int) -> Grid:
    side = math.isqrt(patches)
    if side**2 != patches:
        raise UserError(f"data.input_size: tokens on {patches} patches, which are no square grid, cannot be resized")
    return side, side
