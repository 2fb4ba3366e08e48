"""What is set for a whole process while something runs is put back by the last of the threads that leave."""

import logging
import os
import warnings
from contextlib import ExitStack

import pytest

from mixstill.quiet import environment, no_warnings, only_errors


def process() -> tuple[object, ...]:
    return list(warnings.filters), logging.getLogger("odd").level, os.environ.get("ODD")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_last_to_leave_puts_back_what_the_first_found(order, monkeypatch) -> None:
    monkeypatch.delenv("ODD", raising=False)
    before = process()
    stacks = [ExitStack(), ExitStack()]
    for stack in stacks:
        for each in (no_warnings(), only_errors("odd"), environment("ODD", "1")):
            stack.enter_context(each)
    within = process()
    assert within[1:] == (logging.ERROR, "1")
    stacks[order[0]].close()
    assert process() == within
    warnings.warn("unsaid", stacklevel=1)
    stacks[order[1]].close()
    assert process() == before
    with pytest.raises(UserWarning):
        warnings.warn("said", stacklevel=1)


def test_what_fails_within_leaves_the_process_as_it_was(monkeypatch) -> None:
    monkeypatch.setenv("ODD", "before")
    before = process()
    stack = ExitStack()
    for each in (no_warnings(), environment("ODD", "1"), only_errors("odd", logging.CRITICAL)):
        stack.enter_context(each)
    assert process()[1:] == (logging.CRITICAL, "1")
    with pytest.raises(KeyError), stack:
        raise KeyError
    assert process() == before
