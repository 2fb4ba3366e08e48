"""One optimizer step: forward of student and teachers, the objective, the regulariser, and the updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from mixstill import rng
from mixstill.config import Config
from mixstill.distill.mutual_information import MutualInformation, derangement_shift
from mixstill.distill.objective import Objective
from mixstill.distill.student import StudentOutput
from mixstill.distill.teachers import Teachers
from mixstill.train.batch import Batches
from mixstill.train.optim import set_rate
from mixstill.train.state import State

_ONCE = 2**31  # the draw number of what is done once per epoch: beyond those of all steps


class Stepper:
    """What stays the same from step to step: config, teachers and objective."""

    def __init__(self, config: Config, teachers: Teachers, objective: Objective) -> None:
        self.config = config
        self.teachers = teachers
        self.objective = objective

    def step(
        self, state: State, images: Tensor, targets: Tensor, *, epoch: int, index: int, rate: float
    ) -> dict[str, Tensor]:
        """Update `state` by one batch (images [B,3,H,W], targets [B,K]); returns the named terms, scalars."""
        config, seed = self.config, self.config.train.seed
        micro_batches = min(config.train.micro_batches, len(images))
        terms: dict[str, Tensor] = {}
        for micro, (part, wanted) in enumerate(
            zip(images.tensor_split(micro_batches), targets.tensor_split(micro_batches), strict=True)
        ):
            rng.seed_torch(seed, epoch, index * micro_batches + micro)
            share = len(part) / len(images)

            # forward
            with torch.autocast(part.device.type, torch.bfloat16, enabled=config.train.amp):
                output = state.student(part)
                answers = self.teachers(part)

            # objective
            found = self.objective(output.logits, output.heads, answers, wanted)
            loss, named = found.total, dict(found.named)
            if state.information is not None and state.statistics_optimizer is not None:
                shift = derangement_shift(seed, epoch, index * micro_batches + micro, len(part))
                regulariser, estimates = regularise(state.information, output, shift, config.mi.weight)
                loss = loss + regulariser
                named |= self.estimates_by_name(estimates)

            # backward
            (share * loss).backward()  # type: ignore[no-untyped-call]
            for name, value in named.items():
                terms[name] = terms.get(name, 0) + share * value

        # update
        if config.optim.clip_grad is not None:
            terms["gradient_norm"] = torch.nn.utils.clip_grad_norm_(state.student.parameters(), config.optim.clip_grad)
        set_rate(state.optimizer, rate)
        for optimizer in (state.optimizer, state.statistics_optimizer):
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        state.step += 1
        if state.ema is not None:
            state.ema.update(state.student, step=state.step)
        return terms

    def regularise_epoch(self, state: State, batches: Batches, epoch: int) -> dict[str, Tensor]:
        """The report's Algorithm 1, once per epoch on as many unmixed samples as a batch has.

        One plain gradient step on V at the rate `mi.lr`: the student descends, the statistics networks ascend.
        """
        if state.information is None or state.statistics_optimizer is not None:
            return {}
        images = batches.sample(epoch)
        rng.seed_torch(self.config.train.seed, epoch, _ONCE)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.config.train.amp):
            output = state.student(images)
        shift = derangement_shift(self.config.train.seed, epoch, _ONCE, len(images))
        loss, estimates = regularise(state.information, output, shift, self.config.mi.weight)
        parameters = [*state.student.parameters(), *state.information.parameters()]
        descent = torch.optim.SGD(parameters, lr=self.config.mi.lr)
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
        descent.zero_grad(set_to_none=True)
        return self.estimates_by_name(estimates)

    def estimates_by_name(self, estimates: Tensor) -> dict[str, Tensor]:
        """[M] -> the mutual information of each module's tokens in nats, by name."""
        names = self.objective.modules
        return {f"mutual_information/{name}": value for name, value in zip(names, estimates, strict=True)}


def regularise(
    information: MutualInformation, output: StudentOutput, shift: int, weight: float
) -> tuple[Tensor, Tensor]:
    """The regulariser on a student's tokens: (loss, estimates [M] in nats)."""
    pairs = cast(Sequence[tuple[Tensor, Tensor]], [(tokens.spatial, tokens.channel) for tokens in output.tokens])
    loss, estimates = information(pairs, shift, weight)
    return loss, estimates
