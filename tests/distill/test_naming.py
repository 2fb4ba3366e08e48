"""Classes are the same by name, not by number: which lists match, and what is told where they do not."""

import pytest

from mixstill.distill.naming import differing, has_names, matched


@pytest.mark.parametrize(
    ("own", "other", "order"),
    [
        (["cat", "dog", "eel"], ["cat", "dog", "eel"], (0, 1, 2)),
        (["cat", "dog", "eel"], ["eel", "cat", "dog"], (2, 0, 1)),
        (["Sea_Lion", "cat"], ["cat", "sea-lion"], (1, 0)),
        (["cat", "dog"], ["cat", "eel"], None),
        (["cat", "dog"], ["cat", "dog", "eel"], None),
        (["cat", "CAT"], ["cat", "Cat"], None),
        (["0", "1"], ["1", "0"], None),
        (["cat", "dog"], ["0", "1"], None),
        (None, ["cat"], None),
        (["cat"], None, None),
    ],
)
def test_classes_match_by_name(own, other, order) -> None:
    assert matched(own, other) == order


def test_the_first_differing_class_is_told() -> None:
    assert differing(["cat", "dog"], ["Cat", "eel"]) == "class 1 is 'dog' and 'eel'"
    assert differing(["cat", "dog"], ["cat", "dog"]) is None
    assert differing(["cat", "dog"], ["0", "1"]) is None
    assert differing(None, ["cat"]) is None


def test_numbers_are_no_names() -> None:
    assert has_names(["1", "cat"])
    assert not has_names(["1", "2"])
    assert not has_names(None)
