"""The processes of one `mixstill train`, to be interrupted: forked from this one, or started as users do."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import mixstill.commands.train
import mixstill.teaching
import mixstill.train.run  # noqa: F401  (what a forked process has imported then)
from mixstill import cli

GRACE = 30.0  # seconds that torchrun gives the other processes of a run of which one has failed
PATIENCE = 180.0


@dataclass(frozen=True)
class Ended:
    """The worst exit code, what was printed, and whether it had to be killed: beside one that failed, or by itself."""

    code: int
    said: str
    stubborn: bool
    hung: bool


class Attempt:
    """The processes of one `mixstill train`, by rank; `torchrun` stands before them where it started them."""

    def __init__(self, argv: list[str], processes: int, *, real: bool, restarts: int = 0) -> None:
        self.processes = processes
        self.torchrun = real and processes > 1
        self._read, write = os.pipe()  # not a file, which the limit on sizes would hold for
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)  # nobody reads before the end
        environment = {"OMP_NUM_THREADS": "1"}
        self._real: subprocess.Popen[bytes] | None = None
        if real:
            module = [sys.executable, "-m", "mixstill", *argv]
            several = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            several += [f"--max-restarts={restarts}", "--monitor-interval=0.1", "-m", "mixstill", *argv]
            command = module if processes == 1 else several
            self._real = subprocess.Popen(command, stdout=write, stderr=write, env=os.environ | environment)
            self._started = [self._real.pid]
        else:
            if processes > 1:
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
                environment |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
            ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {} for rank in range(processes)]
            self._started = [fork(argv, write, environment | rank) for rank in ranks]
        os.close(write)
        self.codes: dict[int, int] = {}

    def ranks(self) -> list[int]:
        """The processes that train, rank 0 first; fewer while torchrun starts them."""
        return sorted(descendants(self._started[0]), key=rank_of) if self.torchrun else self._started

    def send(self, number: int, targets: list[int]) -> bool:
        """Send a signal; whether one of the processes was still there."""
        there = False
        for target in targets:
            if target not in self.codes:
                try:
                    os.kill(target, number)
                    there = True
                except ProcessLookupError:
                    continue
        return there

    def everyone(self) -> list[int]:
        """All processes, torchrun included."""
        return [*self._started, *(self.ranks() if self.torchrun else [])]

    def poll(self) -> bool:
        """Whether all have ended."""
        for process in self._started:
            if process not in self.codes:
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    self.codes[process] = os.waitstatus_to_exitcode(status)
        return len(self.codes) == len(self._started)

    def wait(self, seconds: float) -> bool:
        """Whether all have ended within this time."""
        end = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True

    def end(self) -> Ended:
        """Wait for the end; does torchrun's part for forks: where one has failed, the others are asked to stop."""
        stubborn = hung = False
        end = time.monotonic() + PATIENCE
        while not self.poll():
            hung = hung or time.monotonic() > end
            if hung or any(self.codes.values()):
                self.send(signal.SIGTERM, self._started)
                if not self.wait(GRACE):
                    stubborn = True
                    self.send(signal.SIGKILL, self.everyone())
            time.sleep(0.001)
        if self._real is not None:
            self._real.returncode = self.codes[self._real.pid]
        with os.fdopen(self._read, "rb") as file:
            said = file.read().decode(errors="replace")
        bad = [code for code in self.codes.values() if code]
        return Ended(bad[0] if bad else 0, said, stubborn, hung)


def fork(argv: list[str], write: int, environment: dict[str, str]) -> int:
    """Runs `mixstill ARGV` in a process of its own."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.environ.update(environment)
        code = cli.main(argv)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def descendants(process: int) -> list[int]:
    """The training processes that torchrun has started."""
    found = []
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    for child in map(int, children):
        found += [child] if rank_of(child) >= 0 else descendants(child)
    return found


def rank_of(process: int) -> int:
    """The RANK in the environment of a process; -1 without one."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return -1
    found = [variable[5:] for variable in variables if variable.startswith(b"RANK=")]
    return int(found[0]) if found else -1
