"""Weights in and out of files: read without running what a file may hold, written whole or not at all.

Two public families of CIFAR ResNets are recognised by their keys and adapted: chenyaofo/pytorch-cifar-models and
akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_pretrained_cfg_value, split_model_name_tag
from torch import Tensor, nn

from mixstill.errors import RunError, UserError, one_line, unknown
from mixstill.models.cifar_resnet import CIFAR100_MEAN, CIFAR100_STD, DEPTHS, STAGES

State = dict[str, Tensor]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin")
WRAPPERS = ("state_dict", "model")

# What torch.save's files begin with: a zip archive's mark, or before PyTorch 1.6 a pickled number.
_MAGIC = (b"PK\x03\x04", pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2))


@dataclass(frozen=True)
class Weights:
    """The tensors of a file by name, on the CPU, and its text metadata (safetensors only)."""

    state: State
    metadata: dict[str, str] = field(default_factory=dict)


def read_weights(path: Path) -> Weights:
    """The weights in a safetensors file or a PyTorch file, which is read without running any code that it holds.

    A state dict that lies under `state_dict` or `model` is taken out, and the `module.` of DataParallel taken off.

    Raises:
        UserError: No such file, another suffix, damaged or foreign content, more than tensors in it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: weights are not read from {path.suffix!r}; choose from {', '.join(SUFFIXES)}")
    if not start:
        raise UserError(f"{path}: the file is empty")
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else Weights(_read_pickled(path, start))
    return Weights(_without_prefix(weights.state, "module."), weights.metadata)


def _read_safetensors(path: Path) -> Weights:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: damaged, or not a safetensors file: {one_line(error, 120)}") from error
    if not state:
        raise UserError(f"{path}: holds no tensors")
    return Weights(state, metadata)


def _read_pickled(path: Path, start: bytes) -> State:
    if not start.startswith(_MAGIC):
        raise UserError(f"{path}: not a PyTorch file")
    try:
        with warnings.catch_warnings():
            # torch.load warns of pickle protocols other than its own.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused: it holds more than tensors; save its state dict alone") from error
    except Exception as error:  # arbitrary bytes make the reader fail in arbitrary ways
        raise UserError(f"{path}: damaged, or not a PyTorch file: {one_line(error, 120)}") from error
    return _state_in(content, path)


def _state_in(content: object, path: Path) -> State:
    """The state dict that a PyTorch file's content is, or wraps."""
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict")
    inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        shown = ", ".join(str(key) for key in list(inner)[:5]) or "none"
        raise UserError(f"{path}: holds no tensors at its top or under {' or '.join(WRAPPERS)} (its keys: {shown})")
    if len(state) < len(inner):
        other = next(key for key, value in inner.items() if not isinstance(value, Tensor))
        raise UserError(f"{path}: not a state dict: {other!r} is a {type(inner[other]).__name__}, not a tensor")
    return state


def _without_prefix(state: State, prefix: str) -> State:
    if not all(key.startswith(prefix) for key in state):
        return state
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; whatever happens, `path` holds the old content or all of the new.

    Raises:
        UserError: The suffix is not `.safetensors`.
        RunError: The file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights are written as .safetensors")
    content = safetensors.torch.save(_apart(state), dict(metadata or {}))
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _apart(state: Mapping[str, Tensor]) -> State:
    """The tensors on the CPU, contiguous, no two in the same memory, as safetensors needs them."""
    apart: State = {}
    taken: set[int] = set()
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        apart[key] = tensor
    return apart


@dataclass(frozen=True)
class Adapted:
    """What to build for a state dict, and the state dict with that model's names."""

    name: str
    kwargs: dict[str, Any]
    state: State
    normalisation: Normalisation | None
    """Mean and standard deviation per channel that the weights were trained with; None where it is not known."""


