"""One of RandAugment's operations per sample: the samples sorted by operation, one call for each operation.

All that are tables of 256 values are looked up at once; what shears and what translates along an axis slides at once.

Shapes: B batch, b samples of one operation, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mixstill.views import filters, tone, warp
from mixstill.views.levels import CODES, OPS
from mixstill.views.sorting import Sorting
from mixstill.views.warp import Fill

NOTHING = -1

_TABLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AutoContrast": lambda pixels, _: tone.autocontrast_table(pixels),
    "Equalize": lambda pixels, _: tone.equalize_table(pixels),
    "Invert": lambda pixels, _: tone.invert_table(pixels),
    **dict.fromkeys(("Posterize", "PosterizeIncreasing"), tone.posterize_table),
    **dict.fromkeys(("Solarize", "SolarizeIncreasing"), tone.solarize_table),
    "SolarizeAdd": tone.solarize_add_table,
    **dict.fromkeys(("Contrast", "ContrastIncreasing"), tone.contrast_table),
    **dict.fromkeys(("Brightness", "BrightnessIncreasing"), tone.brightness_table),
}
_BLENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **dict.fromkeys(("Color", "ColorIncreasing"), tone.color),
    "Desaturate": lambda pixels, taken: tone.color(pixels, 1 - taken),
    **dict.fromkeys(("Sharpness", "SharpnessIncreasing"), filters.sharpness),
    "GaussianBlur": filters.gaussian_blur,
}
# Neighbours in `levels.OPS`: first the shear, then the translation along the same axis.
_SLIDES = ((warp.slide_x, ("ShearX", "TranslateXRel")), (warp.slide_y, ("ShearY", "TranslateYRel")))
_ROTATION = ("Rotate",)


def operate(pixels: Tensor, ops: Tensor, arguments: Tensor, bicubic: Tensor, fill: Fill) -> Tensor:
    """One operation per sample: uint8 [B, 3, H, W] on any device -> the same shape.

    On the CPU: `ops` int64 [B], an index of `levels.OPS` or `NOTHING`; `arguments` float64 [B] as `levels.arguments`
    gives them; `bicubic` bool [B], false means bilinear. `fill` is what lies outside the image.
    """
    sorting = Sorting(ops - NOTHING)  # those that get nothing come first
    parts = {OPS[kind + NOTHING]: part for kind, part in sorting.parts(first=1)}
    if not parts:
        return pixels
    height, width = pixels.shape[-2:]
    side = (ops == CODES["TranslateXRel"]) * width + (ops == CODES["TranslateYRel"]) * height
    given = torch.stack([arguments, arguments * (side == 0), arguments * side, bicubic.double()], 1)
    argument, slope, offset, cubic = sorting.sort(given, pixels.device).unbind(1)
    views = sorting.sort(pixels, pixels.device)

    tables = {name: _TABLES[name](views[part], argument[part]) for name, part in parts.items() if name in _TABLES}
    if tables:
        part = _together(parts, tuple(tables))
        views[part] = tone.apply_table(views[part], torch.cat(list(tables.values())))
    for name, blend in _BLENDS.items():
        if name in parts:
            part = parts[name]
            views[part] = blend(views[part], argument[part])
    for slide, names in _SLIDES:
        part = _together(parts, names)
        if part.stop:
            views[part] = slide(views[part], slope[part], offset[part], bicubic=cubic[part] > 0, fill=fill)
    part = _together(parts, _ROTATION)
    if part.stop:
        views[part] = warp.rotate(views[part], argument[part], bicubic=cubic[part] > 0, fill=fill)
    return sorting.restore(views)


def _together(parts: dict[str, slice], names: tuple[str, ...]) -> slice:
    """From the first sample to the last one of neighbouring operations; 0:0 where there is none."""
    found = [parts[name] for name in names if name in parts]
    return slice(found[0].start, found[-1].stop) if found else slice(0, 0)
