"""The processes of a run: one, or as many as torchrun started, which then work on the same batch.

Without torchrun, or with one process, every operation here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixstill.errors import RunError, one_line


@dataclass(frozen=True)
class Processes:
    """This process's number among all of them. Each operation must be called by every process alike."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, of any shape; not differentiable."""
        if self.count > 1:
            values = values.detach().clone()
            dist.all_reduce(values)
        return values

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.count == 1:
            return value
        held = torch.tensor(value)  # on the CPU, so that no device is waited for
        dist.all_reduce(held, op=dist.ReduceOp.MAX)
        return int(held)

    def gather(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """Everyone's values one behind the other: [b, D] of `sizes` by rank -> [sum of sizes, D].

        A gradient reaches the caller's own values only: each process is to compute what follows from all values.
        """
        if self.count == 1:
            return values
        longest = max(sizes)
        padded = values.new_zeros(longest, *values.shape[1:])
        padded[: len(values)] = values.detach()
        held = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(held, padded)
        parts = [part[:size] for part, size in zip(held, sizes, strict=True)]
        parts[self.rank] = values
        return torch.cat(parts)

    def union(self, texts: set[str]) -> list[str]:
        """The texts of all processes, each once, sorted."""
        if self.count == 1:
            return sorted(texts)
        held: list[set[str]] = [set()] * self.count
        dist.all_gather_object(held, texts)
        return sorted(set().union(*held))

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Make the gradients their mean over the processes."""
        for parameter in parameters if self.count > 1 else ():
            if parameter.grad is not None:
                parameter.grad.copy_(self.sum(parameter.grad) / self.count)

    def average_buffers(self, model: nn.Module) -> None:
        """Make what a model counts along the way (the statistics of batch norm) the mean over the processes."""
        for buffer in model.buffers() if self.count > 1 else ():
            if buffer.is_floating_point():
                buffer.copy_(self.sum(buffer) / self.count)

    def wait(self) -> None:
        """Until all processes are here."""
        self.largest(0)


ALONE = Processes()


def launched() -> Processes:
    """What torchrun says about this process."""
    return Processes(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if "RANK" in os.environ else ALONE


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, joined into a group while entered; this one alone without torchrun.

    A group that exists already is used and left as it is. Raises `RunError` where another process is gone.
    """
    processes = launched()
    fresh = processes.count > 1 and not dist.is_initialized()
    try:
        if fresh:
            _join(processes)
        yield processes
        if fresh:
            processes.wait()  # nobody leaves while another still talks
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error)  # gloo's errors have no type of their own
        if processes.count == 1 or not lost:
            raise
        raise RunError(
            f"rank {processes.rank}: the other processes cannot be reached: {one_line(error, 160)}"
        ) from error
    finally:
        if fresh and dist.is_initialized():
            dist.destroy_process_group()


def _join(processes: Processes) -> None:
    # small things on the CPU go by gloo, gradients on a GPU by NCCL
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE"):
        dist.init_process_group(backend)
        return
    # Processes that torchrun started again would find the addresses of the dead ones in its store (pytorch #135712).
    # The number of the restart keeps them apart; it is the same for all processes of one machine only.
    store, rank, count = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count)
