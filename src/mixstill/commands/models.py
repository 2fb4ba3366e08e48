"""`mixstill models [GLOB]`: backbones and students with their sizes."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from mixstill.checks import MOST_CLASSES, MOST_PIXELS
from mixstill.errors import UserError, unknown
from mixstill.files import to_json
from mixstill.overrides import CommandLine, parse

if TYPE_CHECKING:
    from mixstill.distill.published import Published
    from mixstill.distill.sizes import Size

USAGE = """usage: mixstill models [GLOB] [--num-classes N] [--input-size N] [--places P,P] [--tokens KIND] [--json]
       mixstill models --paper [--json]

Parameters and multiply-adds per image of the models whose name fits GLOB: any of timm and mixstill. A name with `std_`
in front is the student of that backbone: its size with token modules, and plain, which is the backbone alone. Without
GLOB: all that mixstill adds to timm, the students of timm's own vision MLPs included.

  --num-classes N  classes of the heads [the model's own, 1000 where it has none]
  --input-size N   pixels per side [the model's own]
  --places P,P     of a student's modules, one at each: last, a fraction of the depth or a block's index [last,last]
  --tokens KIND    of a student's modules: spatial+channel, spatial, channel or none [spatial+channel]
  --paper          the six students of the paper, beside the sizes that it prints
  --markdown       the table in Markdown
  --json           a JSON list of objects: name, params, macs, input_size, num_classes, modules, source (of the
                   backbone), plain_params, plain_macs; with --paper also student and what is published of it
"""
_OF_GLOB = ("num-classes", "input-size", "places", "tokens")


def main(argv: list[str]) -> None:
    """Print the sizes of the models that fit, or those of the paper's students."""
    line = parse(argv, flags=("json", "markdown", "paper"), values=_OF_GLOB)
    if len(line.words) > 1:
        raise UserError(f"models: takes one GLOB, got {' '.join(line.words)}")
    if line.config:
        raise UserError(f"models: takes no fields of a config, got {', '.join(line.config)}")
    if "json" in line.options and "markdown" in line.options:
        raise UserError("--markdown: not together with --json")
    if "paper" in line.options:
        _paper(line)
    else:
        _models(line)


def _models(line: CommandLine) -> None:
    options = line.options
    num_classes, input_size = line.whole("num-classes", MOST_CLASSES), line.whole("input-size", MOST_PIXELS)
    places = options.get("places", "last,last").replace(",", " ").split()
    tokens = options.get("tokens", "spatial+channel")

    import timm

    from mixstill.distill.sizes import own_models, size_of
    from mixstill.distill.tokens import TokenKind

    if not places:
        raise UserError("--places: names no place; such as last,last or 2/3,last")
    if tokens not in get_args(TokenKind):
        raise unknown("--tokens", tokens, get_args(TokenKind))
    glob = line.words[0] if line.words else None
    found = own_models() if glob is None else fnmatch.filter(timm.list_models(), glob)
    if not found:
        raise unknown("model", glob, timm.list_models())
    sizes = [size_of(name, num_classes, input_size, places=places, tokens=tokens) for name in found]
    if "json" in options:
        print(to_json([asdict(size) for size in sizes], indent=1))
        return
    head = ["name", "params (M)", "plain (M)", "MACs (G)", "plain (G)", "modules", "input", "classes", "source"]
    _print(head, [_row(size) for size in sizes], "markdown" in options)


def _row(size: Size) -> list[str]:
    params, macs = (size.params, size.plain_params), (size.macs, size.plain_macs)
    figures = [*(f"{count / 1e6:.2f}" for count in params), *(f"{count / 1e9:.3f}" for count in macs)]
    return [size.name, *figures, str(size.modules), str(size.input_size), str(size.num_classes), size.source]


def _paper(line: CommandLine) -> None:
    refused = [*line.words, *(f"--{name}" for name in _OF_GLOB if name in line.options)]
    if refused:
        raise UserError(f"--paper: its models and their sizes are fixed, so it takes no {' '.join(refused)}")

    from mixstill.distill.published import PAPER
    from mixstill.distill.registry import PREFIX
    from mixstill.distill.sizes import size_of

    rows = [(published, size_of(PREFIX + published.backbone)) for published in PAPER]
    if "json" in line.options:
        print(to_json([_beside(*row) for row in rows], indent=1))
        return
    head = ["student", "params (M)", "published", "MACs (G)", "published"]
    _print(head, [_paper_row(*row) for row in rows], "markdown" in line.options)


def _beside(published: Published, size: Size) -> dict[str, Any]:
    units = {"plain_params": 1e6, "params": 1e6, "plain_macs": 1e9, "macs": 1e9}
    counts = {name: round(getattr(published, name) * unit) for name, unit in units.items()}
    return {"student": published.student, **asdict(size), "published": counts}


def _paper_row(published: Published, size: Size) -> list[str]:
    return [
        published.student,
        f"{size.plain_params / 1e6:.2f} -> {size.params / 1e6:.2f}",
        f"{published.plain_params} -> {published.params}",
        f"{size.plain_macs / 1e9:.2f} -> {size.macs / 1e9:.2f}",
        f"{published.plain_macs} -> {published.macs}",
    ]


def _print(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> None:
    """Print a table: names to the left, figures to the right."""
    lines = [head, *rows]
    if markdown:
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        print(*(f"| {' | '.join(cells)} |" for cells in lines), sep="\n")
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *figures in lines:
        print(
            name.ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(figures, widths[1:], strict=True)),
            sep="  ",
        )
