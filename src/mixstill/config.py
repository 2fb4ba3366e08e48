"""The frozen config of a run: one tree of dataclasses, checked when it is made, that a recipe names and a run saves.

A mistake raises `UserError` with the dotted field, the value and what would be valid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from mixstill.checks import MOST_CLASSES, MOST_PIXELS, Interval, check_fields, expansions
from mixstill.errors import UserError, shown, unknown

T = TypeVar("T")

# Intervals of whole numbers: beyond them no machine would come to an end, and some libraries break down.
_COUNT = "[1, 1000000]"  # epochs, samples of a batch
_MANY = "[1, 1000000000]"  # steps, samples of a data set
_CLASSES = f"[1, {MOST_CLASSES}]"
_PROCESSES = 1024  # or threads


def option(default: T, text: str, within: str | None = None) -> T:
    """A dataclass field with its default, its help text and the interval that it lies in, where it is a number."""
    about = {"help": text} | ({} if within is None else {"within": Interval.parse(within)})
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=about)  # type: ignore[return-value]
    return field(default=default, metadata=about)


def _require(valid: bool, name: str, value: object, rule: str) -> None:
    if not valid:
        raise UserError(f"{name}: {shown(value)} is not valid; it must be {rule}")


# Arguments of timm's create_model that something else decides.
_NOT_KWARGS = {
    "num_classes": "the data set tells it (--num-classes, where it cannot)",
    "drop_path_rate": "give it as --drop-path",
    "pretrained": "give it as --pretrained",
    "checkpoint_path": "start from a file by --init-from FILE",
    **dict.fromkeys(("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"), "the model's own is taken"),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone that is trained."""

    name: str = option("mixer_digits", "timm name of the backbone, mixstill's own included")
    kwargs: dict[str, Any] = option({}, "further arguments of the backbone, as --model.kwargs.depth 4")
    drop_path: float = option(0.0, "drop path rate (stochastic depth)", "[0, 1)")
    drop_path_mode: Literal["linear", "constant"] = option(
        "linear", "the rate grows linearly with the depth up to drop_path, or is the same in every block"
    )
    pretrained: bool = option(False, "start from timm's pretrained weights")
    init_from: str | None = option(
        None, "start from the weights of this run, or file, resized to data.input_size where that is another"
    )

    def __post_init__(self) -> None:
        check_fields(self, "model")
        for name in self.kwargs:
            if name in _NOT_KWARGS:
                value = shown(self.kwargs[name])
                raise UserError(f"model.kwargs.{name}: {value} is not taken here; {_NOT_KWARGS[name]}")
        _require(
            not (self.pretrained and self.init_from), "model.pretrained", True, "false where model.init_from is given"
        )


