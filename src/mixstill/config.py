"""The frozen config of a run: one tree of dataclasses, checked when it is made, that a recipe names and a run saves.

A mistake raises `UserError` with the dotted field, the value and what would be valid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from mixstill.errors import UserError

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