# chenyaofo normalises by the data set's own statistics, to be told by the number of classes.
_BY_CLASSES: dict[int, Normalisation] = {
    10: ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    100: (CIFAR100_MEAN, CIFAR100_STD),
}
_IMAGENET: Normalisation = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def adapt(name: str | None, state: State, source: str = "weights") -> Adapted:
    """How to build the model that `state` belongs to: a CIFAR ResNet by its keys, any other timm model by its `name`.

    Args:
        name: timm's name of the model; may be left out for a CIFAR ResNet.
        state: Tensors by name.
        source: What to call the weights in a message.

    Raises:
        UserError: No name and an architecture that is not recognised, a name that `state` contradicts, an unknown name,
            or no classifier in `state`.
    """
    if name is not None and not timm.is_model(name):
        raise unknown("model", name, timm.list_models())
    found = infer_cifar_resnet(state, source)
    if name is None:
        if found is None:
            raise UserError(f"{source}: its architecture cannot be told from its keys; name the model")
        return found
    architecture = split_model_name_tag(name)[0]
    if found is not None:
        if architecture != found.name:
            raise UserError(f"{source}: holds a {found.name}, not the {name} that was named")
        return found
    if architecture in DEPTHS:
        raise UserError(f"{source}: holds no CIFAR ResNet, so not the {name} that was named")
    classifier = get_pretrained_cfg_value(architecture, "classifier")
    num_classes = classes_in(state, classifier)
    if num_classes is None:
        raise UserError(f"{source}: has no classifier ({classifier!r}) of a {name}")
    return Adapted(name, {"num_classes": num_classes}, state, None)


def infer_cifar_resnet(state: State, source: str = "weights") -> Adapted | None:
    """The CIFAR ResNet that `state` belongs to, with its keys renamed to mixstill's; None if it is something else.

    akamaster's classifier is `linear` (shortcut A, ImageNet's normalisation), chenyaofo's `fc` (shortcut B).

    Raises:
        UserError: A CIFAR ResNet of a depth that has no name here.
    """
    foreign = "linear.weight" in state
    weights = {re.sub(r"^linear\.", "fc.", key): tensor for key, tensor in state.items()}
    blocks = [{key.split(".")[1] for key in weights if key.startswith(f"{stage}.")} for stage in STAGES]
    if not _is_cifar_resnet(weights) or len({len(of_stage) for of_stage in blocks}) != 1:
        return None
    depth = 6 * len(blocks[0]) + 2
    name = f"cifar_resnet{depth}"
    if name not in DEPTHS:
        raise UserError(f"{source}: holds a CIFAR ResNet of depth {depth}; there are {', '.join(DEPTHS)}")
    width, in_chans = weights["conv1.weight"].shape[:2]
    num_classes = len(weights["fc.weight"])
    kwargs: dict[str, Any] = {"num_classes": num_classes}
    kwargs["shortcut"] = "B" if "layer2.0.downsample.0.weight" in weights else "A"
    kwargs |= {key: value for key, value, usual in (("width", width, 16), ("in_chans", in_chans, 3)) if value != usual}
    return Adapted(name, kwargs, weights, _IMAGENET if foreign else _BY_CLASSES.get(num_classes))


def _is_cifar_resnet(weights: State) -> bool:
    """Whether the stem is 3x3 and just three stages of two convolutions per block are W, 2W and 4W wide."""
    ends = ("conv1.weight", *(f"{stage}.0.conv2.weight" for stage in STAGES), "fc.weight")
    if not all(key in weights for key in ends) or "layer4.0.conv1.weight" in weights:
        return False
    stem, *stages, classifier = (tuple(weights[key].shape) for key in ends)
    if any(shape[2:] != (3, 3) for shape in (stem, *stages)) or "layer1.0.conv3.weight" in weights:
        return False
    width = stem[0]
    return [shape[0] for shape in stages] == [width, 2 * width, 4 * width] and classifier[1:] == (4 * width,)


def classes_in(state: State, classifier: str | Sequence[str] | None) -> int | None:
    """The number of classes of a classifier, given timm's name of its layer (or layers); None if `state` has none."""
    names = [classifier] if isinstance(classifier, str) else list(classifier or ())
    weights = [state[f"{name}.weight"] for name in names if f"{name}.weight" in state]
    counts = {weight.shape[0] for weight in weights if weight.ndim}
    return counts.pop() if len(counts) == 1 else None


def load_into(model: nn.Module, state: State, source: str) -> None:
    """Load `state` into `model`; the batch counters of batch norm may be missing, as they are in old files.

    Raises:
        UserError: Other keys or shapes than the model's; the model is then left as it was.
    """
    wanted = model.state_dict()
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in state and key not in counters]
    unexpected = [key for key in state if key not in wanted]
    mismatched = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    faults = [f"{len(missing)} missing (first {missing[0]!r})"] if missing else []
    if unexpected:
        faults.append(f"{len(unexpected)} unexpected (first {unexpected[0]!r})")
    if mismatched:
        first = mismatched[0]
        shapes = f"{list(state[first].shape)} for {list(wanted[first].shape)}"
        faults.append(f"{len(mismatched)} of another shape (first {first!r}: {shapes})")
    if faults:
        raise UserError(f"{source}: does not fit {type(model).__name__}: {', '.join(faults)}")
    model.load_state_dict(state, strict=False)
