"""A run that starts from the weights of another, `model.init_from`: its config, and what goes on of those weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mixstill import recipes
from mixstill.config import SMALL, Config, DataConfig
from mixstill.data import cut
from mixstill.data.images import normalisation_of
from mixstill.distill.classifier import (
    HUB,
    Classifier,
    Facts,
    at_size,
    enlarged,
    load_classifier,
    pretrained,
    sketch_student,
)
from mixstill.distill.resizing import student_weights
from mixstill.distill.student import Student, backbone_of
from mixstill.errors import UserError
from mixstill.models.create import pixels
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
        config = replace(config, data=cut(config.data))
        if config.model.init_from is None:
            return seen_by(config, pretrained(config)) if config.model.pretrained else config
        source = _source(config.model.init_from, config.model.name)
    config = seen_by(config, source)
    return _absolute(config if _names_ratio(over) else enlarged(config, backbone_of(source.model)))


def resumed_config(recipe: str | None, overrides: Mapping[str, Any], saved: Config) -> Config:
    """The config of the run `saved` that is gone on with, as `starting_config` made it of the same words.

    What the run started from is not needed any more.
    """
    over = _trained_already(overrides)
    config = from_dict(merge(to_dict(saved), over)) if recipe is None else recipes.load(recipe, over)
    if config.model.init_from != saved.model.init_from:
        config = _absolute(config)
    config = replace(config, data=_as_it_was(config, saved))
    wider = {key: value for key, value in saved.model.kwargs.items() if key == RATIO}
    if config.model.init_from is None or _names_ratio(over):
        return config
    return replace(config, model=replace(config.model, kwargs=config.model.kwargs | wider))


def seen_by(config: Config, source: Classifier) -> Config:
    """`config` with images as the weights of `source` are used to them, in what it leaves open.

    These are mean and deviation, pixels per side and, of photos, the share that evaluation keeps.
    """
    data, own = config.data, source.facts
    mean, std = normalisation_of(data)
    changed: dict[str, Any] = {}
    if data.mean is None and own.mean != mean:
        changed["mean"] = own.mean
    if data.std is None and own.std != std:
        changed["std"] = own.std
    if data.crop_pct is None and data.dataset not in SMALL and source.crop_pct != data.crop:
        changed["crop_pct"] = source.crop_pct
    if data.input_size is None and "img_size" not in config.model.kwargs:
        built_for = pixels(sketch_student(config).backbone)
        changed |= {"input_size": own.input_size} if own.input_size != built_for else {}
    return replace(config, data=replace(data, **changed))


def _as_it_was(config: Config, saved: Config) -> DataConfig:
    """`config.data` with what it leaves open as the run `saved` found it when it began."""
    open_ = ["val_fraction"]
    if config.model.init_from is not None or config.model.pretrained:
        open_ += ["mean", "std", "crop_pct", "input_size"]
    found = {name: getattr(saved.data, name) for name in open_ if getattr(config.data, name) is None}
    return replace(config.data, **found)


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
    if path.partition(":")[0] not in HUB and not path_of(path, "model.init_from").exists():
        raise UserError(
            f"model.init_from: there is no {path!r}; name a run directory, a weights file or a stripped folder"
        )
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
    local = path is not None and path.partition(":")[0] not in HUB
    full = str(path_of(str(path), "model.init_from").resolve()) if local else path
    return replace(config, model=replace(config.model, init_from=full))
