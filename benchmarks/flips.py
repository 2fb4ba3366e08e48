"""Flip single bits in the files of a run, and see that each is told or changes no output.

    python benchmarks/flips.py --times 100 --seed 0 --output results/flips.json

A tiny run on the digits (a teacher with a cache of its answers, a regulariser, a moving average) is made twice: to its
end, and stopped halfway. Then, in turn, one random bit is flipped in a copy of

    checkpoint  checkpoints/last.pt of the stopped run, which is gone on with
    previous    the same in both checkpoints of it
    config      config.yaml of the stopped run, which is gone on with
    cache       a file of the cache, with which the run is made again
    weights     weights.safetensors of the complete run, which is evaluated

An outcome is `told` where the command exits with 2 in one line, `mended` where it warns in a line and gives what the
undamaged file gives, to the bit, `harmless` where it says nothing and gives that too; anything else is a failure.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from mixstill import cli
from mixstill.distill.classifier import Facts, build_student, save_student
from mixstill.models import read_weights
from mixstill.schema import from_dict, merge, write_yaml

KINDS = ("checkpoint", "previous", "config", "cache", "weights")
LAST, PREVIOUS = "checkpoints/last.pt", "checkpoints/previous.pt"
OPTIONS: dict[str, dict[str, Any]] = {
    "model": {"name": "mixer_digits", "kwargs": {"num_blocks": 1, "embed_dim": 8}},
    "data": {"samples_per_class": 4},
    "views": {"pad": 1},
    "mi": {"weight": 0.1, "width": 8},
    "optim": {"lr": 0.01, "warmup_epochs": 0.0},
    "train": {"epochs": 3, "batch_size": 20, "ema_decay": 0.9, "device": "cpu", "threads": 1, "compile": "never"},
}


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str


def mixstill(*argv: object) -> Said:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([str(word) for word in argv])
    return Said(code, out.getvalue(), err.getvalue())


class Material:
    """The undamaged runs in a folder, and what they give."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe, self.cache = folder / "recipe.yaml", folder / "cache"
        self.stopped, self.complete = folder / "stopped" / "run", folder / "complete" / "run"
        teacher = from_dict({"model": {"name": "cifar_resnet8", "kwargs": {"width": 4}}, "data": {"input_size": 8}})
        facts = Facts(10, tuple("0123456789"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 8)
        save_student(folder / "teacher.safetensors", build_student(teacher, 10), teacher, facts)
        distill = {"teachers": [f"{folder / 'teacher.safetensors'}@last"], "cache": str(self.cache)}
        write_yaml(from_dict(merge(OPTIONS, {"distill": distill})), self.recipe)
        for run, more in ((self.complete, ()), (self.stopped, ("--max-steps", 4))):
            said = mixstill("train", self.recipe, "--output", run, "--quiet", *more)
            if said.code:
                raise SystemExit(f"the undamaged run failed: {said.err}")
        self.score = mixstill("eval", self.complete, "--json").out
        self.end = end_of(self.complete)

    def flip(self, kind: str, draw: random.Random, number: int) -> tuple[str, str]:
        """Flip a bit in a file of this kind: the outcome, and where it was with what was said."""
        place = self.folder / f"flip{number}"
        run, cache = place / "run", place / "cache"
        shutil.copytree(self.complete if kind == "weights" else self.stopped, run)
        shutil.copytree(self.cache, cache)
        if kind == "cache":
            files = sorted(file for file in cache.rglob("*") if file.is_file())
        else:
            names = {"checkpoint": [LAST], "previous": [LAST, PREVIOUS], "config": ["config.yaml"]}
            files = [run / name for name in names.get(kind, ["weights.safetensors"])]
        chosen = files if kind == "previous" else [draw.choice(files)]
        where = [flip(file, draw) for file in chosen]
        if kind == "weights":
            said = mixstill("eval", run, "--json")
            same = said.out == self.score and equal(run / "weights.safetensors", self.complete / "weights.safetensors")
        else:
            fresh = kind == "cache"
            words = (self.recipe, "--output", place / "new") if fresh else ("--resume", "--output", run)
            more = ("--max-steps", "none") if not fresh else ()
            said = mixstill("train", *words, *more, "--cache", cache)
            same = said.code == 0 and end_of(place / "new" if fresh else run) == self.end
        shutil.rmtree(place)
        return outcome(said, same), f"{kind}, {', '.join(where)}: {said.code} {warning(said)}"


def flip(file: Path, draw: random.Random) -> str:
    """Flip one bit of a file; where."""
    content = bytearray(file.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return f"{file.name} bit {bit} of {8 * len(content)}"


def warning(said: Said) -> str:
    """The line that tells of the damage, if there is one."""
    marks = ("mixstill: ", "warning: checkpoint", "damaged in the cache")
    return next((line for line in said.err.splitlines() if any(mark in line for mark in marks)), "")


def outcome(said: Said, same: bool) -> str:
    """`told`, `mended`, `harmless` or `FAILED`."""
    if said.code == 2 and warning(said):
        return "told"
    if said.code == 0 and same:
        return "mended" if warning(said) else "harmless"
    return "FAILED"


def end_of(run: Path) -> tuple[Any, ...]:
    """All that a run gives, as values that can be compared."""
    weights = [read_weights(run / name).state for name in ("weights.safetensors", "ema.safetensors")]
    tensors = [{name: (str(value.dtype), value.tolist()) for name, value in state.items()} for state in weights]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    metrics = [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]
    return tensors, metrics, json.loads((run / "summary.json").read_text(encoding="utf-8"))["heads"]


def equal(one: Path, other: Path) -> bool:
    """Whether two files hold the same weights, to the bit."""
    here, there = read_weights(one).state, read_weights(other).state
    return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


def campaign(folder: Path, times: int, seed: int, *, verbose: bool = False) -> dict[str, Any]:
    """Flip so many bits, of all kinds in turn; the outcomes by kind, and the failures."""
    draw, material = random.Random(seed), Material(folder)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    failures = []
    for number in range(times):
        kind = KINDS[number % len(KINDS)]
        found, where = material.flip(kind, draw, number)
        outcomes[kind][found] += 1
        if found == "FAILED":
            failures.append(where)
        if verbose:
            print(f"{number} {found}: {where}", flush=True)
    return {"flips": times, "seed": seed, "outcomes": outcomes, "failures": failures}


def main() -> int:
    """Run the campaign; 1 if a flip was neither told nor harmless."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON of what was found")
    parser.add_argument("--verbose", action="store_true", help="a line for each flip")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mixstill-flips-") as folder:
        found = campaign(Path(folder), options.times, options.seed, verbose=options.verbose)
    seconds = round(time.monotonic() - began, 1)
    text = json.dumps(provenance(torch.device("cpu"), options.output) | found | {"seconds": seconds}, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
