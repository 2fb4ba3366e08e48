"""Project how long a run takes, from two finished runs of it with different numbers of epochs.

    python benchmarks/projection.py RUN_OF_2_EPOCHS RUN_OF_12_EPOCHS --epochs 300 --output results/projection.json

What one has more than the other is the time of its further epochs; what both have besides, the start and the end, is
counted once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from provenance import provenance


def main() -> None:
    """Read both summaries and write the projection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    short, long = (json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in options.runs)
    found = project(short, long, options.epochs)
    print(f"{found['seconds_per_epoch']:.2f} s per epoch, {found['seconds'] / 60:.1f} min for {options.epochs}")
    if options.output:
        about = provenance(torch.device("cpu"), *options.runs, options.output) | {"machine": long["machine"]}
        options.output.write_text(json.dumps(about | found, indent=2) + "\n", encoding="utf-8")


def project(short: dict[str, Any], long: dict[str, Any], epochs: int) -> dict[str, float]:
    """Seconds of an epoch, and of a run of `epochs`."""
    each = (long["seconds"] - short["seconds"]) / (long["epochs"] - short["epochs"])
    return {
        "measured_epochs": long["epochs"],
        "seconds_per_epoch": each,
        "epochs": epochs,
        "seconds": long["seconds"] + each * (epochs - long["epochs"]),
    }


if __name__ == "__main__":
    main()
