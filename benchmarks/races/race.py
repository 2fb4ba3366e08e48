"""Race mixstill against other people's programs, each run unmodified from a checkout of its repository.

    python benchmarks/races/race.py full --std DIR --timm DIR --deit DIR --data-dir DIR --output results
    python benchmarks/races/race.py all --precision same best --std DIR --timm DIR --deit DIR --output results
    python benchmarks/races/race.py all --toy --precision eager --std DIR --timm DIR --deit DIR

Races: full (views, teachers, student, optimizer), student (its step on one batch in memory), views (batches on the
device), teacher (forward passes), epoch (whole programs, from disk to weights), inference (the class head of a stripped
student beside timm's model), overhead (ours alone: what live and cached teachers add to a step). Contenders take turns
in one run, and new processes begin `--starts` times; one whose checkout is not named does not take part.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from contest import Length, RaceError, alternate, whole_runs
from duels import DUELS, Duel
from material import prepare
from task import PRECISIONS, RACES, Task
from verdict import contender, losses_agree, ratios

from mixstill.train.device import computes_bfloat16

sys.path.append(str(Path(__file__).parents[1]))

from provenance import provenance

BATCH = {"cpu": 32, "cuda": 1024}
LENGTH = {"cpu": Length(starts=5, rounds=1, steps=3, warm_up=2), "cuda": Length(2, 5, 20, 3)}
TOY_BATCH, TOY = 8, Length(starts=2, rounds=1, steps=1, warm_up=2)
LONGER = {"views": 10, "teacher": 3, "inference": 10}  # times as many steps, of those that are short
AHEAD = 16  # batches that a loader's workers may have read beyond those that were taken
PROGRAMS = ("std", "timm", "deit")
MOST = 50_000  # training images of CIFAR-100


def main() -> None:
    """Run the races that are asked for; exit 1 where one could not be run or its losses differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("race", choices=[*RACES, "all"])
    for program in PROGRAMS:
        parser.add_argument(f"--{program}", type=Path, help="checkout of its repository")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["same"])
    parser.add_argument("--device", choices=BATCH, default="cpu")
    parser.add_argument("--data-dir", type=Path, help="CIFAR-100; default: made images")
    parser.add_argument("--teachers", type=Path, nargs=2, default=[], help="weights files; default: made, untrained")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--starts", type=int, help="of new processes")
    parser.add_argument("--rounds", type=int, help="of turns after a start")
    parser.add_argument("--steps", type=int, help="in a turn")
    parser.add_argument("--images", type=int, help="of the epoch race; default: 16 batches")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="of the others' loaders; default: one per core"
    )
    parser.add_argument("--toy", action="store_true", help="tiny models and few steps, to rehearse")
    parser.add_argument("--output", type=Path, help="folder of the figures, a file for each race; or the file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # no contender is left behind
    failed = False
    for precision in options.precision:
        for race in RACES if options.race == "all" else [options.race]:
            found = run(race, precision, options)
            failed = failed or not found["complete"]
            if options.output:
                file = f"race-{race}-{options.device}-{precision}.json"
                path = options.output if options.output.suffix == ".json" else options.output / file
                path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if failed else 0)


def run(race: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """All duels of a race, one after another."""
    usual = TOY if options.toy else LENGTH[options.device]
    given = {name: value for name in ("starts", "rounds", "steps") if (value := getattr(options, name))}
    length = replace(usual, **given)
    length = replace(length, steps=length.steps * LONGER.get(race, 1))
    batch_size = options.batch_size or (TOY_BATCH if options.toy else BATCH[options.device])
    images = min(MOST, batch_size * (length.taken + AHEAD))  # so that no loader begins another epoch
    if race == "epoch":
        images = options.images or 16 * batch_size
    device, bf16 = torch.device(options.device), computes_bfloat16(torch.device(options.device))
    result = provenance(device, options.data_dir, options.output, *checkouts(options).values(), *options.teachers) | {
        "race": race,
        "precision": precision,
        "bf16": bf16,
        "toy": options.toy,
        "data": "CIFAR-100" if options.data_dir else "made images",
        "teachers": "given" if options.teachers else "made, untrained",
        "settings": {"batch_size": batch_size, "images": images}
        | asdict(length)
        | {"workers": options.workers, "cores": os.cpu_count()},
        "others": {name: state(path) for name, path in checkouts(options).items()},
        "packages": {name: metadata.version(name) for name in ("torch", "timm", "torchvision", "pillow", "numpy")},
        "duels": {},
        "complete": True,
    }
    for name, duel in DUELS.items():
        where = checkouts(options).get(duel.checkout or "")
        if race not in duel.races or (duel.checkout and where is None):
            continue
        with tempfile.TemporaryDirectory() as folder:
            tasks = {
                contestant: Task(
                    program=program,
                    race=race,
                    duel=name,
                    variant=variant,
                    precision=precision,
                    device=options.device,
                    bf16=bf16,
                    batch_size=batch_size,
                    workers=options.workers,
                    toy=options.toy,
                    folder=folder,
                    checkout=str(where.resolve()) if where else "",
                )
                for contestant, (program, variant) in duel.contenders.items()
            }
            prepare(next(iter(tasks.values())), images, options.data_dir, options.teachers)
            try:
                result["duels"][name] = meet(race, duel, tasks, length, images)
            except RaceError as error:
                result["duels"][name] = {"failed": str(error).replace(folder, "FOLDER")}
        tell(race, precision, name, result["duels"][name])
        agreed = (result["duels"][name].get("losses") or {"agree": True})["agree"]
        result["complete"] = result["complete"] and agreed and "failed" not in result["duels"][name]
    return result


def meet(race: str, duel: Duel, tasks: dict[str, Task], length: Length, images: int) -> dict[str, Any]:
    """One duel and what came of it."""
    batch_size = next(iter(tasks.values())).batch_size
    profiled = race in ("full", "student", "overhead")
    found = whole_runs(tasks, length.starts) if race == "epoch" else alternate(tasks, length, profiled)
    entries = {
        name: contender(entry, images if race == "epoch" else batch_size) | {"program": tasks[name].program}
        for name, entry in found.items()
    }
    return {
        "contenders": entries,
        "ratios": ratios(entries),
        "losses": losses_agree(race, next(iter(tasks.values())).precision, entries),
        "differences": list(duel.differences),
    }


def tell(race: str, precision: str, name: str, found: dict[str, Any]) -> None:
    """A duel's result in lines."""
    print(f"{race} {precision} {name}:", flush=True)
    if "failed" in found:
        print(f"  {found['failed']}", flush=True)
        return
    for contestant, entry in found["contenders"].items():
        ratio = found["ratios"].get(contestant)
        times = f", {ratio['median']:.3f} times the first's seconds" if ratio else ""
        losses = f", losses {', '.join(f'{loss:.4f}' for loss in entry['losses'])}" if entry["losses"] else ""
        print(f"  {contestant}: {entry['images_per_second']:.1f} images/s{times}{losses}", flush=True)
    if found["losses"]:
        print(f"  losses agree: {found['losses']}", flush=True)


def checkouts(options: argparse.Namespace) -> dict[str, Path]:
    """The repositories that are there, by program."""
    return {name: path for name in PROGRAMS if (path := getattr(options, name)) is not None}


def state(checkout: Path) -> dict[str, str | None]:
    """A checkout's commit where git knows it, and the digest of its Python files."""
    files = sorted(file for file in checkout.rglob("*.py") if ".git" not in file.parts)
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    words = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return {"commit": commit if (checkout / ".git").exists() else None, "digest": digest}


if __name__ == "__main__":
    main()