SMALL = ("digits", "cifar10", "cifar100")  # data sets of small images, which are held in memory
DATASETS = (*SMALL, "folder")
_MOST_SHARDS = 1_000_000
_COMMANDLESS = "a path or a name, such as --data-dir DIR; a command (pipe:) is never run"
CROP_PCT, VAL_FRACTION = 0.875, 0.1
SCHEMES = ("hfds", "hfids", "tfds", "torch", "wds")  # of timm's dataset factory


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained and evaluated on."""

    dataset: str = option(
        "digits",
        "digits, cifar10, cifar100, folder, or a scheme of timm: hfds/, hfids/, tfds/, torch/, wds/ and a name",
    )
    data_dir: str | None = option(None, "where the data set lies")
    train_split: str = option("train", "name of the split to train on, in a scheme of timm")
    test_split: str = option("validation", "name of the split to measure on, in a scheme of timm")
    input_key: str | None = option(None, "name of the images in a data set of the hub; default: timm's, image")
    target_key: str | None = option(None, "name of the labels in a data set of the hub; default: timm's, label")
    num_classes: int | None = option(None, "classes, where the data set cannot tell (iterable ones)", _CLASSES)
    num_samples: int | None = option(None, "training samples, where the data set cannot tell (iterable ones)", _MANY)
    resident: bool | None = option(
        None, "hold the decoded images in memory; default: digits and cifar are held, all others streamed"
    )
    workers: int = option(
        4, "processes that decode streamed images; 0: the training process itself", f"[0, {_PROCESSES}]"
    )
    mean: tuple[float, float, float] | None = option(
        None,
        "mean per channel, in [0, 1], that images are normalised by; default: that of the weights it starts from",
        "[0, 1]",
    )
    std: tuple[float, float, float] | None = option(
        None,
        "deviation per channel; without weights to start from mean and std are the data set's",
        "[0.000001, 1]",
    )
    crop_pct: float | None = option(
        None,
        "evaluation keeps this share of the resized side of a photo: the centre; default: that of the weights it "
        f"starts from, else {CROP_PCT}",
        "(0, 1]",
    )
    input_size: int | None = option(
        None,
        "pixels per side of what the student sees; default: that of the weights it starts from, or the backbone",
        f"[1, {MOST_PIXELS}]",
    )
    val_fraction: float | None = option(
        0.0,
        "share of train cut off as a fixed validation split, the same for every seed; none: "
        f"{VAL_FRACTION} where there is no test part",
        "[0, 1)",
    )
    samples_per_class: int | None = option(None, "train on this many fixed samples of each class; default: all", _MANY)
    download: bool = option(False, "fetch the data set into data_dir when it is not there")
    max_corrupt: int = option(0, "leave up to this many corrupt images out before the run stops", "[0, 1000000000]")

    def __post_init__(self) -> None:
        check_fields(self, "data")
        for name in ("dataset", "data_dir", "train_split", "test_split", "input_key", "target_key"):
            value = getattr(self, name)
            _require("pipe:" not in (value or "").lower(), f"data.{name}", value, _COMMANDLESS)
            _require(expansions(value or "") <= _MOST_SHARDS, f"data.{name}", value, f"{_MOST_SHARDS:,} shards at most")
        scheme, slash, rest = self.dataset.partition("/")
        if slash and scheme not in SCHEMES:
            raise unknown("data.dataset", self.dataset, [f"{name}/{rest}" for name in SCHEMES])
        if not slash and scheme not in DATASETS:
            raise unknown("data.dataset", self.dataset, [*DATASETS, *(f"{name}/NAME" for name in SCHEMES)])
        _require(not slash or bool(rest), "data.dataset", self.dataset, f"followed by a name: {scheme}/NAME")

    @property
    def crop(self) -> float:
        """The share of a photo's resized side that evaluation keeps."""
        return CROP_PCT if self.crop_pct is None else self.crop_pct


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How a training sample is varied. Names and meanings are those of timm's `create_transform` and of DeiT."""

    crop: Literal["pad", "rrc", "src"] = option(
        "pad", "pad and crop at random; random resized crop; DeiT III's simple random crop"
    )
    pad: int = option(4, "pad: pixels of padding before the random crop; 0: no crop", f"[0, {MOST_PIXELS}]")
    scale: tuple[float, float] = option((0.08, 1.0), "rrc: the crop's least and largest share of the area")
    ratio: tuple[float, float] = option((3 / 4, 4 / 3), "rrc: the crop's least and largest aspect ratio")
    interpolation: Literal["bicubic", "bilinear", "random"] = option(
        "bicubic", "of rrc and of the geometric operations; random: one of the two for each"
    )
    hflip: float = option(0.5, "probability of a horizontal flip", "[0, 1]")
    vflip: float = option(0.0, "probability of a vertical flip", "[0, 1]")
    aa: str | None = option(
        None, "RandAugment as timm writes it, rand-m9-mstd0.5-inc1; 3a: three-augment; default: none"
    )
    color_jitter: float = option(
        0.0, "brightness, contrast, saturation change by up to this share; off beside rand-*", "[0, 1000]"
    )
    reprob: float = option(0.0, "probability of random erasing", "[0, 1]")
    remode: Literal["pixel", "rand", "const"] = option(
        "pixel", "erase with normal noise per pixel, per channel, or with zeros (after normalisation)"
    )
    recount: int = option(1, "random erasing: most boxes per image", "[1, 1000]")
    resplit: bool = option(False, "random erasing leaves the first of aug_repeats views of a sample clean")
    aug_repeats: int = option(
        1, "views of a sample in a batch (repeated augmentation); an epoch sees fewer samples", "[1, 1000]"
    )
    mixup: float = option(0.0, "mixup: the alpha of its Beta distribution; 0: off", "[0, 1000000]")
    cutmix: float = option(0.0, "cutmix: the alpha of its Beta distribution; 0: off", "[0, 1000000]")
    cutmix_minmax: tuple[float, float] | None = option(
        None, "cutmix: least and largest share of each side, in place of cutmix's alpha"
    )
    mixup_prob: float = option(1.0, "probability that a batch is mixed at all", "[0, 1]")
    mixup_switch_prob: float = option(0.5, "probability of cutmix where both are on", "[0, 1]")

    def __post_init__(self) -> None:
        check_fields(self, "views")
        _require(not self.resplit or self.aug_repeats > 1, "views.resplit", True, "with views.aug_repeats of 2 or more")
        _require(_ordered(self.scale) and self.scale[1] <= 1, "views.scale", self.scale, "two ascending in (0, 1]")
        _require(_ordered(self.ratio), "views.ratio", self.ratio, "two ascending, positive")
        shares = self.cutmix_minmax
        _require(
            shares is None or (_ordered(shares) and shares[1] < 1),
            "views.cutmix_minmax",
            shares,
            "two ascending in (0, 1)",
        )


