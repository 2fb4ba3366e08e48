"""Weights in and out of files: read without running what a file may hold, written whole or not at all."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mixstill.digest import damage_of_archive, digest
from mixstill.errors import RunError, UserError, one_line
from mixstill.files import to_json, write_atomically
from mixstill.paths import open_regular
from mixstill.quiet import no_warnings
from mixstill.texts import parse_object

State = dict[str, Tensor]

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin", ".tar")  # timm's train.py writes last.pth.tar
WRAPPERS = ("state_dict", "model")
_REMEDY = "take a copy of the file, or have it written again"

_DIGESTS = "mixstill_digests"  # of the safetensors metadata: of the rest of it, and of each tensor

# What torch.save's files begin with: a zip archive's mark, or before PyTorch 1.6 a pickled number.
_MAGIC = (b"PK\x03\x04", pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2))


@dataclass(frozen=True)
class Weights:
    """The tensors of a file by name, on the CPU, and its text metadata: of timm's checkpoints `arch`, the model."""

    state: State
    metadata: dict[str, str] = field(default_factory=dict)


def read_weights(path: Path) -> Weights:
    """The weights in a safetensors file or a PyTorch file, which is read without running any code that it holds.

    A state dict that lies under `state_dict` or `model` is taken out, and the `module.` of DataParallel taken off.

    Raises:
        UserError: No such file, another suffix, damaged or foreign content, more than tensors in it.
    """
    try:
        with open_regular(path) as file:
            start = file.read(32)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: weights are not read from {path.suffix!r}; choose from {', '.join(SUFFIXES)}")
    if not start:
        raise UserError(f"{path}: the file is empty")
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path, start)
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
    _check_digests(path, state, metadata, metadata.pop(_DIGESTS, None))
    return Weights(state, metadata)


def digests(state: State, metadata: Mapping[str, str]) -> dict[str, str]:
    """The checksums of a file: of its metadata under the empty name, and of each tensor under its own."""
    found = {"": digest(json.dumps(metadata, sort_keys=True))}
    for name, tensor in state.items():
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        found[name] = digest(f"{name} {tensor.dtype} {list(tensor.shape)} ", content)
    return found


def _check_digests(path: Path, state: State, metadata: Mapping[str, str], written: str | None) -> None:
    """Raises `UserError` where a file of mixstill is not as it was written; foreign ones have no checksums."""
    if written is None:
        return
    found = digests(state, metadata)
    try:
        wanted = parse_object(written)
    except (ValueError, TypeError):
        wanted = {}
    broken = next((name for name in [*found, *wanted] if found.get(name) != wanted.get(name)), None)
    if broken is not None:
        what = f"its tensor {broken!r}" if broken else "its metadata"
        raise UserError(f"{path}: damaged: {what} does not fit its checksum; {_REMEDY}")


def _read_pickled(path: Path, start: bytes) -> Weights:
    if not start.startswith(_MAGIC):
        raise UserError(f"{path}: not a PyTorch file")
    broken = damage_of_archive(path) if start.startswith(_MAGIC[0]) else None
    if broken is not None:
        raise UserError(f"{path}: damaged, or not a PyTorch file: {broken}; {_REMEDY}")
    try:
        # torch.load warns of pickle protocols other than its own; a Namespace holds the words of a command line, as in
        # the checkpoints of timm and DeiT
        with no_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused: it holds more than tensors; save its state dict alone") from error
    except Exception as error:  # arbitrary bytes make the reader fail in arbitrary ways
        raise UserError(f"{path}: damaged, or not a PyTorch file: {one_line(error, 120)}") from error
    arch = content.get("arch") if isinstance(content, Mapping) else None
    return Weights(_state_in(content, path), {"arch": arch} if isinstance(arch, str) else {})


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
    """Write a safetensors file with checksums; whatever happens, `path` holds the old content or all of the new.

    Raises:
        UserError: The suffix is not `.safetensors`.
        RunError: The file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights are written as .safetensors")
    tensors, told = _apart(state), dict(metadata or {})
    content = safetensors.torch.save(tensors, told | {_DIGESTS: to_json(digests(tensors, told))})
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error


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


def load_into(model: nn.Module, state: State, source: str) -> None:
    """Load `state` into `model`; the batch counters of batch norm may be missing, as they are in old files.

    Raises:
        UserError: Other keys or shapes than the model's, or weights that are not finite; the model is then left as it
            was.
    """
    check_fit(model, state, source)
    wanted = model.state_dict()
    refuse_not_finite({key: state[key].to(wanted[key].dtype) for key in wanted if key in state}, source)
    model.load_state_dict(state, strict=False)


def check_fit(model: nn.Module, state: State, source: str) -> None:
    """Raises `UserError` unless `load_into` can load `state`; the model may lie on the meta device."""
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


def refuse_not_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raises `UserError` naming the first tensor of `state` with a value that is NaN or infinite."""
    for key, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{source}: its weights are not finite (first {key!r}); name a file that is whole")
