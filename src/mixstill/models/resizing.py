"""A backbone's weights at another resolution: by the scheme of its family, or an error.

- Mixer, K times as large per side for a whole K: the paper's block-diagonal token MLPs (Tolstikhin et al., "MLP-Mixer",
  NeurIPS 2021, appendix C), for which its token mixing gets K^2 times as wide.
- Mixer otherwise, gMixer, ResMLP and gMLP: interpolation of the layers that mix tokens.
- What has timm's `set_input_size` (ViT, DeiT, BEiT, Swin, ...): timm's own.
- Where no parameter changes its shape (convolutions, CycleMLP, windows): the weights as they are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.layers import Mlp
from timm.models.mlp_mixer import MixerBlock, MlpMixer
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from mixstill.errors import UserError, one_line
from mixstill.models.create import create_backbone, pixels
from mixstill.models.distilled import DistilledMlpMixer
from mixstill.models.grids import Grid, Regrid, Tiling, interpolation
from mixstill.models.weights import State, load_into
from mixstill.quiet import no_warnings

# Of timm's `MlpMixer`, by the ends of their names: parameters whose inputs are tokens, and those whose outputs are.
_READ = ("mlp_tokens.fc1.weight", "linear_tokens.weight", "gate.proj.weight")
_WRITE = ("mlp_tokens.fc2", "linear_tokens", "gate.proj")


def resized(backbone: nn.Module, name: str, size: int, kwargs: Mapping[str, Any]) -> nn.Module:
    """The backbone that timm builds by `name` and `kwargs` at `size` pixels, with the weights of `backbone`.

    Raises `UserError` for a size that it cannot have, and as `resized_weights`.
    """
    arguments = {key: value for key, value in kwargs.items() if key != "img_size"}
    num_classes = int(cast(Any, backbone).num_classes)
    with torch.device("meta"):
        sketch = create_backbone(name, num_classes, input_size=size, kwargs=arguments)
    arguments |= enlargement(backbone, sketch)
    new = create_backbone(name, num_classes, input_size=size, kwargs=arguments)
    load_into(new, resized_weights(backbone, new), name)
    return new


def enlargement(old: nn.Module, new: nn.Module) -> dict[str, Any]:
    """The argument by which a Mixer like `new` gets as wide as `old` is at its resolution; none where it is.

    The block-diagonal scheme makes it K^2 times as wide; all else leaves the width, be it of an earlier enlargement.
    """
    if not (_is_mixer(old) and _is_mixer(new)):
        return {}
    mixing, channel = _widths(old)
    wanted = (_factor(old, new) ** 2 * mixing, channel)
    if _widths(new) == wanted:
        return {}
    return {"mlp_ratio": [_ratio(width, cast(Any, new).embed_dim) for width in wanted]}


def _ratio(width: int, channels: int) -> float:
    """The ratio of which timm's int(ratio * channels) makes `width`."""
    ratio = width / channels
    return ratio if int(ratio * channels) == width else math.nextafter(ratio, math.inf)


def tiles_per_side(old: nn.Module, new: nn.Module) -> int:
    """K, where `new` is as large as the block-diagonal scheme makes the Mixer `old`; else 1."""
    factor = _factor(old, new)
    return factor if factor > 1 and _widths(new)[0] == factor**2 * _widths(old)[0] else 1


def _factor(old: nn.Module, new: nn.Module) -> int:
    """How many times as large per side the grid of `new` is, where both are Mixers and it is a whole number; else 1."""
    if not (_is_mixer(old) and _is_mixer(new)):
        return 1
    (rows, columns), wanted = _grid(old), _grid(new)
    factor = wanted[0] // rows
    return factor if factor > 1 and wanted == (factor * rows, factor * columns) else 1


def _is_mixer(backbone: nn.Module) -> bool:
    """Whether its tokens are mixed by plain MLPs, and not gated ones."""
    blocks = backbone.blocks if isinstance(backbone, MlpMixer) else ()
    return bool(blocks) and all(
        isinstance(block, MixerBlock) and isinstance(block.mlp_tokens, Mlp) for block in cast(Any, blocks)
    )


