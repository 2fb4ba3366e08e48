"""RandAugment's policy strings against timm's reading of them, and what is said about mistakes."""

import math

import pytest
from timm.data.auto_augment import rand_augment_transform

from mixstill.errors import UserError
from mixstill.views.policy import parse


@pytest.mark.parametrize(
    "text",
    [
        "rand",
        "rand-m9-mstd0.5-inc1",
        "rand-m7-mstd0.5-inc0",
        "rand-m15-n3-p0.7-mmax15",
        "rand-n1-m5-p1",
        "rand-m9-mstd101",
        "rand-m9-mstd100-inc1",
        "rand-mstd1-tweights",
        "rand-m8-n4-inc1-tweights",
        "rand-m6-n3-inc1-mstd1.0-t3a",
        "rand-m6-t3aw",
    ],
)
def test_a_policy_string_means_what_it_means_to_timm(text):
    theirs, ours = rand_augment_transform(text, {}), parse(text)
    assert ours.ops == tuple(op.name for op in theirs.ops)
    assert ours.layers == theirs.num_layers
    if theirs.choice_weights is None:
        assert ours.weights is None
    else:
        assert ours.weights == pytest.approx(list(theirs.choice_weights), rel=1e-12)
    for op in theirs.ops:
        assert (ours.probability, ours.magnitude, ours.deviation) == (op.prob, op.magnitude, op.magnitude_std)
        assert ours.limit == (op.magnitude_max or 10)


def test_an_infinite_deviation_may_be_written_out():
    assert parse("rand-m9-mstdinf") == parse("rand-m9-mstd101")
    assert parse("rand-m9-mstdinf").deviation == math.inf


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("original", ["views.aa", "'original'", "rand-m9-mstd0.5-inc1", "3a"]),
        ("v0r-mstd0.5", ["views.aa", "'v0r-mstd0.5'", "not built in"]),
        ("augmix-m5", ["'augmix-m5'", "not built in"]),
        ("radn-m9", ["views.aa", "'radn-m9'", "did you mean 'rand-m9'?"]),
        ("rand_m9", ["views.aa", "'rand_m9'", "did you mean 'rand-m9'?"]),
        ("rand_m9-mstd0.5,inc1", ["did you mean 'rand-m9-mstd0.5-inc1'?"]),
        ("RAND-M9", ["'RAND-M9'", "choose from 3a, rand-m9"]),
        ("radn-w0", ["'radn-w0'", "choose from 3a, rand-m9-mstd0.5-inc1"]),
        ("3a-m9", ["'3a-m9'", "choose from 3a, rand-m9-t3a"]),
        ("", ["views.aa", "''", "rand", "3a"]),
        ("rand-m9-mst0.5", ["views.aa", "'rand-m9-mst0.5'", "'mst0.5'", "did you mean 'mstd0.5'?"]),
        ("rand-m9-inx1", ["'inx1'", "did you mean 'inc1'?"]),
        ("rand-m9-mstd", ["'mstd'", "a number", "mstd0.5"]),
        ("rand-w0", ["'w0'", "views.aa", "choose from inc0, m0, mmax10, mstd0, n2, p0"]),
        ("rand-w7.5", ["'w7.5'", "choose from inc1, m9, mmax10, mstd7.5, n2, p0.5"]),
        ("rand-m9.5", ["'m9.5'", "a whole number", "m9"]),
        ("rand-m", ["'m'", "a whole number"]),
        ("rand--m9", ["views.aa", "''"]),
        ("rand-p1.5", ["'p1.5'", "[0, 1]"]),
        ("rand-mstd0.5.5", ["'mstd0.5.5'", "a number"]),
        ("rand-mstdnan", ["'mstdnan'"]),
        ("rand-n0", ["'n0'", "[1, 64]"]),
        ("rand-mmax0", ["'mmax0'", "1 or more"]),
        ("rand-m9-m8", ["'m'", "twice"]),
        ("rand-tweight", ["'tweight'", "did you mean 'tweights'?"]),
        ("rand-n16-tweights", ["n16", "15 operations"]),
    ],
)
def test_a_mistake_is_named_with_the_nearest_valid_piece(text, words):
    with pytest.raises(UserError) as raised:
        parse(text)
    for word in words:
        assert word in str(raised.value)
    assert "\n" not in str(raised.value)
