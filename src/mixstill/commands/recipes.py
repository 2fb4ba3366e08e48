"""`mixstill recipes`: the shipped recipes, what each is for, and its measured result."""

from __future__ import annotations

from mixstill import recipes
from mixstill.errors import UserError
from mixstill.files import to_json
from mixstill.overrides import parse

USAGE = """usage: mixstill recipes [--json]

The shipped recipes: what each is for, where it is from, its command and its measured result.
"""


def main(argv: list[str]) -> None:
    """Print the header of each recipe."""
    line = parse(argv, flags=("json",))
    if line.words or line.config:
        raise UserError(f"recipes: takes no arguments, got {' '.join([*line.words, *line.config])}")
    headers = {name: recipes.header(name) for name in recipes.names()}
    if "json" in line.options:
        print(to_json(headers, indent=1))
        return
    for name, header in headers.items():
        print(name)
        for key, text in header.items():
            print(f"  {key + ':':<10}{text}")
