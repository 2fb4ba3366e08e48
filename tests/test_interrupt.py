"""The campaign of benchmarks/interrupt.py, in short: real processes, real signals, real limits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "interrupt.py"


@pytest.mark.skipif(sys.platform != "linux", reason="it limits processes as only Linux can")
@pytest.mark.slow
def test_interrupted_runs_of_one_and_two_processes_end_as_the_undisturbed_ones(tmp_path) -> None:
    options = ["--times", "7", "--real", "0", "--epochs", "4", "--output", str(tmp_path / "found.json")]
    command = [sys.executable, str(CAMPAIGN), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr  # the seed comes first
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["all_equal"]
    assert found["processes"]["1"]["interruptions"] == 6
    assert found["processes"]["2"]["interruptions"] == 1
    assert found["processes"]["1"]["equal_to_the_bit"] == found["processes"]["1"]["runs"] >= 1
