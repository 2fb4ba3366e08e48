"""All of a run that changes while it trains, and its checkpoint: nothing else is needed to go on bit for bit."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3

from mixstill import rng
from mixstill.config import Config
from mixstill.distill.mutual_information import MutualInformation
from mixstill.distill.student import Student
from mixstill.errors import UserError, one_line
from mixstill.files import write_atomically
from mixstill.paths import check_regular
from mixstill.quiet import no_warnings
from mixstill.train.optim import build_optimizer

_BEFORE = 2**32 - 1  # the epoch of what is drawn before the first one


@dataclass
class State:
    """The student, its optimizer, its moving average, the statistics networks with theirs, and the steps done."""

    student: Student
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None
    information: MutualInformation | None
    statistics_optimizer: torch.optim.Optimizer | None
    step: int = 0
    data: str = ""

    @classmethod
    def start(cls, config: Config, student: Student, data: str = "") -> State:
        """The state before the first step. The student is on its device; `data` tells what it is trained on."""
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
            data=data,
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
        return {"step": self.step, "data": self.data} | {name: part.state_dict() for name, part in self.parts().items()}

    def save(self, path: Path) -> None:
        """Write the checkpoint, atomically."""
        content = io.BytesIO()
        torch.save(self.content(), content)
        write_atomically(path, content.getvalue())

    def restore(self, path: Path) -> None:
        """Go back to the checkpoint. Raises `UserError` if the file is damaged or not of this run's config."""
        try:
            check_regular(path)
            with no_warnings():  # torch warns of pickles that are not its own
                saved = torch.load(path, map_location="cpu", weights_only=True)
            for name, part in self.parts().items():
                part.load_state_dict(saved[name])
            self.step = int(saved["step"])
        except Exception as error:  # arbitrary bytes make the reader fail in arbitrary ways
            raise UserError(f"checkpoint {path}: cannot be resumed from: {one_line(error, 160)}") from error
        if saved["data"] != self.data:
            raise UserError(f"data.data_dir: the run began with {saved['data']}, but there are {self.data} now")
