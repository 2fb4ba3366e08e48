"""Recipes: each shipped one is a valid config with an honest header, and files may build on one another."""

import pytest

from mixstill import recipes
from mixstill.config import Config
from mixstill.distill.placement import Placement
from mixstill.errors import UserError
from mixstill.overrides import parse


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_loads_and_says_what_it_is_for(name) -> None:
    config = recipes.load(name)
    assert config != Config()
    header = recipes.header(name)
    assert list(header) == ["what", "source", "command", "measured"]
    assert all(header.values())


@pytest.mark.parametrize("name", recipes.names())
def test_the_command_in_a_header_is_one_that_trains_that_recipe(name) -> None:
    program, command, *rest = recipes.header(name)["command"].split()
    assert (program, command) == ("mixstill", "train")
    line = parse(rest)
    assert line.words == [name]
    needs_data = recipes.load(name).data.dataset != "digits"
    assert ("data" in line.config) == needs_data


@pytest.mark.parametrize("name", recipes.names())
def test_the_teachers_of_a_recipe_are_recipes_of_the_same_data(name) -> None:
    config = recipes.load(name)
    for text in config.distill.teachers:
        assert recipes.load(Placement.parse(text).teacher).data.dataset == config.data.dataset


def test_overrides_go_over_the_recipe() -> None:
    config = recipes.load("digits", {"optim": {"lr": "0.5"}, "model": {"kwargs": {"embed_dim": 8}}})
    assert config.optim.lr == 0.5
    assert config.model.kwargs["embed_dim"] == 8
    assert config.data == recipes.load("digits").data


def test_a_file_may_build_on_a_file_and_that_on_a_shipped_recipe(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("base: digits\noptim:\n  lr: 5e-4\ntrain:\n  seed: 1\n")
    (tmp_path / "b.yml").write_text(f"base: {tmp_path / 'a.yaml'}\ntrain:\n  seed: 2\n")
    config = recipes.load(str(tmp_path / "b.yml"))
    assert config.train.seed == 2
    assert config.optim.lr == 5e-4
    assert config.data.samples_per_class == recipes.load("digits").data.samples_per_class


def test_a_circle_of_bases_is_told(tmp_path) -> None:
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(f"base: {b}\n")
    b.write_text(f"base: {a}\n")
    with pytest.raises(UserError, match=f"recipe: {a} -> {b} -> {a} goes round in a circle"):
        recipes.load(str(a))


def test_an_unknown_recipe_is_told_with_the_nearest(tmp_path) -> None:
    with pytest.raises(UserError, match=r"recipe: unknown value 'digit'; did you mean 'digits'\?"):
        recipes.load("digit")
    with pytest.raises(UserError, match=r"recipe: '.*none.yaml': there is no such file"):
        recipes.load(str(tmp_path / "none.yaml"))


def test_an_unknown_field_in_a_file_is_told_with_the_nearest(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("train:\n  sead: 1\n")
    with pytest.raises(UserError, match=r"config: unknown value 'train.sead'; did you mean 'train.seed'\?"):
        recipes.load(str(tmp_path / "a.yaml"))


def test_a_header_line_goes_on_in_the_next(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(
        "# what: a thing\n#   that goes on: here\n# measured: no\ntrain:\n  seed: 1\n# source: x\n"
    )
    assert recipes.header(str(tmp_path / "a.yaml")) == {"what": "a thing that goes on: here", "measured": "no"}
