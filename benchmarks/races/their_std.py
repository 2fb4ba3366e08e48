"""Drives devrimcavusoglu/std: `python -m std.main`, from its checkout. It needs einops beside mixstill's packages."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, cast

import timm
import torch
from safetensors.torch import load_file
from session import Session, serve
from task import Task
from their import start_from, surroundings, taken_over
from torch import Tensor, nn

import mixstill  # noqa: F401  (registers the teachers)

_SIZES = {False: ("512", "8"), True: ("64", "4")}  # width, depth
_MIXERS = {"token_mixer": ("norm1", "mlp_tokens"), "channel_mixer": ("norm2", "mlp_channels")}


def run(task: Task, session: Session) -> None:
    """The program as its module is run, with the words of `words`."""
    surroundings(task, session)
    sys.path.insert(0, task.checkout)
    neptune: Any = ModuleType("neptune")
    neptune.Run = object
    sys.modules["neptune"] = neptune
    session.shims.append("neptune: an empty module, since std imports it even where nothing is logged")

    def load(repository: str, name: str, **_: Any) -> nn.Module:
        ours = name.replace("cifar100_", "cifar_")
        model: nn.Module = timm.create_model(ours, num_classes=100)
        model.load_state_dict(load_file(task.path("teachers", f"{ours}.safetensors")))
        return model

    cast(Any, torch.hub).load = load
    session.shims.append("torch.hub.load: the race's teachers in mixstill's CIFAR ResNets, since the hub is not there")
    if task.race != "epoch":
        session.shims.append("starting weights: the race's, in the names and the order of pixels of std")
    engine: Any = import_module("std.engine")
    engine.train_one_epoch = taken_over(engine.train_one_epoch, task, session, start=starter(task), teach=teach)
    sys.argv = ["main.py", *words(task)]
    runpy.run_module("std.main", run_name="__main__", alter_sys=True)


def words(task: Task) -> list[str]:
    """The program's command line."""
    width, depth = _SIZES[task.toy]
    small, large = (name.removeprefix("cifar_") for name in task.teachers)
    plain = task.race == "student"
    given = ["--model", "mlp-mixer" if plain else "std-mlp-mixer", "--distillation-type", "none" if plain else "hard"]
    given += ["--embedding-dim", width, "--depth", depth, "--patch-size", "4", "--input-size", "32"]
    given += ["--distill-intermediate", "--teacher-model", small, large]
    given += ["--data-set", "CIFAR", "--data-path", task.path("pickles"), "--num_workers", str(task.workers)]
    given += ["--batch-size", str(task.batch_size), "--lr", "5e-4", "--warmup-epochs", "0", "--no-model-ema"]
    given += ["--epochs", "1" if task.race == "epoch" else "300", "--device", task.device]
    given += ["--output_dir", task.path("std")]
    given += ["--no-pin-mem"] if task.device == "cpu" else []
    return given + ([] if task.precision == "best" else ["--no_amp"])


def starter(task: Task) -> Callable[[nn.Module], None]:
    """Puts the plain student's weights, renamed, into the program's model."""
    weights = renamed(load_file(task.path("start", f"{task.student}.safetensors")))
    return lambda model: None if task.race == "epoch" else start_from(model, weights)


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's Mixer in std's names; a patch's pixels (p1 p2 c) instead of (c p1 p2)."""
    stem = weights["stem.proj.weight"]
    found = {
        "per_patch_fc.weight": stem.permute(0, 2, 3, 1).flatten(1),
        "per_patch_fc.bias": weights["stem.proj.bias"],
    }
    pairs = {"ln": "norm", "classifier": "head"}
    for block in range(sum(name.endswith("norm1.weight") for name in weights)):
        for theirs, (norm, mlp) in _MIXERS.items():
            prefix, own = f"mixer_blocks.{block}.{theirs}", f"blocks.{block}"
            pairs |= {f"{prefix}.norm": f"{own}.{norm}"}
            pairs |= {f"{prefix}.fn.dense{layer}": f"{own}.{mlp}.fc{layer}" for layer in (1, 2)}
    for theirs, own in pairs.items():
        found |= {f"{theirs}.{kind}": weights[f"{own}.{kind}"] for kind in ("weight", "bias")}
    return found


def teach(given: dict[str, Any]) -> Callable[[Tensor], Any]:
    """All its teachers on a batch, as its criterion asks them."""

    @torch.no_grad()
    def answers(images: Tensor) -> list[Tensor]:
        with given["amp_autocast"]():
            return [teacher(images) for teacher in given["criterion"].teacher_models]

    return answers


if __name__ == "__main__":
    serve(run)