def _widths(mixer: nn.Module) -> tuple[int, int]:
    """Hidden units of its token MLPs and of its channel MLPs."""
    block = cast(Any, mixer).blocks[0]
    return int(block.mlp_tokens.fc1.out_features), int(block.mlp_channels.fc1.out_features)


def _grid(backbone: nn.Module) -> Grid:
    rows, columns = cast(Any, backbone).stem.grid_size
    return int(rows), int(columns)


def resized_weights(old: nn.Module, new: nn.Module) -> State:
    """The weights of `old` for `new`, a backbone of the same name at its own resolution; heads are left as they are.

    Raises `UserError` where a parameter has another shape there and no scheme is known for it.
    """
    state: State = old.state_dict()
    if isinstance(old, MlpMixer) and isinstance(new, MlpMixer):
        return state if _grid(old) == _grid(new) else _mixer_weights(old, new)
    before, after = pixels(old), pixels(new)
    if before == after or _misfit(state, new) is None:
        return state
    name = cast(Any, old).pretrained_cfg.get("architecture") or type(old).__name__
    failed = f"data.input_size: {name!r} cannot be resized from {before} to {after} pixels"
    if hasattr(old, "set_input_size"):
        try:
            state = _timm_weights(old, new)
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{failed}: {one_line(error, 160)}") from error
    found = _misfit(state, new)
    if found is not None:
        raise UserError(f"{failed}: no way is known to resize its {found!r}")
    return state


def _misfit(state: State, new: nn.Module) -> str | None:
    """The first parameter, but for the heads, that has another shape in `new`."""
    wanted, heads = new.state_dict(), head_names(new)
    names = (name for name in state if name in wanted and not name.startswith(heads))
    return next((name for name in names if state[name].shape != wanted[name].shape), None)


def head_names(backbone: nn.Module) -> tuple[str, ...]:
    """How the names of the parameters of the backbone's own heads begin."""
    found = cast(Any, backbone).pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([found] if isinstance(found, str) else found))


def _mixer_weights(old: MlpMixer, new: MlpMixer) -> State:
    """Of timm's `MlpMixer` in each of its forms; a distillation token is the first of the tokens that are mixed."""
    extra, factor = int(isinstance(old, DistilledMlpMixer)), tiles_per_side(old, new)
    if factor == 1:
        regrid = interpolation(_grid(old), _grid(new))
        return {name: _interpolated(name, value, regrid, extra) for name, value in old.state_dict().items()}
    tiling = Tiling(_grid(old), factor)
    return {name: _enlarged(name, value, tiling, extra) for name, value in old.state_dict().items()}


def _interpolated(name: str, value: Tensor, regrid: Regrid, extra: int) -> Tensor:
    if name.endswith(_READ):
        value = regrid.inputs(value, extra)
    return regrid.outputs(value, extra) if name.rpartition(".")[0].endswith(_WRITE) else value


def _enlarged(name: str, value: Tensor, tiling: Tiling, extra: int) -> Tensor:
    layer = ".".join(name.split(".")[-3:])
    if layer == "mlp_tokens.fc1.weight":
        return tiling.hidden_inputs(value, extra)
    if layer == "mlp_tokens.fc1.bias":
        return tiling.hidden(value)
    if layer == "mlp_tokens.fc2.weight":
        return tiling.hidden_outputs(value, extra)
    return tiling.outputs(value, extra) if layer == "mlp_tokens.fc2.bias" else value


def _timm_weights(old: nn.Module, new: nn.Module) -> State:
    """By `set_input_size`: bicubic resampling of position embeddings, and that of tables of relative positions."""
    body, side, windows = cast(Any, copy.deepcopy(old)), pixels(new), {}
    if isinstance(new, SwinTransformer):  # timm lets windows grow with the image, but builds them of one size
        windows["window_size"] = [cast(Any, stage).blocks[0].window_size for stage in new.layers]
    with no_warnings():  # timm resamples tables by what PyTorch deprecates
        body.set_input_size(img_size=(side, side), **windows)
    return cast(State, body.state_dict())
