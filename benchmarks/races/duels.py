"""Who meets whom in which race, what our side is then told, and where the two do more or less work."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from task import Task

from mixstill import recipes
from mixstill.config import Config

_RESIZED = {"crop": "rrc", "scale": [0.08, 1.0], "ratio": [0.75, 4 / 3]}  # the only crop that train.py has
_RATE: dict[str, Any] = {"warmup_epochs": 0.0, "lr": 5e-4, "lr_base_size": 512}

_VIEWS = "Both draw the same policy, each with its own generator: the images differ."
_PREFETCH = "Its loader's workers read ahead while its step runs, as many as `workers`; ours has none."
_NORMAL = "It normalises by ImageNet's statistics for student and teachers alike; ours by CIFAR-100's."


@dataclass(frozen=True)
class Duel:
    """Contenders who take turns; the first is the one that the others are measured against.

    contenders: name -> (the file that drives it, its variant).
    recipe, overrides: the config of our side.
    races: those that it is part of.
    checkout: the option that names the repository of the other side; None where there is none.
    differences: where one does more or less work.
    """

    contenders: dict[str, tuple[str, str]]
    recipe: str
    races: tuple[str, ...]
    overrides: dict[str, Any] = field(default_factory=dict)
    checkout: str | None = None
    differences: tuple[str, ...] = ()


DUELS = {
    "std": Duel(
        {"ours": ("ours", "live"), "std": ("their_std", "")},
        "cifar100-std",
        ("full", "student", "views", "teacher", "epoch"),
        {"mi": {"every": "epoch"}},
        "std",
        (
            "std puts both teachers on one chain of tokens at 2/3 and at the last block: two token layers, one output "
            "row for both teachers, two heads at the end. Ours has two separate modules with a head each: as many "
            "token layers, as many heads.",
            "std weighs the teachers once per batch, ours each sample; both sum to 1.",
            "std keeps token layers in all blocks; those that no forward reaches get no gradient, and the optimizer "
            "skips them.",
            "std waits for the loss of every step and prints each tenth; ours reads them at the end of a window.",
            _NORMAL,
            _VIEWS,
            _PREFETCH,
        ),
    ),
    "timm-kd": Duel(
        {"ours": ("ours", "live"), "timm": ("their_timm", "kd")},
        "cifar100-soft",
        ("full", "teacher", "epoch"),
        {"views": _RESIZED},
        "timm",
        (
            "One teacher, at the class head: 0.9 class loss + 0.1 * 9 * KL at temperature 3, on both sides.",
            "train.py waits for the loss of every step.",
            _VIEWS,
            _PREFETCH,
        ),
    ),
    "timm": Duel(
        {"ours": ("ours", "plain"), "timm": ("their_timm", "plain")},
        "cifar100-mixer-s4",
        ("full", "student", "views", "epoch"),
        {"views": _RESIZED},
        "timm",
        ("No teacher: views, student and optimizer.", "train.py waits for the loss of every step.", _VIEWS, _PREFETCH),
    ),
    "deit": Duel(
        {"ours": ("ours", "live"), "deit": ("their_deit", "")},
        "cifar100-token",
        ("full", "student", "views", "teacher", "epoch"),
        {},
        "deit",
        (
            "The student is mixstill's Mixer with DeiT's token on both sides, since DeiT's own models have no size for "
            "32 pixels; teacher, loss, loader and loop are DeiT's.",
            "DeiT's code fixes its precision: float16 autocast on CUDA, float32 on a CPU, and never compiles.",
            "It waits for the loss of every step.",
            "Epoch race: both keep a moving average of the weights, without which DeiT writes no checkpoint.",
            _NORMAL,
            _VIEWS,
            _PREFETCH,
        ),
    ),
    "distillation": Duel(
        {name: ("ours", name) for name in ("plain", "cached", "live", "soft-cached", "soft-live")},
        "cifar100-std",
        ("overhead",),
        {"mi": {"weight": 0.0}},
        None,
        (
            "plain: the student without modules and teachers. cached, live: two modules, two teachers, their answers "
            "from the cache or computed. soft-*: one teacher at the class head, so no module.",
        ),
    ),
    "inference": Duel(
        {"ours": ("inference", "stripped"), "timm": ("inference", "timm")},
        "cifar100-std",
        ("inference",),
        {},
        None,
        ("The class head of a student with two modules after `mixstill strip`, and the same weights in timm's model.",),
    ),
}


def config(task: Task) -> Config:
    """The config of our side of a duel."""
    duel = DUELS[task.duel]
    soft = task.variant.startswith("soft-")
    found = recipes.load("cifar100-soft" if soft else duel.recipe, {} if soft else duel.overrides)
    small, large = (f"{name}={task.path('teachers', f'{name}.safetensors')}" for name in task.teachers)
    files = {"cifar100-resnet32": small, "cifar100-resnet56": large}
    pairs = [text.split("@") for text in found.distill.teachers]
    teachers = tuple(f"{files[name]}@{place}" for name, place in pairs)
    teacherless = task.race == "student" or task.variant == "plain"
    cache = task.path("cache", task.variant) if task.variant.endswith("cached") else None
    name = task.token_student if found.model.name == "mixer_s4_distilled_32" and not teacherless else task.student
    return replace(
        found,
        model=replace(found.model, name=name, drop_path=0.0),
        data=replace(found.data, data_dir=task.path("parquet")),
        distill=replace(found.distill, teachers=() if teacherless else teachers, cache=cache),
        mi=replace(found.mi, weight=0.0 if teacherless else found.mi.weight),
        optim=replace(found.optim, **_RATE),
        train=replace(
            found.train,
            batch_size=task.batch_size,
            epochs=1 if task.race == "epoch" else found.train.epochs,
            amp=task.amp,
            ema_decay=0.99996 if task.race == "epoch" and task.duel == "deit" else None,
            compile="never" if not task.compiled else "graphs" if task.device == "cuda" else "always",
            device=task.device,
        ),
    )
