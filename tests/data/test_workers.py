"""Workers outlive signals that are meant for the training process, and never the training process itself."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mixstill.data import workers
from mixstill.errors import RunError

SCRIPT = """
import signal, sys, torch
from mixstill.config import DataConfig, ViewsConfig
from mixstill.data import Request, load_split

def requests():
    for epoch in range(10**9):
        yield Request(torch.arange(8), torch.zeros(8, dtype=torch.int64), epoch)

if __name__ == "__main__":
    config = DataConfig(dataset="folder", data_dir=sys.argv[1], workers=2)
    loaded = load_split(config, "train", "cpu", 24, views=ViewsConfig(crop="rrc")).load(requests())
    told = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: told.append(number))
    next(loaded)
    print("began", flush=True)
    while len(told) < 2:
        next(loaded)
    for _ in range(50):
        next(loaded)
    print("goes on", flush=True)
    while True:
        next(loaded)
"""


def is_gone(group, within):
    """Whether all processes of a group have ended `within` so many seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_workers_heed_no_ctrl_c_and_end_with_the_process_that_they_read_for(photo_folder, tmp_path):
    script = tmp_path / "load.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(photo_folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == "began\n"
            for number in (signal.SIGINT, signal.SIGTERM):
                os.killpg(process.pid, number)
                time.sleep(0.1)
            assert process.stdout.readline() == "goes on\n"
        finally:
            process.kill()
            process.wait()
        assert is_gone(process.pid, within=20)


LOAD = """
import sys, torch
from mixstill.config import DataConfig
from mixstill.data import Request, load_split

if __name__ == "__main__":
    config = DataConfig(dataset="folder", data_dir=sys.argv[1], workers=1)
    wanted = Request(torch.arange(4), torch.zeros(4, dtype=torch.int64), 0)
    print(len(next(load_split(config, "train", "cpu", 24).load([wanted]))[1]))
"""


@pytest.mark.slow
def test_workers_import_nothing_from_the_current_folder(photo_folder, tmp_path):
    (tmp_path / "here").mkdir()
    for name in ("grp", "timm"):
        (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit(7)")
    script = tmp_path / "load.py"
    script.write_text(LOAD)
    command = [sys.executable, str(script), str(photo_folder)]
    done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr


@pytest.mark.parametrize("error", [EOFError("unexpected EOF"), OSError(24, "Too many open files")])
def test_workers_that_cannot_be_started_are_told_in_one_line(monkeypatch, error):
    class Loader:
        def __iter__(self):
            raise error

    with pytest.raises(RunError, match=r"^data.workers: worker processes cannot be started: .*; --workers 0 reads"):
        next(workers._results(Loader()))


class Killing:
    """Ends the worker that reads it, as the kernel does where memory runs out."""

    def __getitem__(self, task):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_told_with_its_likely_causes():
    expected = (
        r"^data: DataLoader worker .*(killed|exited).*; perhaps for want of memory or room in /dev/shm: fewer --workers"
    )
    with pytest.raises(RunError, match=expected):
        list(workers.read_in_order(Killing(), [0], 1, pin=False))
