"""Fields that a config leaves without effect: naming one on a command line is a mistake, not a silent nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mixstill.config import SMALL, Config
from mixstill.errors import UserError
from mixstill.schema import RawConfig, fields

Rule = tuple[tuple[str, ...], Callable[[Config], bool], Callable[[Config], str]]


def _scheme(config: Config) -> str:
    return config.data.dataset.partition("/")[0]


def _on_dataset(config: Config) -> str:
    return f"the data set {config.data.dataset}"


def _because(text: str) -> Callable[[Config], str]:
    return lambda _: text


# The fields, when they are without effect, and what makes them so.
RULES: tuple[Rule, ...] = (
    (("data.data_dir", "data.download"), lambda c: c.data.dataset == "digits", _on_dataset),
    (("data.train_split", "data.test_split"), lambda c: "/" not in c.data.dataset, _on_dataset),
    (("data.input_key", "data.target_key"), lambda c: c.data.dataset in SMALL, _on_dataset),
    (("data.num_classes", "data.crop_pct", "data.workers"), lambda c: c.data.dataset in SMALL, _on_dataset),
    (("data.num_samples",), lambda c: _scheme(c) not in ("hfids", "wds", "tfds"), _on_dataset),
    (("data.download",), lambda c: c.data.dataset == "folder", _on_dataset),
    (("views.pad",), lambda c: c.views.crop != "pad", lambda c: f"views.crop {c.views.crop}"),
    (("views.scale", "views.ratio"), lambda c: c.views.crop != "rrc", lambda c: f"views.crop {c.views.crop}"),
    (("views.remode", "views.recount"), lambda c: c.views.reprob == 0, _because("views.reprob 0")),
    (
        ("views.mixup_prob", "views.mixup_switch_prob"),
        lambda c: not (c.views.mixup or c.views.cutmix or c.views.cutmix_minmax),
        _because("neither mixup nor cutmix"),
    ),
    (
        tuple(name for name in fields() if name.startswith("distill.") and name != "distill.teachers"),
        lambda c: not c.distill.teachers,
        _because("no teachers; name them by --teachers"),
    ),
    (("distill.tau",), lambda c: c.distill.kind == "hard", _because("distill.kind hard")),
    (("mi.every", "mi.lr", "mi.width", "mi.ema_rate"), lambda c: c.mi.weight == 0, _because("mi.weight 0")),
    (("optim.warmup_lr",), lambda c: c.optim.warmup_epochs == 0, _because("optim.warmup_epochs 0")),
)


def refuse_unused(config: Config, typed: RawConfig) -> None:
    """Raises `UserError` for a field that was typed, with another value than its default, but has no effect.

    Where no teachers are typed (`--teachers none`), all about them may be: so the control is the same command.
    """
    given = {f"{section}.{name}": value for section, values in typed.items() for name, value in values.items()}
    for names, unused, why in RULES:
        for name in names:
            control = not config.distill.teachers and "distill.teachers" in given and name.startswith("distill.")
            if name in given and not control and unused(config) and _value(config, name) != fields()[name].default:
                raise UserError(f"{name}: {_value(config, name)!r} has no effect with {why(config)}")


def _value(config: Config, name: str) -> Any:
    section, _, leaf = name.partition(".")
    return getattr(getattr(config, section), leaf)
