"""CIFAR-100: table 3.3.1 of the reproduction report, and the ablations of the paper's tables 3 to 7."""

from __future__ import annotations

from typing import Any

from mixstill.reproduction.rows import Experiment, Part, Published, Row, Scale, Teacher

_REPORT = "reproduction report, table 3.3.1"
_ZOO = "chenyaofo/pytorch-cifar-models"
_SMALL, _LARGE = "cifar100-resnet32", "cifar100-resnet56"
_NO_MI = {"mi": {"weight": 0.0}}


def _taught(*teachers: str) -> dict[str, Any]:
    return {"distill": {"teachers": list(teachers)}}


_ROWS = (
    Row(
        "plain",
        "no distillation (STD-53)",
        "main",
        "cifar100-mixer-s4",
        published=Published(70.68, 88.91, _REPORT),
    ),
    Row("std", "the paper's best: small teacher at 2/3, large one at the last block", "main", "cifar100-std"),
    Row(
        "std-57",
        "both teachers at 2/3 and last, tokens propagate",
        "main",
        "cifar100-std-propagate",
        published=Published(77.52, 94.82, _REPORT),
    ),
    Row(
        "std-52",
        "large teacher, last block",
        "main",
        "cifar100-std-r56",
        published=Published(77.24, 94.08, _REPORT),
    ),
    Row(
        "std-56",
        "both teachers, last block",
        "main",
        "cifar100-std-r32-r56",
        published=Published(76.93, 94.26, _REPORT),
    ),
    # below, each is `std` but for what it says
    Row("class-head", "the class head alone at inference", "head", head_of="std", head="class"),
    Row("distill-head", "the distillation heads alone at inference", "head", head_of="std", head="distill"),
    Row(
        "soft",
        "soft distillation, temperature 3, the same alpha",
        "kind",
        "cifar100-std",
        {"distill": {"kind": "soft", "tau": 3.0}},
    ),
    Row("no-mi", "no regulariser", "regulariser", "cifar100-std", _NO_MI),
    Row(
        "no-tokens",
        "linear heads on pooled features",
        "tokens",
        "cifar100-std",
        {"distill": {"tokens": "none"}} | _NO_MI,
    ),
    Row("spatial", "spatial tokens alone", "tokens", "cifar100-std", {"distill": {"tokens": "spatial"}} | _NO_MI),
    Row(
        "last", "both teachers at the last block", "places", "cifar100-std", _taught(f"{_SMALL}@last", f"{_LARGE}@last")
    ),
    Row("large", "the large teacher alone, last block", "teachers", "cifar100-std", _taught(f"{_LARGE}@last")),
    Row("small", "the small teacher alone, last block", "teachers", "cifar100-std", _taught(f"{_SMALL}@last")),
    Row("uniform", "all teachers weigh the same", "weights", "cifar100-std", {"distill": {"weights": "uniform"}}),
    Row("entropy", "the less sure teacher weighs more", "weights", "cifar100-std", {"distill": {"weights": "entropy"}}),
    Row(
        "mi-epoch",
        "the regulariser once per epoch as in the report: weight 1, SGD at 0.01 on all weights",
        "regulariser",
        "cifar100-std",
        {"mi": {"weight": 1.0, "every": "epoch", "lr": 0.01}},
    ),
    Row("deit", "DeiT's token in place of STD, large teacher", "deit", "cifar100-token"),
)

_PARTS = (
    Part("STD, the paper's best placement, over the plain student", "std", "plain"),
    Part("STD-57 over the plain student", "std-57", "plain"),
    Part("STD-52 over the plain student", "std-52", "plain"),
    Part("STD-56 over the plain student", "std-56", "plain"),
    Part("STD without its regulariser over the plain student", "no-mi", "plain"),
    Part("the distillation heads: their average with the class head over the class head alone", "std", "class-head"),
    Part("the distillation heads alone over the class head alone", "distill-head", "class-head"),
    Part("hard over soft distillation", "std", "soft"),
    Part("the regulariser, in each step, over none", "std", "no-mi"),
    Part("the regulariser as in the report, once per epoch, over none", "mi-epoch", "no-mi"),
    Part("tokens over linear heads on pooled features, without the regulariser", "no-mi", "no-tokens"),
    Part("the channel token beside the spatial one, without the regulariser", "no-mi", "spatial"),
    Part("the small teacher at 2/3 over both at the last block", "std", "last"),
    Part("both teachers over the large one, at the last block", "last", "large"),
    Part("both teachers over the small one, at the last block", "last", "small"),
    Part("confidence over uniform weights", "std", "uniform"),
    Part("confidence over entropy weights", "std", "entropy"),
    Part("one STD module and its regulariser over DeiT's token, the large teacher", "large", "deit"),
)

_FULL = Scale(
    "Mixer-S/4 at 32 pixels, 300 epochs; teachers ResNet-32 and ResNet-56, 200 epochs",
    models={},
    teachers={
        _SMALL: Teacher(_SMALL, Published(70.16, None, _ZOO)),
        _LARGE: Teacher(_LARGE, Published(72.63, None, _ZOO)),
    },
    student={},
    teacher={},
    gigabytes=8.0,
    published=True,
)
_MICRO = Scale(
    "a Mixer of 0.16 M parameters, 4 epochs; teachers ResNet-8 and ResNet-14, 5 epochs; crops and flips alone",
    models={"mixer_s4_32": "mixer_micro_32", "mixer_s4_distilled_32": "mixer_micro_distilled_32"},
    teachers={_SMALL: Teacher("cifar100-micro-teacher"), _LARGE: Teacher("cifar100-micro-large-teacher")},
    student={
        "model": {"drop_path": 0.0},
        "views": {"aa": None, "reprob": 0.0, "mixup": 0.0, "cutmix": 0.0},
        "optim": {"lr": 3e-3, "lr_base_size": None, "warmup_epochs": 0.5, "clip_grad": 1.0},
        "train": {"epochs": 4, "smoothing": 0.0, "threads": 1},
    },
    teacher={"optim": {"warmup_epochs": 0.5}, "train": {"epochs": 5, "threads": 1}},
    gigabytes=2.0,
)

CIFAR100 = Experiment("CIFAR-100", plain="plain", rows=_ROWS, parts=_PARTS, scales={"full": _FULL, "micro": _MICRO})
