"""The teachers' answers to a batch: asked of the teachers, or out of a cache, which takes what it lacks.

Shapes: B samples of the whole batch, b of one part, T teachers, K classes, W bytes of a stored answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mixstill.distill.cache import Bytes, Cache
from mixstill.distill.teachers import Teachers
from mixstill.errors import UserError
from mixstill.train.batch import Batches, Part

FARTHEST = 0.05  # that stored logits may be off, as a share: bfloat16 makes it 0.006, another teacher 0.15 to 1
_AHEAD = 4  # steps whose answers may be on their way from the device
_TRIED = 20  # records, for one that is whole


class Answers:
    """What the teachers answer to a batch, part by part.

    With caches, a step gets the stored form of the answers, were they stored before or just now: so a run that fills
    a cache and one that replays it are the same. What is missing there, or damaged, is asked of the teachers; once
    `begin` was called it is put there.

    Args:
        teachers: the T teachers.
        batches: of the run; not needed without caches.
        caches: one for each teacher, or none.
        compiled: asks the teachers in each step; by default they are as they come.
    """

    def __init__(
        self,
        teachers: Teachers,
        batches: Batches | None = None,
        caches: Sequence[Cache] = (),
        compiled: Callable[..., Any] | None = None,
    ) -> None:
        self.teachers = teachers
        self.ask = compiled or teachers
        self.caches = caches
        self.replayed = self.asked = 0  # batches, over all teachers
        self._batches = cast(Batches, batches)
        self._found: list[Bytes | None] = []
        self._new: dict[int, _Record] = {}
        self._underway: deque[_Record] = deque()
        self._filled: list[bool] = [False] * len(caches)
        self._strict = False
        self._say: Callable[[str], None] = lambda _: None

    def __call__(self, part: Part, epoch: int, index: int, number: int) -> Tensor | None:
        """Logits [T,b,K] to pass `number` of the batch `index` of an epoch; None where there are no teachers.

        The passes of a batch come in their order, and each process asks alike.
        """
        if not self.caches:
            return cast(Tensor | None, self.ask(part.images))
        if number == 0:
            self._look_up(epoch, index)
        missing = [t for t, found in enumerate(self._found) if found is None]
        live: Iterator[Tensor] = iter(self.ask(part.images, missing) if missing else ())
        answers = []
        for t, (cache, found) in enumerate(zip(self.caches, self._found, strict=True)):
            if found is None:
                stored = cache.form.encode(next(live))
                self._keep(t, stored, part, number)
            else:
                stored = _to(part.images.device, found, part.rows)
            answers.append(cache.form.decode(stored))
        if number + 1 == self._batches.passes:
            self._write()
        return torch.stack(answers)

    def begin(self, first: int, last: int, say: Callable[[str], None], strict: bool = False) -> None:
        """Tell what the caches hold of the steps from `first` up to `last`, and let them take what they lack.

        Where that cannot be stored any more (a full disk) it is told, and they take no more; if `strict`, the `OSError`
        is raised. Raises `UserError` where the first whole record there, the last, or one in the middle is far from
        what the teacher answers now.
        """
        self._say, self._strict = say, strict
        holding, chosen = set(), set()
        for t, cache in enumerate(self.caches):
            there = self.there(t, first, last)
            self._filled[t] = not self._batches.processes.largest(not cache.writable)
            lost = "" if self._filled[t] or len(there) == last - first else ", which cannot be written to"
            say(f"teachers' answers: {len(there)} of {last - first} steps of {cache.name} are in {cache.root}{lost}")
            if there and self._batches.processes.main:  # another process may find more: others write at this moment
                holding.add(t)
                chosen |= {f"{step} {t}" for step in self._samples(t, there)}
        by_step: dict[int, list[int]] = {}
        for each in self._batches.processes.union(chosen) if self.caches else ():
            step, t = map(int, each.split())
            by_step.setdefault(step, []).append(t)
        for step, which in sorted(by_step.items()):
            holding -= set(which) if self._check(step, which) else set()
        for t in sorted(holding):
            say(f"teachers' answers: no record of {self.caches[t].name} could be compared with what it answers now")

    def there(self, teacher: int, first: int, last: int) -> list[int]:
        """The steps from `first` up to `last` of which a teacher's cache has a record, ascending."""
        cache = self.caches[teacher]
        epochs = range(first // cache.steps, -(-last // cache.steps))
        steps = [epoch * cache.steps + int(index) for epoch in epochs for index in np.flatnonzero(cache.there(epoch))]
        return [step for step in steps if first <= step < last]

    def flush(self) -> None:
        """Wait until all that was asked for lies in the caches."""
        while self._underway:
            self._store(self._underway.popleft())

    def _look_up(self, epoch: int, index: int) -> None:
        """Take the records of a batch; one that not all processes find counts as missing."""
        self._found, self._new, processes = [], {}, self._batches.processes
        for t, cache in enumerate(self.caches):
            place = f"{cache.name}'s to step {epoch * cache.steps + index + 1}"
            told = partial(self._say, f"teachers' answers: {place} are damaged in the cache; asked again")
            found = cache.load(epoch, index, damaged=told)
            if processes.largest(found is None):
                found, self.asked = None, self.asked + 1
                self._filled[t] = not processes.largest(not self._filled[t])  # one of them may have met a full disk
                if self._filled[t]:
                    self._new[t] = _Record(cache, epoch, index)
            else:
                self.replayed += 1
            self._found.append(found)

    def _keep(self, teacher: int, stored: Tensor, part: Part, number: int) -> None:
        """Add what all processes have of one pass to the record that is being made."""
        if teacher in self._new:
            everyones = self._batches.processes.gather(stored, part.sizes)
            if self._batches.processes.main:
                self._new[teacher].add(torch.cat(self._batches.rows(number)), everyones)

    def _write(self) -> None:
        """Write the records that have arrived; a few may stay underway, so that no device is waited for."""
        if self._batches.processes.main:
            self._underway.extend(self._new.values())
        while self._underway and (self._underway[0].arrived or len(self._underway) > _AHEAD * len(self.caches)):
            self._store(self._underway.popleft())

    def _store(self, record: _Record) -> None:
        """Put a record into its cache. Where that fails, nothing more is put into any, unless `strict`."""
        try:
            record.write()
        except OSError as error:
            if self._strict:
                raise
            self._filled = [False] * len(self.caches)
            self._underway.clear()
            self._say(f"teachers' answers: {error.filename}: {error.strerror}; no more of them are stored")

    def _samples(self, teacher: int, there: Sequence[int]) -> Iterator[int]:
        """Of the steps that have a record, ascending, the first, one in the middle, and the last that load whole."""
        cache = self.caches[teacher]
        for steps in (there, there[len(there) // 2 :], there[::-1]):
            yield from islice(
                (step for step in steps[:_TRIED] if cache.load(*divmod(step, cache.steps)) is not None), 1
            )

    @torch.no_grad()
    def _check(self, step: int, which: Sequence[int]) -> bool:
        """Compare the records of a step with what these teachers answer now; False where one is not there any more."""
        batches, processes = self._batches, self._batches.processes
        epoch, index = divmod(step, batches.per_epoch)
        found = [record for t in which if (record := self.caches[t].load(epoch, index)) is not None]
        if processes.largest(len(which) - len(found)):
            return False
        squares = torch.zeros(len(which), 2)
        for part in batches.get(epoch, index):
            with torch.autocast(part.images.device.type, torch.bfloat16, enabled=batches.config.train.amp):
                live = self.teachers(part.images, which)  # not worth compiling them for
            for n, (t, record) in enumerate(zip(which, found, strict=True)):
                squares[n] += self.caches[t].form.squares(_to(live.device, record, part.rows), live[n]).cpu()
        difference, both = processes.sum(squares).unbind(1)
        for t, far in zip(which, (difference / both).sqrt().tolist(), strict=True):
            if not far <= FARTHEST:
                raise UserError(
                    f"distill.cache: {str(self.caches[t].root)!r} does not hold what {self.caches[t].name} answers at "
                    f"step {step + 1}: its logits are {100 * far:.0f} % off; give another folder"
                )
        return True


@dataclass(eq=False)
class _Record:
    """Answers to a batch underway to the CPU: of each pass the places int64 [b] in the batch, and uint8 [b,W]."""

    cache: Cache
    epoch: int
    index: int
    places: list[Tensor] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)
    fetched: torch.cuda.Event | None = None

    def add(self, places: Tensor, answers: Tensor) -> None:
        """Send for what one pass has."""
        if answers.is_cuda:
            stream = torch.cuda.current_stream(answers.device)  # of another device than this process's own, perhaps
            there = torch.empty(answers.shape, dtype=answers.dtype, pin_memory=True)
            answers = there.copy_(answers, non_blocking=True)
            self.fetched = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.fetched.record(stream)
        self.places.append(places)
        self.answers.append(answers)

    @property
    def arrived(self) -> bool:
        """Whether all of it is on the CPU."""
        return self.fetched is None or bool(self.fetched.query())  # type: ignore[no-untyped-call]

    def write(self) -> None:
        """Put it into its cache, once it has arrived."""
        if self.fetched is not None:
            self.fetched.synchronize()
        in_order = torch.cat(self.answers)[torch.cat(self.places).argsort()]
        self.cache.store(self.epoch, self.index, in_order.numpy())


def _to(device: torch.device, record: Bytes, rows: Tensor) -> Tensor:
    """These rows int64 [b] of a record uint8 [B,W], on the device, without waiting for it."""
    own = torch.from_numpy(record[rows.numpy()])
    return own.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else own
