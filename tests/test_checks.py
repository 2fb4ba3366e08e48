"""What a config may hold, from Python as from a file: types, finite numbers, intervals."""

import math
from typing import get_args

import pytest

from mixstill.checks import Interval, check_arguments, expansions
from mixstill.config import Config, DistillConfig, ModelConfig, OptimConfig, TrainConfig, ViewsConfig
from mixstill.errors import UserError
from mixstill.schema import Field, fields, from_dict

SECTIONS = {name: type(section) for name, section in vars(Config()).items()}
NUMBERS = [leaf for leaf in fields().values() if leaf.number]


def told(section: str, **values: object) -> str:
    with pytest.raises(UserError) as error:
        SECTIONS[section](**values)
    return str(error.value)


def kinds(leaf: Field) -> set[object]:
    return {kind for outer in (leaf.type, *get_args(leaf.type)) for kind in (outer, *get_args(outer))}


@pytest.mark.parametrize("leaf", NUMBERS, ids=lambda leaf: leaf.name)
def test_every_number_is_finite_and_has_bounds_from_python_and_from_a_file(leaf: Field) -> None:
    section, name = leaf.name.split(".")
    many = leaf.many
    odd = [float("nan"), float("inf"), -float("inf"), *([10**400] if float in kinds(leaf) else [])]
    for value in odd:
        given = (0.5, value) if many else value
        assert told(section, **{name: given}).startswith(f"{leaf.name}: ")
    for text in ("nan", "inf", "-.inf", "1e400", "-1e400", "9" * 5000):
        with pytest.raises(UserError, match=leaf.name):
            from_dict({section: {name: [0.5, text] if many else text}})
    if int in kinds(leaf) and leaf.name != "train.seed":
        assert told(section, **{name: 2**31}).endswith("at most"), "no upper bound"
        assert told(section, **{name: -(2**31)})


@pytest.mark.parametrize("leaf", list(fields().values()), ids=lambda leaf: leaf.name)
def test_every_field_is_of_its_type_from_python(leaf: Field) -> None:
    section, name = leaf.name.split(".")
    for value in (object(), b"x", [object()], {1: 2}, 1j):
        assert told(section, **{name: value}).startswith(leaf.name)
    if not leaf.optional:
        assert f"{leaf.name}: None is not valid" in told(section, **{name: None})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Config(data={"dataset": "nonsense", "foo": 1}),
            "data: {'dataset': 'nonsense', 'foo': 1} is not valid; it must be a DataConfig(...); "
            "mixstill.schema.from_dict makes a config of mappings",
        ),
        (lambda: OptimConfig(lr="0.1"), "optim.lr: '0.1' is not valid; it must be a number"),
        (lambda: TrainConfig(epochs=True), "train.epochs: True is not valid; it must be a whole number"),
        (lambda: TrainConfig(amp=1), "train.amp: 1 is not valid; it must be true or false"),
        (lambda: DistillConfig(teachers=["a"]), "distill.teachers: ['a'] is not valid; it must be a tuple of texts"),
        (lambda: DistillConfig(teachers=("a", 1)), "distill.teachers: ('a', 1) is not valid; it must be texts"),
        (lambda: ViewsConfig(scale=(0.5,)), "views.scale: (0.5,) is not valid; it must be 2 numbers"),
        (lambda: ViewsConfig(crop="x"), "views.crop: 'x' is not valid; it must be one of pad, rrc, src"),
        (lambda: ModelConfig(name="a\0"), r"model.name: 'a\x00' is not valid; it must be text in UTF-8 without NUL"),
        (lambda: ModelConfig(name="\udcff"), r"model.name: '\udcff' is not valid; it must be text in UTF-8 without "),
    ],
)
def test_a_mistake_in_python_is_told_as_one_in_a_file(make, message) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_dim": 2**31}, "model.kwargs.embed_dim: 2147483648 is not valid; it must be 1048576 at most"),
        ({"depth": 10**6}, "model.kwargs: 1000000 blocks in all are not valid; it must be 500 at most"),
        ({"depths": [300, 300]}, "model.kwargs: 600 blocks in all are not valid; it must be 500 at most"),
        ({"a": {"b": [1, math.nan]}}, "model.kwargs.a.b: nan is not valid; it must be finite"),
        ({"a": 10**5000}, "model.kwargs.a: a int too large to be shown is not valid; it must be 1048576 at most"),
        ({1: 2}, "model.kwargs: 1 is not valid; the name of an argument must be text"),
        ({"a": object()}, "model.kwargs.a: a object is not valid; it must be a number, text, list or mapping"),
        ({"a": "\0"}, r"model.kwargs.a: '\x00' is not valid; it must be text in UTF-8 without NUL"),
    ],
)
def test_an_argument_of_a_backbone_is_plain_and_within_what_a_machine_could_meet(arguments, message) -> None:
    with pytest.raises(UserError) as error:
        check_arguments("model.kwargs", arguments)
    assert str(error.value) == message
    with pytest.raises(UserError):
        ModelConfig(kwargs=arguments)


def test_arguments_that_refer_to_themselves_end() -> None:
    circle: dict[str, object] = {}
    circle["a"] = circle
    with pytest.raises(UserError, match="nested too deep"):
        check_arguments("model.kwargs", circle)


@pytest.mark.parametrize(
    ("text", "within", "without"),
    [
        ("[0, 1)", [0, 0.5, 1 - 1e-9], [-1e-9, 1]),
        ("(0, 1]", [1e-320, 1], [0, 1.1]),
        ("(0, inf)", [1e308, 5], [0, math.inf]),
        ("[0, 2**64)", [0, 2**64 - 1], [-1, 2**64]),
    ],
)
def test_an_interval_is_read_as_it_is_written(text, within, without) -> None:
    interval = Interval.parse(text)
    assert all(value in interval for value in within)
    assert not any(value in interval for value in without)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a", 1),
        ("{000..127}.tar", 128),
        ("{a,b}-{0..9}", 20),
        ("{9..0}", 10),
        ("{0..9}{0..99999999}", 10**9),
        ("{}", 1),
    ],
)
def test_braces_are_counted_before_they_are_expanded(text, count) -> None:
    assert expansions(text) == count
