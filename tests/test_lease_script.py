"""benchmarks/reproduce.sh: data gathered from pieces, small files left while it trains, and work taken up again."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "reproduce.sh"

# in the place of the interpreter: leaves what `mixstill reproduce` leaves in its --output, and ends as it is told
COMMAND = """#!/usr/bin/env bash
echo "$@" | grep -q -- "-m mixstill reproduce cifar100 --data-dir data --output work --rows std" || exit 9
mkdir -p work/teachers/small/checkpoints work/teachers/large work/seed0/std
touch work/table.json work/curves.svg work/seed0/std.log work/seed0/std.seconds
for run in teachers/small seed0/std; do
    for name in config.yaml metrics.jsonl summary.json weights.safetensors; do echo "$run" > "work/$run/$name"; done
done
touch work/teachers/large/config.yaml work/teachers/small/checkpoints/last.pt
{end}
"""


@pytest.fixture
def script(tmp_path):
    """Runs the script in an empty folder, with a program in the place of the interpreter."""

    def run(*words: object, end: str = "") -> subprocess.CompletedProcess[str]:
        command = tmp_path / "interpreter"
        command.write_text(COMMAND.replace("{end}", end))
        command.chmod(0o755)
        env = os.environ | {"PYTHON": str(command), "POLL": "0.1"}
        words = ("bash", SCRIPT, *words)
        return subprocess.run([*map(str, words)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    return run


def test_data_is_gathered_from_pieces(script, tmp_path) -> None:
    for number in (0, 1):
        (tmp_path / "piece").mkdir(exist_ok=True)
        (tmp_path / "piece" / f"train-0000{number}.parquet").touch()
        assert script("gather", "piece", "data").returncode == 0
    assert sorted(file.name for file in (tmp_path / "data").iterdir()) == ["train-00000.parquet", "train-00001.parquet"]
    assert script("gather", "nowhere", "there").returncode != 0


@pytest.mark.parametrize(("seconds", "end", "code"), [(50, "", 0), (50, "exit 1", 1), (5, "sleep 30", 124)])
def test_what_there_is_comes_back_however_it_ends(script, tmp_path, seconds, end, code) -> None:
    assert script("train", "data", "work", "out", seconds, "--rows", "std", end=end).returncode == code
    files = ["curves.svg", "log.txt", "runs.tar.gz", "small.safetensors", "table.json"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == files
    with tarfile.open(tmp_path / "out" / "runs.tar.gz") as packed:
        names = {name.removeprefix("./") for name in packed.getnames()}
    assert {"seed0/std/summary.json", "seed0/std.log", "seed0/std.seconds", "teachers/large/config.yaml"} <= names
    assert not any(name.endswith((".safetensors", ".pt")) for name in names)


def test_what_came_back_is_gone_on_with_elsewhere(script, tmp_path) -> None:
    script("train", "data", "work", "out", 50, "--rows", "std")
    assert script("restore", "out", "anew").returncode == 0
    assert (tmp_path / "anew" / "seed0" / "std" / "summary.json").read_text() == "seed0/std\n"
    assert (tmp_path / "anew" / "teachers" / "small" / "weights.safetensors").read_text() == "teachers/small\n"


@pytest.mark.parametrize("words", [(), ("trian", "data")])
def test_a_word_that_it_does_not_know_is_told(script, words) -> None:
    said = script(*words)
    assert said.returncode == 2
    assert said.stderr.startswith("usage: ")
