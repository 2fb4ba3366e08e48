"""One optimizer step: forward of student and teachers, the objective, the regulariser, and the updates."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixstill import rng
from mixstill.config import Config
from mixstill.distill.mutual_information import MutualInformation, derangement_shift
from mixstill.distill.objective import Objective
from mixstill.distill.student import Student, StudentOutput
from mixstill.distill.teachers import Teachers
from mixstill.models.drop_path import place_paths
from mixstill.train.answers import Answers
from mixstill.train.batch import Batches, Part
from mixstill.train.compiling import Compiler
from mixstill.train.optim import set_rate
from mixstill.train.processes import ALONE, Processes
from mixstill.train.state import State

_ONCE = 2**31  # the draw number of what is done once per epoch: beyond those of all steps


class Stepper:
    """What stays the same from step to step: config, teachers, objective, and the processes that share a batch.

    `answers` gives what the teachers answer; by default each step asks them. `compiler` compiles the student.
    """

    def __init__(
        self,
        config: Config,
        teachers: Teachers,
        objective: Objective,
        processes: Processes = ALONE,
        answers: Answers | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        self.config = config
        self.teachers = teachers
        self.answers = answers or Answers(teachers)
        self.objective = objective
        self.processes = processes
        self.compiler = compiler or Compiler()
        self._known: tuple[Student, nn.Module] | None = None

    def step(
        self, state: State, parts: Iterable[Part], passes: int, *, epoch: int, index: int, rate: float
    ) -> dict[str, Tensor]:
        """Update `state` by one batch, which comes in `passes` parts.

        Returns the named terms, scalars; their sum over the processes is the term of the whole batch.
        """
        config = self.config
        student = self._student(state.student)
        terms: dict[str, Tensor] = {}
        self.compiler.begin_step()
        for number, part in enumerate(parts):
            with nullcontext() if number + 1 == passes else _without_sync(student):
                turn = (index * passes + number) * self.processes.count + self.processes.rank
                with rng.borrowed(rng.model_seed(config.train.seed, epoch, turn)):
                    named = self._learn(state, student, part, epoch, index, number, passes)
            for name, value in named.items():
                terms[name] = terms.get(name, 0) + value

        # update
        if config.optim.clip_grad is not None:
            norm = torch.nn.utils.clip_grad_norm_(state.student.parameters(), config.optim.clip_grad)
            terms["gradient_norm"] = norm / self.processes.count
        if state.information is not None and state.statistics_optimizer is not None:
            self.processes.average_gradients(list(state.information.parameters()))
        set_rate(state.optimizer, rate)
        for optimizer in (state.optimizer, state.statistics_optimizer):
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        state.step += 1
        if state.ema is not None:
            state.ema.update(state.student, step=state.step)
        return terms

    def _learn(
        self, state: State, student: nn.Module, part: Part, epoch: int, index: int, number: int, passes: int
    ) -> dict[str, Tensor]:
        """Forward and backward of one pass; its part of the named terms."""
        config, seed, everyone = self.config, self.config.train.seed, self.processes.count
        place_paths(state.student, seed, epoch, index * part.total + part.rows)

        # forward
        with torch.autocast(part.images.device.type, torch.bfloat16, enabled=config.train.amp):
            output: StudentOutput = student(part.images)
            answers = self.answers(part, epoch, index, number)

        # objective; the gradients are averaged over the processes, hence the factor
        found = self.objective(output.logits, output.heads, answers, part.targets)
        loss = found.total * part.share * everyone
        named = {name: term * part.share for name, term in found.named.items()}
        if state.information is not None and state.statistics_optimizer is not None:
            shift = derangement_shift(seed, epoch, index * passes + number, sum(part.sizes))
            regulariser, estimates = self.regularise(state.information, output, shift, part)
            loss = loss + regulariser * part.pass_share
            named |= self.estimates_by_name(state.student, estimates * part.pass_share / everyone)

        # backward
        loss.backward()  # type: ignore[no-untyped-call]
        return named

    def regularise_epoch(self, state: State, batches: Batches, epoch: int) -> dict[str, Tensor]:
        """The report's Algorithm 1, once per epoch on as many unmixed samples as a batch has, in every process alike.

        One plain gradient step on V at the rate `mi.lr`: the student descends, the statistics networks ascend.
        """
        if state.information is None or state.statistics_optimizer is not None:
            return {}
        images = batches.sample(epoch)
        with rng.borrowed(rng.model_seed(self.config.train.seed, epoch, _ONCE)):
            return self._regularise_once(state, state.information, images, epoch)

    def _regularise_once(
        self, state: State, information: MutualInformation, images: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        place_paths(state.student, self.config.train.seed, epoch, None)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.config.train.amp):
            output = state.student(images)
        shift = derangement_shift(self.config.train.seed, epoch, _ONCE, len(images))
        loss, estimates = self.regularise(information, output, shift)
        parameters = [*state.student.parameters(), *information.parameters()]
        descent = torch.optim.SGD(parameters, lr=self.config.mi.lr)
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(parameters)
        descent.step()
        descent.zero_grad(set_to_none=True)
        return self.estimates_by_name(state.student, estimates / self.processes.count)

    def regularise(
        self, information: MutualInformation, output: StudentOutput, shift: int, part: Part | None = None
    ) -> tuple[Tensor, Tensor]:
        """The regulariser on a student's tokens: (loss, an estimate in nats for each module that has tokens).

        Where `part` is one process's share of a pass, its pairs are those of all samples of that pass, in every
        process alike; the gradient of this process's own tokens alone goes on, to be averaged with the others'.
        Without a part, once per epoch, it is the report's, without the limit at 0.
        """

        def gathered(tokens: Tensor) -> Tensor:
            if part is None or self.processes.count == 1:
                return tokens
            return self.processes.gather(tokens.float(), part.sizes)[part.order.to(tokens.device)]

        pairs = [
            (gathered(own.spatial), gathered(own.channel))
            for own in output.tokens
            if own.spatial is not None and own.channel is not None
        ]
        weight = self.config.mi.weight * (1 if part is None else self.processes.count)
        loss, estimates = information(pairs, shift, weight, limited=part is not None)
        return loss, estimates

    def estimates_by_name(self, student: Student, estimates: Tensor) -> dict[str, Tensor]:
        """One estimate for each module that has tokens -> their mutual information in nats, by name."""
        names = [self.objective.modules[m] for m in student.token_shapes]
        return {f"mutual_information/{name}": value for name, value in zip(names, estimates, strict=True)}

    def _student(self, student: Student) -> nn.Module:
        """The student, compiled, and wrapped so that its gradients are averaged over the processes."""
        if self._known is None or self._known[0] is not student:
            forward = self.compiler.of(student)
            if self.processes.count > 1:
                device = next(student.parameters()).device
                forward = DistributedDataParallel(forward, device_ids=[device] if device.type == "cuda" else None)
            self._known = student, forward
        return self._known[1]


def _without_sync(student: nn.Module) -> AbstractContextManager[None]:
    return student.no_sync() if isinstance(student, DistributedDataParallel) else nullcontext()
