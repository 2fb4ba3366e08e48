"""The two ways in which a command ends badly, and the words for a value that is not among the valid ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 100  # characters of a word that is looked for


class UserError(Exception):
    """A user's mistake, told in one line that names the field and the value. The command line exits with 2."""


class RunError(Exception):
    """A run that failed through no mistake of its config (non-finite loss, disk full). Exits with 1."""


class DataError(RunError):
    """The samples of a batch cannot be had. It comes between two steps, so the run may still write its checkpoint."""


class InterruptedRun(Exception):  # noqa: N818
    """A run that a signal ended, after its checkpoint was written. Exits with 128 + `signal`."""

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """The choice that is most like `value`; None where none is."""
    found = difflib.get_close_matches(value[:_LONGEST], list(choices), n=1)  # its time grows with the length
    return found[0] if found else None


def unknown(field: str, value: object, choices: Iterable[str]) -> UserError:
    """The error for `value` in `field` when only `choices` are valid: names the nearest, or all of a short list."""
    options = sorted(choices)
    near = nearest(str(value), options)
    if near is not None:
        hint = f"did you mean {near!r}?"
    elif len(options) <= 12:
        hint = f"choose from {', '.join(options)}"
    else:
        hint = f"there are {len(options)} choices, such as {', '.join(options[:3])}"
    return UserError(f"{field}: unknown value {shown(value)}; {hint}")


def shown(value: object, limit: int = 200) -> str:
    """`repr(value)`, shortened to `limit` characters; Python shows no number of more than 4,300 digits."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def many(count: int, noun: str) -> str:
    """A count with its noun, as 1 pass, 2 passes, 3 images."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def root(error: BaseException) -> BaseException:
    """The first of the errors that led to `error`: of a client that wraps what went wrong, what went wrong."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error if before is None else root(before)


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of `error` without line breaks, shortened to `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
