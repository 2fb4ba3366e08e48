"""All of a run that changes while it trains, and its checkpoint: nothing else is needed to go on bit for bit."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3

from mixstill import rng
from mixstill.config import Config
from mixstill.digest import damage_of_archive, seal_archive
from mixstill.distill.mutual_information import MutualInformation
from mixstill.distill.student import Student
from mixstill.errors import UserError, one_line
from mixstill.files import write_atomically
from mixstill.paths import check_regular
from mixstill.quiet import no_warnings
from mixstill.schema import mathematics
from mixstill.train.optim import build_optimizer

_ABOUT = {"step", "total", "config", "seed", "data", "teachers"}
_BEFORE = 2**32 - 1  # the epoch of what is drawn before the first one


class DamagedError(UserError):
    """A checkpoint that is not as it was written."""


@dataclass
class State:
    """The student, its optimizer, its moving average, the statistics networks with theirs, and the steps done.

    config: the checksum of what a resumed run may not change; the seed besides.
    data: tells what the run is trained on.
    total: its steps; None where that is not known.
    teachers: the digests of their weights; None where they are not known.
    """

    student: Student
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None
    information: MutualInformation | None
    statistics_optimizer: torch.optim.Optimizer | None
    config: str
    seed: int
    step: int = 0
    data: str = ""
    total: int | None = None
    teachers: str | None = None

    @classmethod
    def start(
        cls,
        config: Config,
        student: Student,
        data: str = "",
        total: int | None = None,
        teachers: str | None = None,
    ) -> State:
        """The state before the first step of `total` on the `data`, by the `teachers`. The student is on its device."""
        device = next(student.parameters()).device
        decay = config.train.ema_decay
        information = statistics_optimizer = None
        if config.mi.weight > 0 and student.token_shapes:
            with rng.borrowed(rng.model_seed(config.train.seed, _BEFORE, 0)):
                information = MutualInformation(
                    list(student.token_shapes.values()), width=config.mi.width, ema_rate=config.mi.ema_rate
                ).to(device)
            if config.mi.every == "step":
                statistics_optimizer = torch.optim.Adam(information.parameters(), lr=config.mi.lr, fused=True)
        return cls(
            student=student,
            optimizer=build_optimizer(config.optim, student),
            ema=None if decay is None else ModelEmaV3(student, decay=decay, use_warmup=config.train.ema_warmup),
            information=information,
            statistics_optimizer=statistics_optimizer,
            config=mathematics(config),
            seed=config.train.seed,
            data=data,
            total=total,
            teachers=teachers,
        )

    def parts(self) -> dict[str, Any]:
        """What has a state of its own, by name."""
        ema = None if self.ema is None else self.ema.module
        named = {
            "student": self.student,
            "optimizer": self.optimizer,
            "ema": ema,
            "information": self.information,
            "statistics_optimizer": self.statistics_optimizer,
        }
        return {name: part for name, part in named.items() if part is not None}

    def content(self) -> dict[str, Any]:
        """What the checkpoint holds."""
        return self._about() | {name: part.state_dict() for name, part in self.parts().items()}

    def save(self, path: Path, keep: Path | None = None) -> None:
        """Write the checkpoint with its checksum, atomically; the one that was there goes to `keep`, if given."""
        content = io.BytesIO()
        torch.save(self.content(), content)
        seal_archive(content)
        write_atomically(path, content.getbuffer(), keep)

    def restore(self, path: Path) -> None:
        """Go back to the checkpoint.

        Raises:
            DamagedError: the file is no whole checkpoint. The state may be changed in parts.
            UserError: it is one of another config, seed or data set. The state is as it was.
        """
        try:
            saved = _read(path)
            self._check_run(saved, path)
            self._check_parts(saved)
            for name, part in self.parts().items():
                part.load_state_dict(saved[name])
            self.step = int(saved["step"])
        except UserError:
            raise
        except Exception as error:  # arbitrary bytes make the reader fail in arbitrary ways
            raise DamagedError(f"checkpoint {path}: cannot be resumed from: {one_line(error, 160)}") from error

    def _about(self) -> dict[str, Any]:
        about = {"step": self.step, "total": self.total, "config": self.config, "seed": self.seed, "data": self.data}
        about["teachers"] = self.teachers
        return {name: value for name, value in about.items() if value is not None}

    def _check_parts(self, saved: Mapping[str, Any]) -> None:
        """Raises `ValueError` unless just what has a state of its own is there, at a step of the run."""
        held, wanted = saved.keys() - _ABOUT, self.parts().keys()
        if held != wanted:
            text = f"lacks {', '.join(sorted(wanted - held)) or 'nothing'}"
            raise ValueError(
                f"it {text}, and has {', '.join(map(str, held - wanted)) or 'nothing'} that does not belong"
            )
        step, total = saved["step"], saved.get("total")
        if type(step) is not int or step < 0 or (total is not None and step > total):
            raise ValueError(f"its step, {step}, is not among those of the run, 0 to {total}")

    def _check_run(self, saved: Mapping[str, Any], path: Path) -> None:
        """Raises `UserError` for a checkpoint of another run; those of earlier versions tell less."""
        data = saved["data"]
        if data != self.data:
            raise UserError(f"data.data_dir: the run began with {data}, but there are {self.data} now")
        if None not in (self.teachers, saved.get("teachers")) and saved["teachers"] != self.teachers:
            raise UserError(
                "distill.teachers: their weights are not those that the run began with; name these by --teachers "
                "SOURCE@PLACE, or begin anew with another --output"
            )
        for name, what in (("seed", "seed"), ("config", "config"), ("total", "number of steps")):
            own = getattr(self, name)
            if None not in (own, saved.get(name)) and saved[name] != own:
                told = f" ({saved[name]}, not {own})" * (name != "config")
                raise UserError(
                    f"checkpoint {path}: belongs to a run of another {what}{told}; undo what was changed in the run's "
                    "config.yaml, put this run's own checkpoint in its place, or begin anew with another --output"
                )


def _read(path: Path) -> dict[str, Any]:
    """The content of a whole checkpoint."""
    check_regular(path)
    damage = damage_of_archive(path)
    if damage is not None:
        raise ValueError(damage)
    with no_warnings():  # torch warns of pickles that are not its own
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(saved, dict):
        raise TypeError(f"it holds a {type(saved).__name__}")
    return saved
