"""Which parts a data set has, and which split a classifier is measured on."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

from mixstill.config import VAL_FRACTION, DataConfig
from mixstill.data.folder import parts_of
from mixstill.errors import UserError
from mixstill.paths import path_of

SplitName: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


def has_test(config: DataConfig) -> bool:
    """Whether the data set has a part to measure on besides train; of those that are no folder it is taken for granted.

    A folder that is not there, or not as it should be, counts as one that has: loading tells what is amiss.
    """
    if config.dataset != "folder" or config.data_dir is None:
        return True
    try:
        return "test" in parts_of(path_of(config.data_dir, "data.data_dir"))
    except (UserError, OSError):
        return True


def cut(config: DataConfig) -> DataConfig:
    """`config` with a share of train as validation split in place of a `val_fraction` that is left open."""
    if config.val_fraction is not None:
        return config
    return replace(config, val_fraction=0.0 if has_test(config) else VAL_FRACTION)


def measured(config: DataConfig) -> list[SplitName]:
    """The splits that a run of the config is measured on: the first in each evaluation, the last one at the end."""
    val: list[SplitName] = ["val"] if cut(config).val_fraction else []
    return [*val, "test"] if has_test(config) or not val else val