def _ordered(pair: tuple[float, float]) -> bool:
    return 0 < pair[0] <= pair[1]


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Who teaches, where, and by which loss (STD, Li et al., ICML 2022; DeiT, Touvron et al., ICML 2021)."""

    teachers: tuple[str, ...] = option((), "each SOURCE@PLACE, as resnet32@2/3 resnet56@last; none: plain training")
    kind: Literal["hard", "soft"] = option("hard", "the teacher's argmax, or its tempered distribution")
    alpha: float = option(0.5, "share of the distillation in the loss: (1-alpha) class + alpha distillation", "[0, 1]")
    tau: float = option(1.0, "temperature of soft distillation", "(0, inf)")
    weights: Literal["confidence", "entropy", "uniform"] = option(
        "confidence", "per-sample weights of several teachers: the surer counts more, the less sure, all alike"
    )
    tokens: Literal["spatial+channel", "spatial", "channel", "none"] = option(
        "spatial+channel", "tokens of a module; none: a linear head on the pooled features"
    )
    steps: int = option(1, "token updates K in a module", "[1, 1000]")
    propagate: bool = option(False, "a teacher's later module starts from the tokens of its earlier one (STD-57)")
    cache: str | None = option(
        None, "folder of the teachers' answers to each view: replayed where they are there, else put there"
    )
    cache_top_k: int | None = option(
        None,
        "keep each answer's k most probable classes and the others' probability as a whole; default: all classes",
        _CLASSES,
    )

    def __post_init__(self) -> None:
        check_fields(self, "distill")
        _require(self.cache != "", "distill.cache", self.cache, "a folder, or null for none")
        _require(
            not (self.propagate and self.tokens == "none"),
            "distill.propagate",
            True,
            "false where distill.tokens is none",
        )


@dataclass(frozen=True, kw_only=True)
class MutualInformationConfig:
    """The regulariser that pulls spatial and channel tokens apart (STD, Algorithm 1; MINE, Belghazi et al., 2018)."""

    weight: float = option(0.0, "weight of the mutual information in the student's loss; 0: off", "[0, inf)")
    every: Literal["step", "epoch"] = option("step", "regularise in each step, or once per epoch as the report does")
    lr: float = option(1e-4, "learning rate: of the statistics network (step), of both sides (epoch)", "(0, inf)")
    width: int = option(512, "width of the statistics network", "[1, 16384]")
    ema_rate: float = option(0.01, "rate of the running mean that corrects the gradient's bias", "(0, 1]")

    def __post_init__(self) -> None:
        check_fields(self, "mi")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule."""

    opt: str = option("adamw", "an optimizer of timm: adamw, lamb, ...; sgd is with Nesterov momentum")
    lr: float = option(1e-3, "peak learning rate, at a batch of lr_base_size where that is given", "(0, inf)")
    lr_base_size: int | None = option(
        None, "scale lr by batch_size / lr_base_size, as DeiT (512); default: lr as given", _MANY
    )
    weight_decay: float = option(0.05, "weight decay", "[0, inf)")
    no_decay: tuple[str, ...] = option((), "parameters to leave undecayed besides, by pattern: backbone.blocks.0.*")
    decay_all: bool = option(False, "decay biases, norms and tokens too")
    momentum: float = option(0.9, "momentum, of optimizers that have one", "[0, 1)")
    opt_eps: float | None = option(
        None, "epsilon, of optimizers that have one; default: the optimizer's own", "(0, inf)"
    )
    opt_betas: tuple[float, ...] | None = option(
        None, "betas, of optimizers that have them; default: their own", "[0, 1)"
    )
    clip_grad: float | None = option(None, "largest norm of the gradient; default: no clipping", "(0, inf)")
    warmup_epochs: float = option(5.0, "epochs of linear warm-up", "[0, 1000000]")
    warmup_lr: float = option(1e-6, "learning rate at the start of the warm-up", "[0, inf)")
    min_lr: float = option(1e-5, "learning rate at the end of the cosine", "[0, inf)")

    def __post_init__(self) -> None:
        check_fields(self, "optim")
        _require(
            not (self.no_decay and self.decay_all), "optim.no_decay", self.no_decay, "empty beside optim.decay_all"
        )


