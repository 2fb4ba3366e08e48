"""The words of a command line, `--a.b value ...`, as a nested config."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixstill.errors import UserError, shown, unknown
from mixstill.schema import Field, RawConfig, fields
from mixstill.texts import parse_yaml

# The names that users know from timm and DeiT, where they mean the same.
ALIASES = {
    "model": "model.name",
    "pretrained": "model.pretrained",
    "init-from": "model.init_from",
    "finetune": "model.init_from",
    "drop-path": "model.drop_path",
    "dataset": "data.dataset",
    "data-set": "data.dataset",
    "data-dir": "data.data_dir",
    "data-path": "data.data_dir",
    "dataset-download": "data.download",
    "input-size": "data.input_size",
    "img-size": "data.input_size",
    "train-split": "data.train_split",
    "val-split": "data.test_split",
    "input-key": "data.input_key",
    "target-key": "data.target_key",
    "num-classes": "data.num_classes",
    "workers": "data.workers",
    "num-workers": "data.workers",
    "mean": "data.mean",
    "std": "data.std",
    "crop-pct": "data.crop_pct",
    "eval-crop-ratio": "data.crop_pct",
    "max-corrupt": "data.max_corrupt",
    "val-fraction": "data.val_fraction",
    "hflip": "views.hflip",
    "vflip": "views.vflip",
    "scale": "views.scale",
    "ratio": "views.ratio",
    "train-interpolation": "views.interpolation",
    "aa": "views.aa",
    "color-jitter": "views.color_jitter",
    "reprob": "views.reprob",
    "remode": "views.remode",
    "recount": "views.recount",
    "resplit": "views.resplit",
    "aug-repeats": "views.aug_repeats",
    "cutmix-minmax": "views.cutmix_minmax",
    "mixup": "views.mixup",
    "cutmix": "views.cutmix",
    "mixup-prob": "views.mixup_prob",
    "mixup-switch-prob": "views.mixup_switch_prob",
    "teachers": "distill.teachers",
    "distillation-type": "distill.kind",
    "distillation-alpha": "distill.alpha",
    "distillation-tau": "distill.tau",
    "cache": "distill.cache",
    "opt": "optim.opt",
    "opt-eps": "optim.opt_eps",
    "opt-betas": "optim.opt_betas",
    "lr": "optim.lr",
    "lr-base-size": "optim.lr_base_size",
    "weight-decay": "optim.weight_decay",
    "momentum": "optim.momentum",
    "clip-grad": "optim.clip_grad",
    "warmup-epochs": "optim.warmup_epochs",
    "warmup-lr": "optim.warmup_lr",
    "min-lr": "optim.min_lr",
    "epochs": "train.epochs",
    "max-steps": "train.max_steps",
    "batch-size": "train.batch_size",
    "smoothing": "train.smoothing",
    "model-ema-decay": "train.ema_decay",
    "model-ema-warmup": "train.ema_warmup",
    "grad-checkpointing": "train.grad_checkpointing",
    "compile": "train.compile",
    "sync-bn": "train.sync_bn",
    "tracker": "train.tracker",
    "amp": "train.amp",
    "seed": "train.seed",
    "eval-batch-size": "train.eval_batch_size",
    "device": "train.device",
    "log-interval": "train.log_interval",
    "recovery-interval": "train.checkpoint_interval",
}
_SHORT = {"-b": "--batch-size", "-j": "--workers"}
_OPEN = "model.kwargs."  # below it any name goes: the backbone checks them


@dataclass
class CommandLine:
    """A command's positional words, the options of its own, and the config fields that it overrides."""

    words: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    config: RawConfig = field(default_factory=dict)

    def whole(self, name: str, most: int = 1_000_000) -> int | None:
        """The option as a whole number, 1 to `most`; None where it is not given. Raises `UserError` for another."""
        text = self.options.get(name)
        if text is None:
            return None
        if not text.isdecimal() or len(text) > len(str(most)) or not 1 <= int(text) <= most:
            rule = "1 or more" if len(text) <= len(str(most)) else f"{most:,} at most"
            raise UserError(f"--{name}: {shown(text)} is not valid; it must be a whole number, {rule}")
        return int(text)


