"""The recipe of a command line that names none: the shipped one that fits the data that it names."""

from __future__ import annotations

import os

from mixstill.config import SCHEMES
from mixstill.errors import UserError
from mixstill.overrides import CommandLine
from mixstill.paths import path_of
from mixstill.telling import tell

# For CIFAR-100 the one that two CPU cores train in under an hour, its teacher included.
FITTING = {"digits": "digits", "cifar100": "cifar100-micro", "folder": "photos"} | dict.fromkeys(SCHEMES, "photos")


def recipe_of(line: CommandLine) -> str | None:
    """The recipe that the words name, or the one that fits the data set which the options name, told in one line.

    A `data_dir` without a `dataset` stands for what lies in it: CIFAR's files, else photos, which are put down in
    `line`. None where neither recipe nor data are named, and where weights are started from, which tell their config.

    Raises `UserError` for a data set that no shipped recipe is for.
    """
    if line.words:
        return line.words[0]
    data = line.config.get("data", {})
    dataset, root = data.get("dataset"), data.get("data_dir")
    if line.config.get("model", {}).get("init_from") or not (dataset or root):
        return None
    reason = f"--dataset {dataset}"
    if dataset is None:
        from mixstill.data.cifar import held

        dataset = data["dataset"] = held(path_of(str(root), "data.data_dir")) or "folder"
        reason = f"--data-dir {root}, taken as --dataset {dataset},"
    recipe = FITTING.get(str(dataset).partition("/")[0])
    if recipe is None and dataset == "cifar10":
        raise UserError(
            "recipe: none is shipped for cifar10; one without teachers takes it in the place of its own data, as "
            "mixstill train cifar100-mixer-s4 --dataset cifar10 --data-dir DIR"
        )
    if recipe is not None and "quiet" not in line.options and os.environ.get("RANK", "0") == "0":
        text = f"recipe {recipe}, as {reason} names no recipe; mixstill recipes lists others"
        tell(f"mixstill: {text}")
    return recipe  # None for a data set that there is not, as the config says