CompileMode = Literal["auto", "never", "always", "graphs"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    epochs: int = option(30, "passes over the training data; the schedule's length", _COUNT)
    max_steps: int | None = option(None, "stop after this many optimizer steps; the schedule stays as it is", _MANY)
    batch_size: int = option(128, "samples per optimizer step, over all processes and passes", _COUNT)
    device_batch_size: int | None = option(
        None, "most samples of one pass in one process; the passes per step follow from it; default: one pass", _COUNT
    )
    smoothing: float = option(0.1, "label smoothing of the class loss", "[0, 1)")
    ema_decay: float | None = option(None, "decay of the moving average of the weights; default: none kept", "(0, 1)")
    ema_warmup: bool = option(False, "let that decay grow from 0, as timm does")
    amp: bool = option(False, "bfloat16 autocast")
    grad_checkpointing: bool = option(False, "compute activations again in the backward pass instead of keeping them")
    compile: CompileMode = option(
        "auto", "torch.compile of student and teachers; graphs: with CUDA graphs; auto: where the run is long enough"
    )
    sync_bn: bool = option(False, "batch norm over all processes")
    seed: int = option(0, "the seed of everything random", "[0, 2**64)")
    device: str = option("auto", "cpu, cuda or cuda:N; auto: cuda where there is one")
    threads: int | None = option(
        None, "CPU threads; small models are often fastest with 1; default: PyTorch's own choice", f"[1, {_PROCESSES}]"
    )
    log_interval: int = option(50, "steps per line of metrics", _MANY)
    eval_interval: int = option(1, "epochs per evaluation and checkpoint; the last epoch has both", _COUNT)
    eval_batch_size: int = option(512, "samples per evaluation batch", _COUNT)
    checkpoint_interval: int | None = option(None, "steps per checkpoint, besides those of eval_interval", _MANY)
    tracker: Literal["tensorboard", "mlflow", "wandb", "trackio"] | None = option(
        None, "show the metrics there too, offline; metrics.jsonl is always written"
    )

    def __post_init__(self) -> None:
        check_fields(self, "train")
        _require(not self.ema_warmup or self.ema_decay is not None, "train.ema_warmup", True, "with train.ema_decay")


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
        check_fields(self)
        both = self.distill.tokens == "spatial+channel"
        if self.mi.weight > 0 and not both:
            raise UserError(f"mi.weight: needs distill.tokens 'spatial+channel', not {self.distill.tokens!r}")
