"""Workers outlive signals that are meant for the training process, and never the training process itself."""

import os
import signal
import subprocess
import sys
import time

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
