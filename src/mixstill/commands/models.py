"""`mixstill models [GLOB]`: backbones and students with their sizes."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import asdict

from mixstill.errors import UserError, unknown
from mixstill.overrides import parse

USAGE = """usage: mixstill models [GLOB] [--num-classes N] [--json]

Parameters and multiply-adds per image of the models whose name fits GLOB: any of timm and mixstill. A name with `std_`
in front is the student of that backbone with two token modules at its last block. Without GLOB: mixstill's own.

  --num-classes N  classes of the heads [the model's own default]
  --json           a JSON list of objects: name, params, macs, input_size, num_classes, modules, source
"""


def main(argv: list[str]) -> None:
    """Print the sizes of the models that fit."""
    line = parse(argv, flags=("json",), values=("num-classes",))
    options = line.options
    if len(line.words) > 1 or line.config:
        raise UserError(f"models: takes one GLOB, got {' '.join([*line.words, *line.config])}")
    num_classes = line.whole("num-classes")

    from mixstill.distill.sizes import known_models, own_models, size_of

    glob = line.words[0] if line.words else None
    found = own_models() if glob is None else fnmatch.filter(known_models(), glob)
    if not found:
        raise unknown("model", glob, known_models())
    sizes = [size_of(name, num_classes) for name in found]
    if "json" in options:
        print(json.dumps([asdict(size) for size in sizes], indent=1))
        return
    width = max(len(size.name) for size in sizes)
    print(f"{'name':<{width}}  {'params (M)':>10}  {'MACs (G)':>8}  {'input':>5}  {'classes':>7}  source")
    for size in sizes:
        figures = f"{size.params / 1e6:>10.2f}  {size.macs / 1e9:>8.2f}  {size.input_size:>5}  {size.num_classes:>7}"
        print(f"{size.name:<{width}}  {figures}  {size.source}")
