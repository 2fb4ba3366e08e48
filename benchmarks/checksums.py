"""What checksums cost, as a share of the writing and reading that they are for.

    python benchmarks/checksums.py --output results/checksums.json

A student of Mixer-S/4 at 32 pixels with two modules, after a step of AdamW, and its weights, on the CPU and this disk.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from provenance import provenance

from mixstill import recipes
from mixstill.digest import damage_of_archive, seal_archive
from mixstill.distill.classifier import build_student
from mixstill.models import read_weights, weights, write_weights
from mixstill.schema import mathematics
from mixstill.train.state import State


def seconds(call: Callable[[], object], times: int) -> float:
    """The median over so many calls, after one that does not count."""
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


def main() -> int:
    """Measure, and print the figures; 1 where a checkpoint takes 3 % longer or more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--output", type=Path, help="JSON of what was found")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = recipes.load("cifar100-std", {"distill": {"teachers": ["a@2/3", "b@last"]}})
    student = build_student(config, 100)
    state = State.start(config, student)
    for parameter in student.parameters():
        parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()
    archive = io.BytesIO()
    torch.save(state.content(), archive)
    tensors = dict(student.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        file, other = Path(folder) / "last.pt", Path(folder) / "weights.safetensors"
        times = {
            "checkpoint_written": seconds(lambda: state.save(file), options.times),
            "of_it_checksums": seconds(lambda: mathematics(config), options.times)
            + median(sealing(archive.getvalue()) for _ in range(options.times)),
            "checkpoint_read": seconds(lambda: state.restore(file), options.times),
            "of_it_checking": seconds(lambda: damage_of_archive(file), options.times),
            "weights_written": seconds(lambda: write_weights(other, tensors), options.times),
            "weights_read": seconds(lambda: read_weights(other), options.times),
            "of_each_checksums": seconds(lambda: weights.digests(tensors, {}), options.times),
        }
        sizes = {"checkpoint": file.stat().st_size, "weights": other.stat().st_size}
    share = 100 * times["of_it_checksums"] / times["checkpoint_written"]
    found = {
        "what": "seconds, medians; percent_of_a_checkpoint is of_it_checksums over checkpoint_written",
        "bytes": sizes,
        "seconds": {name: round(value, 4) for name, value in times.items()},
        "percent_of_a_checkpoint": round(share, 2),
    }
    text = json.dumps(provenance(torch.device("cpu"), options.output) | found, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 1 if share >= 3 else 0


def sealing(content: bytes) -> float:
    """Seconds to put the checksum into an archive."""
    archive = io.BytesIO()
    archive.write(content)
    began = time.perf_counter()
    seal_archive(archive)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
