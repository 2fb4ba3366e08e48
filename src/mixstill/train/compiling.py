"""What torch.compile does in a run, and when it pays.

Whether a run is compiled follows from its config and its machine alone, never from a clock: compiled code rounds
otherwise, and a run that is resumed must go on with the code that it began with.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from mixstill.config import CompileMode, Config
from mixstill.distill.classifier import sketch_student
from mixstill.distill.sizes import count_macs
from mixstill.errors import UserError, one_line
from mixstill.train.batch import Batches
from mixstill.train.device import computes_bfloat16

Mode = Literal["never", "always", "graphs"]

# A run of this many seconds gains more than compiling takes: about one minute, for a fifth to a half of the rest.
WORTH = 300.0
# How long it would be, roughly: operations per second of the device, and seconds that a step takes whatever its size.
_RATE = {"cpu": 1e11, "cuda": 1e14}
_STEP = {"cpu": 0.05, "cuda": 0.02}


def estimate(device: torch.device, macs: int, steps: int) -> float:
    """A rough guess of seconds: forward and backward take three times the multiply-adds `macs` of a step's forward."""
    return steps * (_STEP[device.type] + 6 * macs / _RATE[device.type])


def pays(device: torch.device, amp: bool) -> bool:
    """Whether compiled steps are quicker: on a GPU; on a CPU in bfloat16.

    In float32 four fifths of a CPU's step are matrix products, which stay as they are, and the compiled GELU is slower
    than PyTorch's own (docs/performance.md).
    """
    return device.type == "cuda" or (amp and computes_bfloat16(device))


def has_compiler(device: torch.device) -> bool:
    """Whether this machine has what torch.compile needs: a compiler of C++, and Triton for a GPU."""
    there = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
    return there and (device.type == "cpu" or find_spec("triton") is not None)


class Compiler:
    """Compiles the parts of one run, or leaves them as they are.

    A part that cannot be compiled is taken as it is, and said so; unless it is `forced`: then it is the user's mistake.
    """

    def __init__(self, mode: Mode = "never", *, forced: bool = False) -> None:
        self.mode = mode
        self.forced = forced
        self.say: Callable[[str], None] = lambda _: None
        if mode != "never":
            torch.compiler.reset()  # the code of earlier runs in this process counts towards a limit

    def of(self, part: nn.Module) -> nn.Module:
        """The part, compiled when it is first called. With CUDA graphs, what it gives lasts until the next step."""
        if self.mode == "never":
            return part
        return _Compiled(part, self, "reduce-overhead" if self.mode == "graphs" else "default")

    def begin(self, say: Callable[[str], None]) -> None:
        """Tell what is to come, and later what could not be compiled."""
        self.say = say
        if self.mode != "never":
            say("student and teachers are compiled: the first step may take a minute or two")

    def begin_step(self) -> None:
        """What CUDA graphs gave in the step before may be overwritten."""
        if self.mode == "graphs":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


class _Compiled(nn.Module):
    """A part of a run, compiled as a whole for each shape of what it is given."""

    def __init__(self, part: nn.Module, compiler: Compiler, mode: str) -> None:
        super().__init__()
        self.part = part
        self.compiler = compiler
        self._run: Callable[..., Any] = torch.compile(part, dynamic=False, mode=mode)
        self._ran = False

    def forward(self, *args: Any) -> Any:
        """What the part gives."""
        try:
            found = self._run(*args)
        except Exception as error:
            if self._ran or isinstance(error, torch.OutOfMemoryError):
                raise
            found = self.part(*args)  # what is wrong with the part itself, it tells itself
            text = f"{type(self.part).__name__} cannot be compiled: {one_line(error, 160)}"
            if self.compiler.forced:
                raise UserError(f"train.compile: {text}; choose 'never'") from error
            self.compiler.say(f"warning: {text}; it runs uncompiled")
            self._run = self.part
        self._ran = True
        return found


def choose(config: Config, device: torch.device, batches: Batches, begun: CompileMode | None = None) -> Compiler:
    """The compiler of a run; of one that goes on, as it has `begun`.

    Raises `UserError` for CUDA graphs where they cannot be.
    """
    wanted = config.train.compile
    if wanted == "auto" and begun is not None:
        return Compiler("never" if begun == "auto" else begun)  # a run that does not tell is from before this choice
    if wanted == "graphs" and device.type != "cuda":
        raise UserError(f"train.compile: 'graphs' is not valid on {device}; CUDA graphs need a GPU: choose 'always'")
    if wanted == "graphs" and batches.passes * batches.processes.count > 1:  # their gradients would be overwritten
        raise UserError("train.compile: 'graphs' is not valid with several passes or processes; choose 'always'")
    if wanted != "auto":
        return Compiler(wanted, forced=True)
    if not pays(device, config.train.amp):
        return Compiler()
    macs, _ = count_macs(sketch_student(config), config.model.name, batches.input_size)
    long = estimate(device, macs * batches.size // batches.processes.count, batches.last) >= WORTH
    return Compiler("always" if long and has_compiler(device) else "never")