def parse(argv: Sequence[str], flags: Sequence[str] = (), values: Sequence[str] = ()) -> CommandLine:
    """Read `argv`: positional words first, then options, of which `flags` take no value and `values` one.

    Every other option is a field of the config by its dotted name or an alias. A boolean field without a value is
    true; a field of several values takes all words up to the next option.

    Raises:
        UserError: an unknown option (with the nearest one), one with too few or too many values, or one that is given
            twice.
    """
    result = CommandLine()
    seen: dict[str, str] = {}
    for name, given in _options(argv, result.words):
        own = name in flags or name in values
        first = seen.setdefault(name if own else dotted_name(name), name)
        if first is not name:
            also = "" if first == name else f", first as --{first}"
            raise UserError(f"--{name}: {' '.join(given) or 'it'} is given a second time{also}; give it once")
        if name in flags:
            _count(name, given, 0)
            result.options[name] = True
        elif name in values:
            _count(name, given, 1)
            if not given[0]:
                raise UserError(f"--{name}: '' is not valid; give a value, or leave the option out")
            result.options[name] = given[0]
        else:
            _override(result.config, name, given, [*flags, *values])
    return result


def dotted_name(name: str) -> str:
    """The field that an option without its dashes names, by its alias or by itself; it need not be there."""
    dotted = ALIASES.get(name.replace("_", "-"), name)
    head, dot, tail = dotted.partition(".")
    return dotted if dotted.startswith(_OPEN) else f"{head}{dot}{tail.replace('-', '_')}"


def _options(argv: Sequence[str], words: list[str]) -> list[tuple[str, list[str]]]:
    """Each option without its dashes, and the words behind it; what stands before the first goes to `words`."""
    options: list[tuple[str, list[str]]] = []
    for word in argv:
        word = _SHORT.get(word, word)
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            options.append((name, [value] if equals else []))
        elif options:
            options[-1][1].append(word)
        elif word.startswith("-") and len(word) > 1:
            raise UserError(f"option: unknown option {word!r}; options begin with two dashes")
        elif not word:
            raise UserError("option: an empty word stands before the options; leave it out")
        else:
            words.append(word)
    return options


def _count(name: str, given: Sequence[str], wanted: int) -> None:
    if len(given) != wanted:
        shown = " ".join(given) or "none"
        raise UserError(f"--{name}: takes {wanted or 'no'} value{'s' * (wanted != 1)}, got {shown}")


def _override(config: RawConfig, name: str, given: list[str], own: Sequence[str]) -> None:
    dotted = dotted_name(name)
    if dotted.startswith(_OPEN) and len(dotted) > len(_OPEN):
        _count(name, given, 1)
        section = config.setdefault("model", {}).setdefault("kwargs", {})
        section[dotted.removeprefix(_OPEN)] = _typed(name, given[0])
        return
    if dotted not in fields():
        last = dotted.rpartition(".")[2].replace("-", "_")
        same = [field for field in fields() if field.rpartition(".")[2] == last]
        if same:
            raise UserError(f"option: unknown value '--{name}'; did you mean '--{same[0]}'?")
        choices = [*own, *ALIASES, *fields()]
        raise unknown("option", f"--{name}", [f"--{choice}" for choice in choices])
    section, _, leaf = dotted.partition(".")
    config.setdefault(section, {})[leaf] = _value(fields()[dotted], name, given)


def _value(leaf: Field, name: str, given: list[str]) -> Any:
    if leaf.type is bool and not given:
        return True
    if leaf.many:
        if not given:
            raise UserError(f"--{name}: takes a value, or several, or none; got nothing")
        if given in (["none"], ["null"]):
            return None if leaf.optional else []
        if leaf.name != "distill.teachers":
            return " ".join(given).replace(",", " ").split()
        # one word may hold several teachers, unless it is the path of one; each of several words is one
        path = Path(given[0].rpartition("@")[0] or given[0])
        return given[0] if len(given) == 1 and not path.exists() else shlex.join(given)
    _count(name, given, 1)
    if isinstance(leaf.default, dict):
        return _typed(name, given[0])
    return None if leaf.optional and given[0] in ("none", "null") else given[0]


def _typed(name: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError:
        raise UserError(f"--{name}: {shown(text)} cannot be read as a value") from None


def help_lines() -> list[str]:
    """One line per field of the config: its option, its alias, its default and what it does."""
    aliases: dict[str, list[str]] = {}
    for alias, name in ALIASES.items():
        aliases.setdefault(name, []).append(f"--{alias}")
    lines = []
    for leaf in fields().values():
        default = " ".join(map(str, leaf.default)) if isinstance(leaf.default, tuple) else leaf.default
        choices = f" ({', '.join(leaf.choices)})" if leaf.choices else ""
        names = ", ".join([f"--{leaf.name}", *aliases.get(leaf.name, [])])
        lines.append(f"  {names}\n      {leaf.help}{choices} [{'none' if default in (None, '') else default}]")
    return lines
