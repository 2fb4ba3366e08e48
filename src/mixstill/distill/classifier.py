"""A classifier that is ready to use, from any SOURCE: run directory, weights file, timm name or hub id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data import ImageNetInfo
from timm.models import split_model_name_tag
from torch import nn

from mixstill import rng
from mixstill.checks import MOST_CLASSES, MOST_PIXELS
from mixstill.config import SMALL, Config
from mixstill.data.split import Split
from mixstill.distill.naming import differing
from mixstill.distill.placement import Placement
from mixstill.distill.registry import PREFIX
from mixstill.distill.resizing import student_weights
from mixstill.distill.student import Student
from mixstill.errors import UserError, nearest, one_line, shown
from mixstill.files import to_json
from mixstill.models import Weights, adapt, load_into, read_weights, write_weights
from mixstill.models.create import create_backbone, pixels
from mixstill.models.drop_path import schedule_drop_path
from mixstill.models.resizing import enlargement, resized
from mixstill.models.weights import SUFFIXES, check_fit, refuse_not_finite
from mixstill.normalisation import IMAGENET
from mixstill.paths import path_of
from mixstill.schema import from_dict, to_dict, without_removed
from mixstill.stored import BACKBONE, Stored, check_timm_folder
from mixstill.telling import deceives
from mixstill.texts import parse_object

WEIGHTS_FILE = "weights.safetensors"
EMA_FILE = "ema.safetensors"
HUB = ("hf-hub", "local-dir")  # what a name of timm's begins with that is an id of its hub, or a folder in its layout
_KEY = "mixstill"  # of the safetensors metadata
_LARGEST, _LEAST_STD = 1000, 1e-6  # of a mean or deviation of images in [0, 1]
_MOST = {"num_classes": MOST_CLASSES, "input_size": MOST_PIXELS}
SEEN = "pretrained_cfg"  # of the safetensors metadata of a stripped student: what timm's config.json would tell
_TOLD = ("mean", "std", "crop_pct", "label_names")


@dataclass(frozen=True)
class Facts:
    """What a model must be told besides its weights; mean and std are of the images that it expects, in [0, 1]."""

    num_classes: int
    classes: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, tuple) or len(values) != 3 or not all(map(_is_number, values)):
                raise ValueError(f"{name} {shown(values)} is not three numbers of {_LARGEST} at most")
        if not all(value >= _LEAST_STD for value in self.std):
            raise ValueError(f"std {self.std} is not positive, {_LEAST_STD} or more")
        for name, count in (("num_classes", self.num_classes), ("input_size", self.input_size)):
            if type(count) is not int or not 1 <= count <= _MOST[name]:
                raise ValueError(f"{name} {shown(count)} is not a whole number from 1 to {_MOST[name]}")
        if self.classes is None:
            return
        if not isinstance(self.classes, tuple) or not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"class names are not a list of texts: {shown(self.classes)}")
        odd = next(filter(deceives, self.classes), None)
        if odd is not None:
            raise ValueError(f"class name {shown(odd)} holds a control character")
        if len(self.classes) != self.num_classes:
            raise ValueError(f"{len(self.classes)} class names for {self.num_classes} classes")

    @classmethod
    def of(cls, data: Split, input_size: int) -> Facts:
        """The facts of what is trained on a data set at `input_size` pixels."""
        return cls(len(data.classes), data.classes, data.mean, data.std, input_size)

    def differing_class(self, classes: Sequence[str]) -> str | None:
        """The first class whose name is another than in `classes`, told; None where they fit or either has no names."""
        return differing(self.classes, classes)


def seen_as(facts: Facts, data: Mapping[str, Any]) -> Facts:
    """`facts` with the `mean` and `std` of raw fields of the data section. Raises `UserError` as their config does."""
    checked = from_dict({"data": {name: value for name, value in data.items() if name in ("mean", "std")}}).data
    return replace(facts, mean=checked.mean or facts.mean, std=checked.std or facts.std)


@dataclass(frozen=True)
class Classifier:
    """A model in eval mode, its facts, the name it goes by, and the config it was trained with where that is known.

    `stored` is that config as its file holds it: whoever takes more of it than the backbone must `check` it.
    """

    model: nn.Module
    facts: Facts
    name: str
    config: Config | None = None
    stored: Stored | None = None

    @property
    def crop_pct(self) -> float:
        """The share of a photo's resized side that it is evaluated on: the centre."""
        if self.config is not None:
            return self.config.data.crop if self.config.data.dataset not in SMALL else 1.0
        return _crop_pct(getattr(self.model, "pretrained_cfg", {}))


def _is_number(value: object) -> bool:
    """Whether it is a finite number of a size that means and deviations have, and not True or False."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _crop_pct(cfg: Mapping[str, Any]) -> float:
    """Of timm's cfg of a model. Raises `UserError` for what is no share."""
    told = cfg.get("crop_pct")
    if told is None:
        return 1.0
    if not _is_number(told) or not 0 < told <= 1:
        raise UserError(f"model: {cfg.get('architecture')!r} has crop_pct {told!r}, which is no share above 0, up to 1")
    return float(told)


