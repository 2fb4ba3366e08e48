"""Weights carried from grid to grid, against loops over rows, columns and tiles in float64."""

import math

import pytest
import torch

from mixstill.models.grids import Regrid, Tiling, interpolation

GRIDS = [((4, 4), (8, 8)), ((8, 8), (4, 4)), ((4, 4), (6, 6)), ((3, 5), (7, 2)), ((1, 1), (3, 3)), ((2, 2), (1, 1))]
every_change = pytest.mark.parametrize(("old", "new"), GRIDS)
every_factor = pytest.mark.parametrize("factor", [2, 3])
H, W, D = 2, 3, 4  # rows and columns of the tiles, hidden units


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def keys(x: float) -> float:
    """The cubic kernel of Keys with a = -1/2."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def along(old: int, new: int) -> torch.Tensor:
    """[new,old]: the kernel at the distance of the centres, as wide as the coarser grid's step, normalised."""
    step = old / new
    width = max(step, 1.0)
    rows = []
    for j in range(new):
        weights = [keys((i + 0.5 - (j + 0.5) * step) / width) for i in range(old)]
        rows.append([weight / sum(weights) for weight in weights])
    return torch.tensor(rows, dtype=torch.float64)


def resampled(values: torch.Tensor, old, new) -> torch.Tensor:
    """[N,...] -> [N',...], rows and columns one after the other."""
    grid = values.reshape(*old, -1)
    grid = torch.einsum("yr,xc,rcd->yxd", along(old[0], new[0]), along(old[1], new[1]), grid)
    return grid.reshape(math.prod(new), *values.shape[1:])


@every_change
def test_outputs_are_interpolated_over_the_grid(old, new) -> None:
    weight, bias = rand(math.prod(old), 3), rand(math.prod(old))
    regrid = interpolation(old, new)
    torch.testing.assert_close(regrid.outputs(weight), resampled(weight, old, new), atol=1e-12, rtol=0)
    torch.testing.assert_close(regrid.outputs(bias), resampled(bias, old, new), atol=1e-12, rtol=0)


@every_change
def test_inputs_read_the_new_patches_as_the_old_layer_would_have_read_them_resampled(old, new) -> None:
    weight, values = rand(5, math.prod(old)), rand(math.prod(new))
    found = interpolation(old, new).inputs(weight) @ values
    torch.testing.assert_close(found, weight @ resampled(values, new, old), atol=1e-12, rtol=0)


@every_change
def test_constants_keep_their_answer(old, new) -> None:
    weight, bias = rand(math.prod(old), math.prod(old)), rand(math.prod(old))
    regrid = interpolation(old, new)
    found = regrid.outputs(regrid.inputs(weight)) @ torch.full([math.prod(new)], 3.0).double() + regrid.outputs(bias)
    torch.testing.assert_close(found, resampled(weight.sum(1) * 3 + bias, old, new), atol=1e-12, rtol=0)


def ramp(rows: int, columns: int) -> torch.Tensor:
    """a y + b x + c at the centres of the patches, in shares of the image's side."""
    y, x = ((torch.arange(side).double() + 0.5) / side for side in (rows, columns))
    return (2.0 * y[:, None] - 0.7 * x + 0.3).flatten()


def test_ramps_are_read_and_written_exactly_in_the_inside() -> None:
    up, down = interpolation((6, 6), (12, 12)), interpolation((12, 12), (6, 6))
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[2:4, 2:4] = True
    weight = rand(3, 36) * inside.flatten()
    torch.testing.assert_close(up.inputs(weight) @ ramp(12, 12), weight @ ramp(6, 6), atol=1e-12, rtol=0)
    written = up.outputs(ramp(6, 6)).view(12, 12)[3:9, 3:9]
    torch.testing.assert_close(written, ramp(12, 12).view(12, 12)[3:9, 3:9], atol=1e-12, rtol=0)
    shrunk = down.outputs(ramp(12, 12)).view(6, 6)[2:4, 2:4]
    torch.testing.assert_close(shrunk, ramp(6, 6).view(6, 6)[2:4, 2:4], atol=1e-12, rtol=0)


def test_in_the_inside_inputs_are_interpolated_as_outputs_and_scaled_by_the_numbers_of_patches() -> None:
    regrid = interpolation((8, 8), (16, 16))
    read, write = regrid.read.view(8, 8, 256), regrid.write.T.reshape(8, 8, 256)
    torch.testing.assert_close(read[3:5, 3:5], write[3:5, 3:5] * 64 / 256, atol=1e-12, rtol=0)


@pytest.mark.parametrize("regrid", [interpolation((2, 3), (5, 4)), Tiling((2, 3), 2)], ids=["interpolation", "tiling"])
def test_extra_tokens_come_first_and_are_left_as_they_are(regrid: Regrid) -> None:
    weight = rand(2 + 6, 1 + 6)
    found = regrid.outputs(regrid.inputs(weight, 1), 2)
    count = len(regrid.write)
    assert found.shape == (2 + count, 1 + count)
    assert torch.equal(found[:2, :1], weight[:2, :1])
    torch.testing.assert_close(found[2:, 1:], regrid.outputs(regrid.inputs(weight[2:, 1:])), atol=1e-12, rtol=0)
    torch.testing.assert_close(found[2:, :1], regrid.outputs(weight[2:, :1]), atol=1e-12, rtol=0)


def test_weights_stay_in_their_dtype_and_are_computed_in_a_finer_one() -> None:
    weight = rand(16, 3).bfloat16()
    found = interpolation((4, 4), (6, 6)).outputs(weight)
    assert torch.equal(found, resampled(weight.double(), (4, 4), (6, 6)).bfloat16())


def places(factor: int):
    """(tile, patch in the tile, patch in the large grid) of every patch of K x K tiles, by loops."""
    for a in range(factor):
        for b in range(factor):
            for i in range(H):
                for j in range(W):
                    yield a * factor + b, i * W + j, (a * H + i) * factor * W + b * W + j


@every_factor
def test_tiles_lie_in_raster_order(factor) -> None:
    tiling, values = Tiling((H, W), factor), rand(H * W)
    written, read = tiling.outputs(values), tiling.inputs(values)
    for tile, small, large in places(factor):
        assert written[large] == values[small]
        assert read[large] == pytest.approx(values[small].item() / factor**2)
        assert tiling.tile[large] == tile
    torch.testing.assert_close(tiling.read @ tiling.write, torch.eye(H * W).double())


@every_factor
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_hidden_units_are_copied_for_each_tile(factor, extra) -> None:
    tiling, tiles = Tiling((H, W), factor), factor**2
    first, second, bias = rand(D, extra + H * W), rand(extra + H * W, D), rand(D)
    wide, wide_second = (torch.zeros(tiles, D, extra + tiles * H * W).double() for _ in range(2))
    for tile, small, large in places(factor):
        wide[tile, :, extra + large] = first[:, extra + small]
        wide_second[tile, :, extra + large] = second[extra + small]
    wide[..., :extra] = first[:, :extra]
    wide_second[..., :extra] = second[:extra].T / tiles
    assert torch.equal(tiling.hidden_inputs(first, extra), wide.flatten(0, 1))
    assert torch.equal(tiling.hidden_outputs(second, extra), wide_second.flatten(0, 1).T)
    assert torch.equal(tiling.hidden(bias), torch.cat([bias] * tiles))
