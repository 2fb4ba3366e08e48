"""Classes by name: whether two lists of names are the same classes, and in which order."""

from __future__ import annotations

from collections.abc import Sequence


def has_names(classes: Sequence[str] | None) -> bool:
    """Whether classes have names; numbers are none."""
    return bool(classes) and not all(name.isdecimal() for name in classes or ())


def matched(own: Sequence[str] | None, other: Sequence[str] | None) -> tuple[int, ...] | None:
    """The place in `own` of each class of `other`; None unless both name the same classes, each once.

    Case, spaces, underscores and hyphens make no other class.

    Example: `matched(["cat", "Sea_Lion"], ["sea lion", "cat"])` is `(1, 0)`.
    """
    if own is None or other is None or not (has_names(own) and has_names(other)):
        return None
    places = {_key(name): place for place, name in enumerate(own)}
    wanted = [_key(name) for name in other]
    if len(places) != len(own) or len(set(wanted)) != len(wanted) or places.keys() != set(wanted):
        return None
    return tuple(places[name] for name in wanted)


def differing(own: Sequence[str] | None, other: Sequence[str] | None) -> str | None:
    """The first class whose name in `own` is another than in `other`, told; None where they fit or have no names."""
    if own is None or other is None or not (has_names(own) and has_names(other)):
        return None
    pairs = enumerate(zip(own, other, strict=False))
    return next((f"class {k} is {one!r} and {two!r}" for k, (one, two) in pairs if _key(one) != _key(two)), None)


def _key(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
