"""Worker processes that read ahead: how they start, what they heed, and in what order their work comes back.

Workers come from a fork server, a process that knows neither CUDA nor threads; a fork of the training process itself
would copy both. Signals are for the training process, which stops its workers when it has written its checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable
from multiprocessing import forkserver, resource_tracker
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mixstill.data.images import run_no_programs
from mixstill.errors import DataError, RunError, one_line
from mixstill.quiet import environment, no_warnings

T = TypeVar("T")

_AHEAD = 2  # tasks of each worker that are read ahead
# Where it cannot be told who sent a SIGTERM, it is heeded.
_SIGNALS = {signal.SIGINT, signal.SIGTERM} if hasattr(signal, "sigtimedwait") else {signal.SIGINT}
_SIGNALS |= {signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()
_LOOK_FOR_PARENT = 2.0  # seconds between two looks whether the training process lives


def read_in_order(dataset: Dataset[T], tasks: Iterable[Any], workers: int, *, pin: bool) -> Generator[T]:
    """`dataset[task]` for each of the tasks, in their order, read ahead by `workers` processes or by none."""
    if not workers:
        return (dataset[task] for task in tasks)
    return _results(_loader(dataset, workers, pin, sampler=tasks))


def read_stream(dataset: IterableDataset[T], workers: int, seed: int, *, pin: bool) -> Generator[T]:
    """What `dataset` gives in each of `workers` processes, in turn; its workers are seeded by `seed`."""
    if not workers:
        return (block for block in dataset)
    return _results(_loader(dataset, workers, pin, seed=seed))


def _loader(dataset: Dataset[T], workers: int, pin: bool, seed: int = 0, **options: Any) -> DataLoader[T]:
    with no_warnings():  # of more workers than processors, which the user has asked for
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=_AHEAD,
            pin_memory=pin,
            collate_fn=_as_it_is,
            worker_init_fn=_begin,
            multiprocessing_context=start_server(),
            generator=torch.Generator().manual_seed(seed),  # torch's own, global one is left alone
            **options,
        )


def _results(loader: DataLoader[T]) -> Generator[T]:
    try:
        with no_warnings():
            results: Any = iter(loader)
    except (EOFError, OSError) as error:  # their server is gone, or there is no room for more processes
        raise _not_started(error) from error
    try:
        yield from results
    except Exception as error:
        text = str(error).strip()
        if not text.startswith(("Caught ", "DataLoader worker")):
            raise
        last = text.splitlines()[-1]
        if text.startswith("DataLoader"):
            raise DataError(
                f"data: {last.rstrip('.')}; perhaps for want of memory or room in /dev/shm: fewer --workers need less"
            ) from error
        # Of what a worker raised the last line follows its traceback.
        raise DataError(f"data: {last.removeprefix('mixstill.errors.DataError: ').removeprefix('data: ')}") from error
    finally:
        results._shutdown_workers()  # collected as garbage, they would be waited for in vain


def _not_started(error: Exception) -> RunError:
    return RunError(
        f"data.workers: worker processes cannot be started: {one_line(error)}; --workers 0 reads without them"
    )


def _as_it_is(value: T) -> T:
    return value


def start_server(modules: Iterable[str] = ()) -> Any:
    """The context that workers start in; its server begins to import what they need, `modules` besides."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mixstill.data.streaming", *modules])
    # Python processes started here import nothing from the current folder, where `python -c` looks first. The server
    # inherits the mask, and its workers from it: none of them ever sees a Ctrl-C.
    with environment("PYTHONSAFEPATH", "1"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            resource_tracker.ensure_running()  # it heeds neither SIGINT nor SIGTERM by itself, and unblocks them here
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            forkserver.ensure_running()
        except (EOFError, OSError) as error:
            raise _not_started(error) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _begin(_: int) -> None:
    """In a worker: heed no signal but the training process's own SIGTERM, and end when that process has ended."""
    run_no_programs()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.is_alive():
        if signal.SIGTERM not in _SIGNALS:
            parent.join(_LOOK_FOR_PARENT)
        elif (told := signal.sigtimedwait({signal.SIGTERM}, _LOOK_FOR_PARENT)) and told.si_pid == parent.pid:
            break
    os._exit(0)
