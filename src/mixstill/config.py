"""The frozen config of a run: one tree of dataclasses, checked when it is made, that a recipe names and a run saves.

A mistake raises `UserError` with the dotted field, the value and what would be valid.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from mixstill.errors import UserError, one_line, unknown
from mixstill.files import write_atomically

RawConfig = dict[str, Any]


T = TypeVar("T")


def option(default: T, text: str) -> T:
    """A dataclass field with its default and its help text."""
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"help": text})  # type: ignore[return-value]
    return field(default=default, metadata={"help": text})


def _require(valid: bool, name: str, value: object, rule: str) -> None:
    if not valid:
        raise UserError(f"{name}: {value!r} is not valid; it must be {rule}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone that is trained."""

    name: str = option("mixer_digits", "timm name of the backbone, mixstill's own included")
    kwargs: dict[str, Any] = option({}, "further arguments of the backbone, as --model.kwargs.depth 4")
    drop_path: float = option(0.0, "drop path rate, as the backbone applies it")
    pretrained: bool = option(False, "start from timm's pretrained weights")

    def __post_init__(self) -> None:
        _require(0 <= self.drop_path < 1, "model.drop_path", self.drop_path, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained and evaluated on."""

    dataset: Literal["digits", "cifar10", "cifar100", "folder"] = option("digits", "the data set")
    data_dir: str | None = option(None, "where the data set lies")
    input_size: int | None = option(None, "pixels per side of what the student sees; default: the backbone's own")
    val_fraction: float = option(0.0, "share of train cut off as a fixed validation split, the same for every seed")
    samples_per_class: int | None = option(None, "train on this many fixed samples of each class; default: all")
    download: bool = option(False, "fetch the data set into data_dir when it is not there")
    skip_corrupt: bool = option(False, "leave corrupt images out instead of stopping")

    def __post_init__(self) -> None:
        _require(self.input_size is None or self.input_size > 0, "data.input_size", self.input_size, "positive")
        _require(0 <= self.val_fraction < 1, "data.val_fraction", self.val_fraction, "in [0, 1)")
        few = self.samples_per_class
        _require(few is None or few > 0, "data.samples_per_class", few, "positive")


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How a training sample is varied."""

    pad: int = option(4, "pixels of padding before the random crop; 0: no crop")
    hflip: float = option(0.5, "probability of a horizontal flip")
    mixup: float = option(0.0, "mixup: the alpha of its Beta distribution; 0: off")
    cutmix: float = option(0.0, "cutmix: the alpha of its Beta distribution; 0: off")
    mixup_prob: float = option(1.0, "probability that a batch is mixed at all")
    mixup_switch_prob: float = option(0.5, "probability of cutmix where both are on")

    def __post_init__(self) -> None:
        for name in ("pad", "mixup", "cutmix"):
            _require(getattr(self, name) >= 0, f"views.{name}", getattr(self, name), "0 or more")
        for name in ("hflip", "mixup_prob", "mixup_switch_prob"):
            _require(0 <= getattr(self, name) <= 1, f"views.{name}", getattr(self, name), "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Who teaches, where, and by which loss (STD, Li et al., ICML 2022; DeiT, Touvron et al., ICML 2021)."""

    teachers: tuple[str, ...] = option((), "each SOURCE@PLACE, as resnet32@2/3 resnet56@last; none: plain training")
    kind: Literal["hard", "soft"] = option("hard", "the teacher's argmax, or its tempered distribution")
    alpha: float = option(0.5, "share of the distillation in the loss: (1-alpha) class + alpha distillation")
    tau: float = option(1.0, "temperature of soft distillation")
    weights: Literal["confidence", "entropy", "uniform"] = option(
        "confidence", "per-sample weights of several teachers: the surer counts more, the less sure, all alike"
    )
    tokens: Literal["spatial+channel", "spatial", "channel", "none"] = option(
        "spatial+channel", "tokens of a module; none: a linear head on the pooled features"
    )
    steps: int = option(1, "token updates K in a module")
    propagate: bool = option(False, "a teacher's later module starts from the tokens of its earlier one (STD-57)")

    def __post_init__(self) -> None:
        _require(0 <= self.alpha <= 1, "distill.alpha", self.alpha, "in [0, 1]")
        _require(self.tau > 0, "distill.tau", self.tau, "positive")
        _require(self.steps >= 1, "distill.steps", self.steps, "1 or more")
        _require(
            not (self.propagate and self.tokens == "none"),
            "distill.propagate",
            True,
            "false where distill.tokens is none",
        )


@dataclass(frozen=True, kw_only=True)
class MutualInformationConfig:
    """The regulariser that pulls spatial and channel tokens apart (STD, Algorithm 1; MINE, Belghazi et al., 2018)."""

    weight: float = option(0.0, "weight of the mutual information in the student's loss; 0: off")
    every: Literal["step", "epoch"] = option("step", "regularise in each step, or once per epoch as the report does")
    lr: float = option(1e-4, "learning rate: of the statistics network (step), of both sides (epoch)")
    width: int = option(512, "width of the statistics network")
    ema_rate: float = option(0.01, "rate of the running mean that corrects the gradient's bias")

    def __post_init__(self) -> None:
        _require(self.weight >= 0, "mi.weight", self.weight, "0 or more")
        _require(self.lr > 0, "mi.lr", self.lr, "positive")
        _require(self.width > 0, "mi.width", self.width, "positive")
        _require(0 < self.ema_rate <= 1, "mi.ema_rate", self.ema_rate, "in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule. Rates are as given: nothing is scaled by the batch size."""

    opt: Literal["adamw", "sgd"] = option("adamw", "the optimizer; sgd is with Nesterov momentum")
    lr: float = option(1e-3, "peak learning rate")
    weight_decay: float = option(0.05, "weight decay")
    decay_all: bool = option(False, "decay biases, norms and tokens too")
    momentum: float = option(0.9, "momentum of sgd")
    opt_eps: float = option(1e-8, "epsilon of adamw")
    opt_betas: tuple[float, float] = option((0.9, 0.999), "betas of adamw")
    clip_grad: float | None = option(None, "largest norm of the gradient; default: no clipping")
    warmup_epochs: float = option(5.0, "epochs of linear warm-up")
    warmup_lr: float = option(1e-6, "learning rate at the start of the warm-up")
    min_lr: float = option(1e-5, "learning rate at the end of the cosine")

    def __post_init__(self) -> None:
        _require(self.lr > 0, "optim.lr", self.lr, "positive")
        _require(self.opt_eps > 0, "optim.opt_eps", self.opt_eps, "positive")
        _require(all(0 <= beta < 1 for beta in self.opt_betas), "optim.opt_betas", self.opt_betas, "two in [0, 1)")
        for name in ("weight_decay", "warmup_epochs", "warmup_lr", "min_lr"):
            _require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "0 or more")
        _require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "in [0, 1)")
        _require(self.clip_grad is None or self.clip_grad > 0, "optim.clip_grad", self.clip_grad, "positive")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    epochs: int = option(30, "passes over the training data; the schedule's length")
    max_steps: int | None = option(None, "stop after this many optimizer steps; the schedule stays as it is")
    batch_size: int = option(128, "samples per optimizer step, over all processes and micro-batches")
    micro_batches: int = option(1, "split each batch into this many forward and backward passes")
    smoothing: float = option(0.1, "label smoothing of the class loss")
    ema_decay: float | None = option(None, "decay of the moving average of the weights; default: none kept")
    amp: bool = option(False, "bfloat16 autocast")
    seed: int = option(0, "the seed of everything random")
    device: str = option("auto", "cpu, cuda or cuda:N; auto: cuda where there is one")
    threads: int | None = option(
        None, "CPU threads; small models are often fastest with 1; default: PyTorch's own choice"
    )
    log_interval: int = option(50, "steps per line of metrics")
    eval_interval: int = option(1, "epochs per evaluation and checkpoint; the last epoch has both")
    eval_batch_size: int = option(512, "samples per evaluation batch")
    checkpoint_interval: int | None = option(None, "steps per checkpoint, besides those of eval_interval")

    def __post_init__(self) -> None:
        whole = ("epochs", "batch_size", "micro_batches", "log_interval", "eval_interval", "eval_batch_size")
        for name in (*whole, "threads", "max_steps", "checkpoint_interval"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"train.{name}", value, "positive")
        _require(0 <= self.smoothing < 1, "train.smoothing", self.smoothing, "in [0, 1)")
        _require(self.ema_decay is None or 0 < self.ema_decay < 1, "train.ema_decay", self.ema_decay, "in (0, 1)")
        _require(0 <= self.seed < 2**64, "train.seed", self.seed, "in [0, 2**64)")
        fits = self.micro_batches <= self.batch_size
        _require(fits, "train.micro_batches", self.micro_batches, "at most train.batch_size")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that a run depends on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    mi: MutualInformationConfig = field(default_factory=MutualInformationConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        both = self.distill.tokens == "spatial+channel"
        if self.mi.weight > 0 and not both:
            raise UserError(f"mi.weight: needs distill.tokens 'spatial+channel', not {self.distill.tokens!r}")


# What a resumed run may change: it does not touch the mathematics of the run.
FREE_ON_RESUME = (
    "data.data_dir",
    "data.download",
    "train.device",
    "train.max_steps",
    "train.eval_batch_size",
    "train.checkpoint_interval",
)


@dataclass(frozen=True)
class Field:
    """One leaf of the config: its dotted name, type, default and help."""

    name: str
    type: Any
    default: Any
    help: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The valid words, where the field takes one of a few."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def optional(self) -> bool:
        """Whether the field may be null."""
        return type(None) in get_args(self.type)


@cache
def fields() -> dict[str, Field]:
    """Every leaf of `Config` by its dotted name, in order."""
    leaves = {}
    for section, kind in get_type_hints(Config).items():
        types = get_type_hints(kind)
        for leaf in dataclasses.fields(kind):
            default = {} if leaf.default is dataclasses.MISSING else leaf.default
            name = f"{section}.{leaf.name}"
            leaves[name] = Field(name, types[leaf.name], default, leaf.metadata["help"])
    return leaves


@cache
def _parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    return parser


def from_dict(raw: Mapping[str, Any]) -> Config:
    """The config of a nested mapping; text is read as the field's type, `distill.teachers` may be one string.

    Raises `UserError` for an unknown field (with the nearest one), a wrong type or a value out of range.
    """
    merged: RawConfig = {}
    for section, values in raw.items():
        if section not in get_type_hints(Config):
            raise unknown("config", section, {*get_type_hints(Config), *fields()})
        if not isinstance(values, Mapping):
            raise UserError(f"{section}: expected a mapping of fields, got {values!r}")
        merged[section] = {name: _checked(f"{section}.{name}", value) for name, value in values.items()}
    try:
        namespace = _parser().parse_object(merged)
    except (jsonargparse.ArgumentError, TypeError) as error:
        raise UserError(_explain(one_line(error))) from error
    return Config(**vars(_parser().instantiate(namespace)))


def _checked(name: str, value: Any) -> Any:
    """The value of one field as the parser wants it, after the checks that the parser words badly or leaves out."""
    if name not in fields():
        raise unknown("config", name, fields())
    leaf = fields()[name]
    if leaf.choices and value not in leaf.choices:
        raise unknown(name, value, leaf.choices)
    if value is None and not leaf.optional:
        raise UserError(f"{name}: a value is needed, got null")
    if isinstance(value, float):
        _require(math.isfinite(value), name, value, "finite")
    if name == "distill.teachers":
        value = _words(name, value) if isinstance(value, str) else value
        if not isinstance(value, list | tuple):
            raise UserError(f"{name}: expected text or a list of texts, got {value!r}")
    return value


def _words(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{name}: {text!r} cannot be split into words: {one_line(error)}") from error


def _explain(message: str) -> str:
    """jsonargparse's message with its parser's words taken out."""
    for old, new in (('Parser key "', ""), ('": ', ": "), ("<class '", ""), ("'>", ""), ("Expected a ", "expected ")):
        message = message.replace(old, new)
    return message.replace(". Got value: ", ", got ")


def to_dict(config: Config) -> RawConfig:
    """The config as nested plain values, ready for YAML and JSON."""
    raw = dataclasses.asdict(config)
    return {section: {name: _plain(value) for name, value in leaves.items()} for section, leaves in raw.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> RawConfig:
    """`base` with the leaves of `over` put over it, section by section. Neither argument is changed."""
    result = {name: merge(value, {}) if isinstance(value, Mapping) else value for name, value in base.items()}
    for name, value in over.items():
        below = result.get(name)
        nested = isinstance(value, Mapping)
        result[name] = merge(below if isinstance(below, Mapping) else {}, value) if nested else value
    return result


def differences(old: Config, new: Config) -> list[str]:
    """`field: old -> new` for each leaf that differs and that a resumed run may not change."""
    before, after = to_dict(old), to_dict(new)
    lines = []
    for dotted in fields():
        section, name = dotted.split(".")
        was, now = before[section][name], after[section][name]
        if was != now and dotted not in FREE_ON_RESUME:
            lines.append(f"{dotted}: {was!r} -> {now!r}")
    return lines


def read_yaml(path: Path) -> RawConfig:
    """The mapping in a YAML file. Raises `UserError` if the file cannot be read or holds no mapping."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {one_line(error)}") from error
    if not isinstance(raw, Mapping):
        raise UserError(f"{path}: expected a mapping of config sections, got {type(raw).__name__}")
    return dict(raw)


def write_yaml(config: Config, path: Path) -> None:
    """Write the whole resolved config, atomically."""
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_atomically(path, text.encode())