def build_student(config: Config, num_classes: int) -> Student:
    """The student of a config, its weights drawn from `train.seed`."""
    plain = config.model.name.removeprefix(PREFIX)
    if plain != config.model.name and timm.is_model(config.model.name):
        raise UserError(f"model.name: {config.model.name!r} has modules already; name the backbone, {plain!r}")
    with rng.borrowed(config.train.seed & 0x7FFFFFFFFFFFFFFF):
        return _drawn(config, num_classes)


def _drawn(config: Config, num_classes: int) -> Student:
    backbone = create_backbone(
        config.model.name,
        num_classes,
        input_size=config.data.input_size,
        pretrained=config.model.pretrained,
        drop_path=config.model.drop_path,
        kwargs=config.model.kwargs,
    )
    if config.model.drop_path:
        schedule_drop_path(backbone, config.model.drop_path, config.model.drop_path_mode)
    return Student(
        backbone,
        [Placement.parse(text) for text in config.distill.teachers],
        tokens=config.distill.tokens,
        steps=config.distill.steps,
        propagate=config.distill.propagate,
    )


def sketch_student(config: Config) -> Student:
    """The student of `config` for two classes and without weights. Raises `UserError` if it cannot be built."""
    with torch.device("meta"):
        return build_student(_unfetched(config), num_classes=2)


def _unfetched(config: Config) -> Config:
    """`config` of a student whose weights come from elsewhere."""
    return replace(config, model=replace(config.model, pretrained=False))


def at_size(config: Config, input_size: int | None) -> Config:
    """`config` with another `data.input_size`, which an `img_size` for the backbone must not contradict."""
    kwargs = {name: value for name, value in config.model.kwargs.items() if name != "img_size"}
    data, model = replace(config.data, input_size=input_size), replace(config.model, kwargs=kwargs)
    return replace(config, data=data, model=model)


def enlarged(config: Config, backbone: nn.Module) -> Config:
    """`config` with the token mixing of a Mixer as wide as that of `backbone` gets at the size of `config`."""
    wider = enlargement(backbone, sketch_student(config).backbone)
    return replace(config, model=replace(config.model, kwargs=config.model.kwargs | wider))


def save_student(path: Path, student: nn.Module, config: Config, facts: Facts) -> None:
    """Write a student's weights with its config and facts in the file's metadata."""
    about = {"config": to_dict(config), "facts": asdict(facts)}
    write_weights(path, student.state_dict(), {_KEY: to_json(about)})


@rng.borrowed()
def load_classifier(
    source: str, *, model: str | None = None, ema: bool = False, input_size: int | None = None
) -> Classifier:
    """The classifier that `source` names, in eval mode on the CPU.

    Args:
        source: a run directory, a weights file, a folder in the layout of timm's hub, a timm name, or a hub id
            (`hf-hub:`, `local-dir:`).
        model: the timm name of the architecture of a weights file that does not tell it; any other must agree with it.
        ema: take a run's moving average of the weights.
        input_size: resize the weights to images of so many pixels per side; default: its own size.

    Raises:
        UserError: nothing of that name, a file that is damaged, foreign or refused, a config in it that asks for more
            than data may (`mixstill.stored`), weights that do not fit or are not finite, or a size that they cannot be
            resized to.
    """
    path = path_of(source, "source")
    is_run = path.is_dir() and ((path / "config.yaml").exists() or not (path / "config.json").exists())
    if ema and not is_run:
        raise UserError(f"--use-ema: {source!r} is no run directory, so it keeps no moving average beside its weights")
    if is_run:
        found = _from_file(_weights_of_run(path, ema), model, path.resolve().name, input_size)
    elif path.is_dir():
        found = _from_timm(f"local-dir:{path}", input_size)  # as `strip` and timm write it
    elif path.exists() or path.suffix in SUFFIXES:
        found = _from_file(path, model, path.stem, input_size)
    elif source.partition(":")[0] in HUB or timm.is_model(source.partition(".")[0]):
        found = _from_timm(source, input_size)
    else:
        near = nearest(source, timm.list_models())
        hint = "" if near is None else f"; did you mean {near!r}?"
        raise UserError(f"source: {source!r} is no run directory, weights file, timm name or hub id{hint}")
    holds = _architecture(found)
    if model is not None and split_model_name_tag(model)[0] != holds:
        raise UserError(f"--model: {model!r} is not taken: {source} holds a {holds}; leave it out")
    return found


def _architecture(classifier: Classifier) -> str:
    """The name that timm has for the architecture of the backbone."""
    if classifier.config is not None:
        return split_model_name_tag(classifier.config.model.name)[0]
    return str(cast(Any, classifier.model).pretrained_cfg["architecture"])


