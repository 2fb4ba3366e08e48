"""Runs trained by processes of their own, several at once, each resumed where it stands."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import torch

from mixstill.config import Config
from mixstill.errors import InterruptedRun, many
from mixstill.paths import check_regular, read_regular
from mixstill.reproduction import clock
from mixstill.reproduction.plan import Run
from mixstill.schema import write_yaml
from mixstill.train.run import complete_summary
from mixstill.train.signals import StopSignal

_POLL = 0.2  # seconds
_MOST_ON_GPU = 4  # they share it: with more, the important rows end no sooner than the others
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_NEEDS_FAILED = "a run that it needs failed"


def finished(path: Path) -> bool:
    """Whether the run in `path` has been trained to its end."""
    return complete_summary(path) is not None


def room(device: torch.device, threads: int | None, gigabytes: float) -> int:
    """How many runs of `threads` CPU threads and `gigabytes` of GPU memory the machine has room for at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, min(_MOST_ON_GPU, cores, int(free / 1e9 / gigabytes)))
    return max(1, cores // (threads or cores))


def train_all(
    runs: Sequence[Run],
    jobs: int,
    say: Callable[[str], None],
    ended: Callable[[dict[str, str]], None],
    *,
    inherited: Sequence[int] = (),
) -> dict[str, str]:
    """Train `jobs` runs at once, in their order, each when what it needs is finished; finished ones are left alone.

    `ended` is called after each run with what failed so far; `inherited` are file descriptors that the processes keep.
    Returns the last words of the runs that failed, by name. Raises `InterruptedRun` on SIGINT, SIGTERM or SIGHUP, once
    each run has ended, with a checkpoint if it had begun to train.
    """
    waiting = [run for run in runs if not finished(run.path)]
    say(f"{len(runs) - len(waiting)} of {many(len(runs), 'run')} finished before; {jobs} at once")
    total, running, failed = len(waiting), dict[subprocess.Popen[bytes], Run](), dict[str, str]()
    began: dict[str, float] = {}
    with StopSignal() as stop:
        try:
            while (waiting or running) and stop.number is None:
                # begin what can begin
                lost = {_at(run) for run in runs if run.name in failed}
                failed |= {run.name: _NEEDS_FAILED for run in waiting if lost & set(run.needs)}
                waiting = [run for run in waiting if run.name not in failed]
                ready = (run for run in waiting if all(map(finished, run.needs)))
                for run in list(islice(ready, jobs - len(running))):
                    running[_start(run, inherited)], began[run.name] = run, time.monotonic()
                    waiting.remove(run)

                # see what has ended
                time.sleep(_POLL)
                for process in [process for process in running if process.poll() is not None]:
                    run = running.pop(process)
                    clock.note(run.path, time.monotonic() - began[run.name])
                    done = total - len(waiting) - len(running)
                    if process.returncode == 0 and finished(run.path):
                        say(f"[{done}/{total}] {run.name}: {_score(run)}")
                    else:
                        failed[run.name] = _why(run, process.returncode)
                        say(f"[{done}/{total}] {run.name} failed: {failed[run.name]}")
                    ended(failed)
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process, run in running.items():
                process.wait()
                clock.note(run.path, time.monotonic() - began[run.name])
    if stop.number is not None:
        ended(failed)  # some may have come to their end on the way
        raise InterruptedRun(
            stop.number, "the runs stopped with their checkpoints; give the same command again to go on"
        )
    return failed


def _at(run: Run) -> Path:
    return run.path.resolve()


def command_of(run: Run) -> list[str]:
    """The words that train the run, or go on with it."""
    recipe = str(run.path.with_suffix(".yaml"))
    return [sys.executable, "-m", "mixstill", "train", recipe, "--output", str(run.path), "--resume", "--quiet"]


def _start(run: Run, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    """A process of its own session, so that a signal from the terminal reaches it once, through this process."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(run.config, run.path.with_suffix(".yaml"))
    if _log(run).exists():
        check_regular(_log(run))
    with _log(run).open("ab") as log:
        return subprocess.Popen(
            command_of(run),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=inherited,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            env=os.environ | _threads(run.config),
        )


def _threads(config: Config) -> dict[str, str]:
    """OpenMP's threads from the start of the process: those of libraries that PyTorch does not tell."""
    return {} if config.train.threads is None else {"OMP_NUM_THREADS": str(config.train.threads)}


def _die_with_parent() -> None:
    """End, with a checkpoint, when the process that started this one is killed."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)


def _log(run: Run) -> Path:
    return run.path.with_suffix(".log")


def _why(run: Run, code: int) -> str:
    """The last words of a run that failed; one that was killed had none, and the log those of an earlier attempt."""
    lines = read_regular(_log(run)).decode(errors="replace").splitlines() if code > 0 else []
    return (lines[-1].strip() if lines else "") or f"it ended with {code}"


def _score(run: Run) -> str:
    summary = complete_summary(run.path) or {}
    return f"top-1 {summary['top1']:.2f} after {clock.minutes(run.path, summary)} minutes"
