"""The command line's words as a nested config."""

import pytest

from mixstill.errors import UserError
from mixstill.overrides import ALIASES, help_lines, parse
from mixstill.schema import fields, from_dict


@pytest.mark.parametrize(
    ("argv", "config"),
    [
        (["--optim.lr", "5e-4"], {"optim": {"lr": "5e-4"}}),
        (["--optim.lr=5e-4"], {"optim": {"lr": "5e-4"}}),
        (["--lr", "5e-4"], {"optim": {"lr": "5e-4"}}),
        (["--views.pad", "-1"], {"views": {"pad": "-1"}}),
        (["-b", "64"], {"train": {"batch_size": "64"}}),
        (["--batch-size", "64"], {"train": {"batch_size": "64"}}),
        (["--batch_size", "64"], {"train": {"batch_size": "64"}}),
        (["--train.batch-size", "64"], {"train": {"batch_size": "64"}}),
        (["--amp"], {"train": {"amp": True}}),
        (["--amp", "false"], {"train": {"amp": "false"}}),
        (["--clip-grad", "none"], {"optim": {"clip_grad": None}}),
        (["--data-dir", "null"], {"data": {"data_dir": None}}),
        (["--opt-betas", "0.9", "0.95"], {"optim": {"opt_betas": ["0.9", "0.95"]}}),
        (["--opt-betas", "0.9,0.95"], {"optim": {"opt_betas": ["0.9", "0.95"]}}),
        (["--opt-betas=0.9,0.95"], {"optim": {"opt_betas": ["0.9", "0.95"]}}),
        (
            ["--teachers", "a@2/3", "b@last", "--lr", "1"],
            {"distill": {"teachers": "a@2/3 b@last"}, "optim": {"lr": "1"}},
        ),
        (["--teachers", "a@2/3 b@last"], {"distill": {"teachers": "a@2/3 b@last"}}),
        (["--teachers", "none"], {"distill": {"teachers": []}}),
        (["--model.kwargs.num_blocks", "4"], {"model": {"kwargs": {"num_blocks": 4}}}),
        (
            ["--model.kwargs.act_layer", "gelu", "--model.kwargs.mlp_ratio", "[0.5, 4]"],
            {"model": {"kwargs": {"act_layer": "gelu", "mlp_ratio": [0.5, 4]}}},
        ),
        (["--model.kwargs", "{num_blocks: 4}"], {"model": {"kwargs": {"num_blocks": 4}}}),
    ],
)
def test_options_become_fields(argv, config) -> None:
    assert parse(argv).config == config


def test_words_come_first_and_the_commands_own_options_stay_apart() -> None:
    line = parse(["digits", "b", "--json", "--output", "x", "--seed", "3"], flags=["json"], values=["output"])
    assert line.words == ["digits", "b"]
    assert line.options == {"json": True, "output": "x"}
    assert line.config == {"train": {"seed": "3"}}


def test_an_option_of_the_command_goes_before_an_alias_of_the_same_name() -> None:
    line = parse(["--model", "resnet18"], values=["model"])
    assert line.options == {"model": "resnet18"}
    assert line.config == {}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--bath-size", "3"], "option: unknown value '--bath-size'; did you mean '--batch-size'?"),
        (["--train.sed", "3"], "option: unknown value '--train.sed'; did you mean '--train.seed'?"),
        (["--jsom"], "option: unknown value '--jsom'; did you mean '--json'?"),
        (["--train", "3"], "option: unknown value '--train'; did you mean '--train.amp'?"),
        (["--lr", "1", "--lr", "1"], "--lr: 1 is given a second time; give it once"),
        (["--lr", "1", "--optim.lr", "2"], "--optim.lr: 2 is given a second time, first as --lr; give it once"),
        (["--json", "--json"], "--json: it is given a second time; give it once"),
        (
            ["--model.kwargs.depth", "1", "--model.kwargs.depth", "2"],
            "--model.kwargs.depth: 2 is given a second time; give it once",
        ),
        (["-x", "3"], "option: unknown option '-x'; options begin with two dashes"),
        (["--lr"], "--lr: takes 1 value, got none"),
        (["--lr", "1", "2"], "--lr: takes 1 value, got 1 2"),
        (["--json", "run"], "--json: takes no values, got run"),
        (["--output"], "--output: takes 1 value, got none"),
        (["--model.kwargs.depth", "[1"], "--model.kwargs.depth: '[1' cannot be read as a value"),
        (["--model.kwargs.depth"], "--model.kwargs.depth: takes 1 value, got none"),
    ],
)
def test_a_mistake_is_told_with_the_nearest_option(argv, message) -> None:
    with pytest.raises(UserError) as error:
        parse(argv, flags=["json"], values=["output"])
    assert str(error.value) == message


def test_every_alias_is_of_a_field_and_none_hides_a_field() -> None:
    assert set(ALIASES.values()) <= set(fields())
    assert not set(ALIASES) & set(fields())


@pytest.mark.parametrize("name", list(fields()))
def test_every_field_takes_its_default_from_the_command_line(name) -> None:
    leaf = fields()[name]
    default = leaf.default
    words = [str(value) for value in default] if isinstance(default, tuple) else [str(default).lower()]
    if isinstance(default, str):
        words = [default]
    line = parse([f"--{name}", *(words or ["none"])])
    assert from_dict(line.config) == from_dict({})


def test_the_help_has_a_line_for_every_field_with_its_aliases_choices_and_default() -> None:
    text = "\n".join(help_lines())
    for name, leaf in fields().items():
        assert f"--{name}" in text
        assert leaf.help in text
    for alias in ALIASES:
        assert f"--{alias}" in text
    shown = "--distill.kind, --distillation-type\n      the teacher's argmax, or its tempered distribution (hard, soft)"
    assert f"{shown} [hard]" in text
    assert "[0.08 1.0]" in text
