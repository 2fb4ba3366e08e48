"""A run that starts from the weights of another, `model.init_from`: its config, and what goes on of those weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mixstill import recipes
from mixstill.config import Config
from mixstill.distill.classifier import Classifier, Facts, at_size, enlarged, load_classifier
from mixstill.distill.resizing import student_weights
from mixstill.distill.student import Student, backbone_of
from mixstill.errors import UserError
from mixstill.models.weights import load_into
from mixstill.paths import path_of
from mixstill.schema import RawConfig, from_dict, merge, to_dict
from mixstill.stored import ALL

RATIO = "mlp_ratio"  # the argument by which a Mixer is enlarged


def starting_config(recipe: str | None, overrides: Mapping[str, Any]) -> Config:
    """The config of a new run: a recipe's or, without one, that of the source of its weights, with `overrides` over it.

    The token mixing of a Mixer gets as wide as the block-diagonal scheme needs it where its grid is K times as large
    per side, unless the overrides name an `mlp_ratio`.

    Raises `UserError` for weights that cannot be had or do not tell their config, and as `recipes.load`.
    """
    over = _trained_already(overrides)
    if recipe is None:
        source = _source(str(over["model"]["init_from"]))
        config = _continued(source, over)
    else:
        config = recipes.load(recipe, over)
        if config.model.init_from is None:
            return config
        source = _source(config.model.init_from, config.model.name)
    return _absolute(config if _names_ratio(over) else enlarged(config, backbone_of(source.model)))


def resumed_config(recipe: str | None, overrides: Mapping[str, Any], saved: Config) -> Config:
    """The config of the run `saved` that is gone on with, as `starting_config` made it of the same words.

    What the run started from is not needed any more.
    """
    over = _trained_already(overrides)
    config = from_dict(merge(to_dict(saved), over)) if recipe is None else recipes.load(recipe, over)
    if config.model.init_from != saved.model.init_from:
        config = _absolute(config)
    wider = {key: value for key, value in saved.model.kwargs.items() if key == RATIO}
    if config.model.init_from is None or _names_ratio(over):
        return config
    return replace(config, model=replace(config.model, kwargs=config.model.kwargs | wider))


def _trained_already(overrides: Mapping[str, Any]) -> RawConfig:
    """`overrides` by which nothing pretrained is fetched where they name weights to start from."""
    named = overrides.get("model", {}).get("init_from")
    return merge({"model": {"pretrained": False}} if named else {}, overrides)


def _names_ratio(overrides: Mapping[str, Any]) -> bool:
    return RATIO in overrides.get("model", {}).get("kwargs", {})


def _continued(source: Classifier, over: RawConfig) -> Config:
    """The config of the source with `over` put over it."""
    if source.config is None or source.stored is None:
        raise UserError(f"model.init_from: {source.name!r} does not tell its config; name a recipe before it")
    source.stored.check(ALL, over)
    config = from_dict(merge(to_dict(source.config), over))
    resized = "input_size" in over.get("data", {}) and "img_size" not in over["model"].get("kwargs", {})
    return at_size(config, config.data.input_size) if resized else config


def start(student: Student, config: Config, facts: Facts) -> list[str]:
    """Give the student the weights of `model.init_from`, and tell in a few lines what goes on and what begins anew.

    Args:
        student: as its config says, its weights new.
        config: of the run.
        facts: of what it is trained on. The heads go on where these are the source's classes.

    Raises:
        UserError: weights that cannot be had, do not fit, or cannot be resized.
    """
    if config.model.init_from is None:
        return []
    source = _source(config.model.init_from, config.model.name)
    known = source.facts
    same = known.num_classes == facts.num_classes and known.differing_class(facts.classes or ()) is None
    state, anew = student_weights(source.model, student, heads=same)
    load_into(student, state, f"model.init_from: {config.model.init_from}")
    sizes = "" if known.input_size == facts.input_size else f", resized from {known.input_size} to {facts.input_size}"
    lines = [f"starts from the weights of {source.name}{sizes and f'{sizes} pixels'}"]
    if not same:
        lines.append(f"heads begin anew: {facts.num_classes} classes in the place of {known.num_classes} others")
    if anew:
        lines.append(f"token modules begin anew: {', '.join(map(str, anew))}")
    return lines


def _source(path: str, model: str | None = None) -> Classifier:
    if not path_of(path, "model.init_from").exists():
        raise UserError(f"model.init_from: there is no {path!r}; name a run directory or a weights file")
    try:
        try:
            return load_classifier(path)
        except UserError:
            if model is None:
                raise
            return load_classifier(path, model=model)  # a file that does not tell its architecture
    except UserError as error:
        raise UserError(f"model.init_from: {error}") from error


def _absolute(config: Config) -> Config:
    """`config` with the path as it is found from any folder."""
    path = config.model.init_from
    full = None if path is None else str(path_of(path, "model.init_from").resolve())
    return replace(config, model=replace(config.model, init_from=full))
