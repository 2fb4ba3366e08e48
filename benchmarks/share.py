"""Measure which share of a training step the views take, of whole recipes on made images that lie on the device.

    python benchmarks/share.py cifar100-std imagenet-std-mixer-s16 --batch-size 1024 --output results/views-share.json

The recipe's own student, views, optimizer and teachers (the architectures, with random weights) in full steps.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from mixstill import recipes
from mixstill.config import Config
from mixstill.data import Resident
from mixstill.data.images import STATISTICS
from mixstill.distill.classifier import Facts, build_student, save_student
from mixstill.distill.placement import Placement
from mixstill.distill.teachers import Teachers
from mixstill.train.batch import Batches
from mixstill.train.build import Job, make_stepper, student_pixels
from mixstill.train.device import pick_device
from mixstill.train.state import State
from mixstill.train.trial import time_steps

CLASSES = {"cifar100": 100, "folder": 1000}


def main() -> None:
    """Measure each recipe and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", default="always", help="auto, never, always or graphs")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast, whatever the recipe says")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    rows = {}
    for name in options.recipes:
        rows[name] = row = measure(name, options, device)
        shares = ", ".join(f"{piece} {share:.1%}" for piece, share in row["shares"].items())
        print(f"{name}: {row['images_per_second']:.0f} images/s; {shares}", flush=True)
        if options.output:
            result = provenance(device, options.output) | {"rows": rows}
            options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(recipe: str, asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images per second of full steps, and what the pieces of a step take of it; `data` are the views and mixing."""
    config, batch_size = recipes.load(recipe), asked.batch_size
    amp = asked.amp or config.train.amp
    options = replace(config.train, batch_size=batch_size, device_batch_size=None, amp=amp, compile=asked.compile)
    with tempfile.TemporaryDirectory() as folder:
        job = made(replace(config, train=options), Path(folder), device)
    taken = time_steps(job, asked.steps, seconds=float("inf"))
    return {
        "batch_size": batch_size,
        "pixels": job.facts.input_size,
        "steps": taken.count,
        "seconds_per_step": taken.median,
        "images_per_second": batch_size / taken.median,
        "shares": taken.shares,
    }


def made(config: Config, folder: Path, device: torch.device) -> Job:
    """The run of the recipe on made images."""
    size, classes = student_pixels(config), CLASSES[config.data.dataset]
    n = 2 * config.train.batch_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator).to(device)
    labels = torch.randint(0, classes, (n,), generator=generator).to(device)
    names, statistics = tuple(map(str, range(classes))), STATISTICS[config.data.dataset]
    data = Resident(pixels, labels, torch.arange(n), names, *statistics)
    facts = Facts(classes, names, *statistics, size)
    placements = [Placement.parse(text) for text in config.distill.teachers]
    files = {teacher: str(untrained(teacher, folder, facts)) for teacher in {p.teacher for p in placements}}
    teachers = Teachers([replace(p, teacher=files[p.teacher]) for p in placements], facts).to(device)
    student = build_student(config, classes).to(device)
    state = State.start(config, student)
    batches, stepper = make_stepper(config, device, facts, teachers, Batches(data, config, size))
    return Job(config, device, facts, {"train": data, "test": data}, ["test"], teachers, state, batches, stepper)


def untrained(teacher: str, folder: Path, facts: Facts) -> Path:
    """A file with random weights for a teacher that is a recipe or a name of timm."""
    config = Config()
    name = recipes.load(teacher).model.name if teacher in recipes.names() else teacher.partition(".")[0]
    config = replace(config, model=replace(config.model, name=name), data=replace(config.data, input_size=None))
    path = folder / f"{re.sub(r'[^a-z0-9]', '-', teacher)}.safetensors"
    save_student(path, build_student(config, facts.num_classes), config, facts)
    return path


if __name__ == "__main__":
    main()
