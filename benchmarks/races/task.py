"""What one contender of a race is asked to do: given to its process as one line of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

RACES = ("full", "student", "views", "teacher", "epoch", "inference", "overhead")
PRECISIONS = ("eager", "same", "best")
TEACHERS = ("cifar_resnet32", "cifar_resnet56")
TOY_TEACHERS = ("cifar_resnet8", "cifar_resnet20")


@dataclass(frozen=True)
class Task:
    """A contender's part in a race.

    program: the file that drives it, `ours` or `their_*`.
    duel: who meets whom, which settles the recipe on our side.
    variant: what sets contenders of one program apart.
    precision: `eager` float32 without compilation; `same` float32, each at its best otherwise; `best` anything goes.
    bf16: whether the device computes in bfloat16, asked of the processor.
    folder: the data, teachers and starting weights of the race (material.py).
    checkout: the repository that the program lies in; empty where it is installed.
    """

    program: str
    race: str
    duel: str
    variant: str
    precision: str
    device: str
    bf16: bool
    batch_size: int
    workers: int
    toy: bool
    folder: str
    checkout: str = ""

    @property
    def student(self) -> str:
        """timm name of the plain student."""
        return "mixer_micro_32" if self.toy else "mixer_s4_32"

    @property
    def token_student(self) -> str:
        """timm name of the student with DeiT's token."""
        return self.student.replace("_32", "_distilled_32")

    @property
    def teachers(self) -> tuple[str, str]:
        """timm names of the smaller and the larger teacher."""
        return TOY_TEACHERS if self.toy else TEACHERS

    @property
    def compiled(self) -> bool:
        """Whether a program that can compile does; at its best not in float32 on a CPU, where that is slower."""
        return self.precision == "same" or (self.precision == "best" and (self.device == "cuda" or self.bf16))

    @property
    def amp(self) -> bool:
        """Whether a program that can compute in bfloat16 does."""
        return self.precision == "best" and self.bf16

    def path(self, *names: str) -> str:
        """A place in the folder of the race."""
        return str(Path(self.folder, *names))

    def line(self) -> str:
        """Itself as JSON."""
        return json.dumps(asdict(self))
