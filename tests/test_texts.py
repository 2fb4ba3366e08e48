"""YAML and JSON within limits: what is beyond them is told in a moment, and never built."""

import re
import time

import pytest
import yaml

from mixstill.texts import parse_json, parse_object, parse_yaml

LAUGHS = "a: &a [x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "aliases of mappings and lists, such as *a, are not read"),
        ("a: &a {b: 1}\nc: *a\n", "aliases of mappings and lists, such as *a, are not read"),
        ("a: " + "[" * 51, "nested more than 50 times"),
        ("[" * 900_000, "nest"),
        ("{a: " * 900, "nested more than 50 times"),
        ("x: " + "y" * 1_000_000, "larger than 1,000,000 bytes"),
        ("a: 1\na: 2\n", "'a' is given twice"),
        ("a: {b: 1, b: 2}\n", "'b' is given twice"),
        ("9" * 5000, "cannot be read"),
        ("0x" + "f" * 5000, "a number is too large"),
        ("a: 18446744073709551617", "a number is too large"),
        (":59" * 3000, "."),
        ("2001-99-99", "cannot be read"),
        ("!!python/object/apply:os.system ['exit 1']", "could not determine a constructor"),
        ("!!int x", "cannot be read"),
        ("!!float", "cannot be read"),
        ("!!bool maybe", "cannot be read"),
        ("? {a: b}\n: 1", "unhashable"),
        ("a\0b", "."),
        ("\ud800", "."),
        ("--- 1\n--- 2", "single document"),
        ("a: [", "."),
    ],
)
def test_a_yaml_text_beyond_the_limits_is_told_in_a_moment(text, reason) -> None:
    began = time.monotonic()
    if not text.startswith(":59"):
        with pytest.raises(ValueError, match=re.escape(reason) if reason != "." else reason):
            parse_yaml(text)
    else:
        assert isinstance(parse_yaml(text), str)
    assert time.monotonic() - began < 2


def test_yaml_within_them_is_as_pyyaml_reads_it() -> None:
    text = "a: 1\nb: [1.5, x, null, true, 2001-01-01]\nc: {d: &here 1e-3, e: 0x10}\n18446744073709551616: .inf\n"
    assert parse_yaml(text) == parse_yaml(text.encode()) == yaml.safe_load(text)
    deep = "[" * 50 + "]" * 50
    assert parse_yaml(deep) == yaml.safe_load(deep)
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "NaN is not finite"),
        ('{"a": [-Infinity]}', "-Infinity is not finite"),
        ("1e400", "1e400 is not finite"),
        ("9" * 5000, "a number is too large"),
        ("[" * 100_000, "nested too deep"),
        ("{", "Expecting"),
        (b"\xff", "decode"),
    ],
)
def test_a_json_text_beyond_the_limits_is_told(text, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_json_within_them_is_read_and_an_object_is_asked_for_where_one_must_be() -> None:
    assert parse_object('{"a": [1, 2.5, null, 18446744073709551616]}') == {"a": [1, 2.5, None, 2**64]}
    assert parse_json("-18446744073709551616") == -(2**64)
    for text in ("3", "[]", "null", '"x"'):
        with pytest.raises(ValueError, match="it holds no object"):
            parse_object(text)


def test_an_alias_of_a_number_or_a_text_is_read() -> None:
    assert parse_yaml("lr: &r 0.001\nwarmup_lr: *r\nname: &n x\nother: [*n]\n") == {
        "lr": 0.001,
        "warmup_lr": 0.001,
        "name": "x",
        "other": ["x"],
    }
    with pytest.raises(ValueError, match="aliases of mappings"):
        parse_yaml("a: &r 1\nb: &r [2]\nc: *r\n")
