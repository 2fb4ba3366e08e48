"""The campaign of benchmarks/flips.py, in short: single flipped bits are told, or change no output."""

import importlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
flips = importlib.import_module("flips")


def test_flipped_bits_are_told_or_change_nothing(tmp_path) -> None:
    found = flips.campaign(tmp_path, 24, seed=1)
    assert found["failures"] == []
    assert {kind: counts.total() for kind, counts in found["outcomes"].items()} == dict.fromkeys(flips.KINDS, 5) | {
        "weights": 4
    }
    assert found["outcomes"]["checkpoint"]["mended"] > 0
    assert found["outcomes"]["previous"]["told"] > 0