def _weights_of_run(run: Path, ema: bool) -> Path:
    path = run / (EMA_FILE if ema else WEIGHTS_FILE)
    if path.exists():
        return path
    if not (run / "config.yaml").exists():
        raise UserError(f"source: {str(run)!r} is not a run directory: it holds no config.yaml")
    if ema:
        raise UserError(f"source: the run {str(run)!r} keeps no moving average (train.ema_decay); leave --use-ema out")
    raise UserError(f"source: the run {str(run)!r} is not finished; mixstill train --resume --output {run} goes on")


def _from_file(path: Path, model: str | None, name: str, input_size: int | None) -> Classifier:
    weights = read_weights(path)
    if _KEY in weights.metadata:
        return _from_student(path, weights, name, input_size)
    told = weights.metadata.get("arch", "")
    adapted = adapt(model or (told if timm.is_model(told) else None), weights.state, str(path))
    kwargs = dict(adapted.kwargs)
    backbone = create_backbone(adapted.name, kwargs.pop("num_classes"), kwargs=kwargs)
    load_into(backbone, adapted.state, str(path))
    if SEEN in weights.metadata:
        cast(Any, backbone).pretrained_cfg = cast(Any, backbone).pretrained_cfg | _told(path, weights.metadata[SEEN])
    facts = _facts_of_timm(backbone)
    if adapted.normalisation is not None and SEEN not in weights.metadata:
        facts = replace(facts, mean=adapted.normalisation[0], std=adapted.normalisation[1])
    return _plain(backbone, facts, name, adapted.name, kwargs, input_size)


def _told(path: Path, text: str) -> dict[str, Any]:
    """How the images of a stripped student are seen, and its classes; nothing else is taken of what a file says."""
    try:
        cfg = parse_object(text)
        if not 0 < cfg.get("crop_pct", 1.0) <= 1:
            raise ValueError(f"{SEEN} is no mapping with a crop_pct in (0, 1]")
        return {name: cfg[name] for name in _TOLD if name in cfg}
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: its metadata is damaged: {one_line(error)}") from error


def _from_student(path: Path, weights: Weights, name: str, input_size: int | None) -> Classifier:
    try:
        about = parse_object(weights.metadata[_KEY])
        config = from_dict(without_removed(about["config"]))
        raw: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["facts"].items()}
        facts = Facts(**raw)
    except (AttributeError, KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path}: its metadata is damaged: {one_line(error)}") from error
    stored = Stored(path, config)
    stored.check(BACKBONE)
    with torch.device("meta"):  # what fits the file's tensors is no larger than they are
        check_fit(build_student(_unfetched(config), facts.num_classes), weights.state, str(path))
    student = build_student(_unfetched(config), facts.num_classes)
    load_into(student, weights.state, str(path))
    if input_size is not None and input_size != facts.input_size:
        config = enlarged(at_size(config, input_size), student.backbone)
        trained, student = student, build_student(_unfetched(config), facts.num_classes)
        load_into(student, student_weights(trained, student)[0], str(path))
        facts = replace(facts, input_size=input_size)
    return Classifier(student.eval(), facts, name, config, stored)


def pretrained(config: Config) -> Classifier:
    """How the weights that timm has for the backbone of `config` see images; the weights themselves are not fetched."""
    with torch.device("meta"):
        backbone = create_backbone(config.model.name, kwargs=config.model.kwargs)
    return Classifier(backbone, _facts_of_timm(backbone), config.model.name)


def _from_timm(name: str, input_size: int | None) -> Classifier:
    scheme, _, folder = name.partition(":")
    if scheme == "local-dir":
        check_timm_folder(Path(folder))
    backbone = create_backbone(name, pretrained=True)
    refuse_not_finite(backbone.state_dict(), name)
    return _plain(backbone, _facts_of_timm(backbone), name, name, {}, input_size)


def _plain(
    backbone: nn.Module, facts: Facts, name: str, model: str, kwargs: dict[str, Any], input_size: int | None
) -> Classifier:
    """The classifier of timm's `model` with `kwargs`, resized where another size than its own is asked for."""
    if input_size is not None and input_size != facts.input_size:
        backbone = resized(backbone, model, input_size, kwargs)
        facts = replace(facts, input_size=input_size)
    return Classifier(backbone.eval(), facts, name)


def _facts_of_timm(backbone: nn.Module) -> Facts:
    cfg: dict[str, Any] = cast(Any, backbone).pretrained_cfg
    num_classes = int(cast(Any, backbone).num_classes)
    names = cfg.get("label_names")
    if names is None and num_classes == 1000:
        info = ImageNetInfo()
        names = [info.index_to_description(index) for index in range(num_classes)]
    mean, std = cfg.get("mean") or IMAGENET[0], cfg.get("std") or IMAGENET[1]
    try:
        if isinstance(names, Mapping):  # of numbers, which timm knows too
            names = [names[number] for number in sorted(names, key=int)]
        listed: list[Any] = [tuple(value) if isinstance(value, list) else value for value in (names, mean, std)]
        facts = Facts(num_classes, listed[0], listed[1], listed[2], pixels(backbone))
        _crop_pct(cfg)
    except (TypeError, ValueError) as error:
        raise UserError(f"model: {cfg.get('architecture')!r} is no classifier of RGB images: {error}") from error
    return facts
