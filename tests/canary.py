"""The child of test_security.py: uses files that ask for what data may not, and reports what each use came to.

An audit hook sees, and stops, whatever would run a program or reach the net; the folder is listed before and after.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from mixstill import cli
from mixstill.distill.classifier import Facts, build_student
from mixstill.distill.teachers import load_teacher
from mixstill.errors import UserError
from mixstill.models import write_weights
from mixstill.schema import from_dict, merge, to_dict

BASE = {
    "model": {"name": "mixer_digits", "kwargs": {"num_blocks": 1, "embed_dim": 8}},
    "data": {"samples_per_class": 1, "workers": 0, "input_size": 8},
    "train": {"device": "cpu", "compile": "never", "epochs": 1},
}
FACTS = Facts(10, tuple("0123456789"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 8)
FORBIDDEN = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "socket.connect", "socket.getaddrinfo")
SEEN: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in FORBIDDEN and arguments[0] != "git":  # by which a run tells its commit
        SEEN.append(f"{event}{arguments!r}"[:200])
        raise PermissionError(event)


def listing(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in root.rglob("*"):
        about = path.lstat()
        found[str(path)] = (about.st_size, about.st_mtime_ns) if not path.is_dir() else (0, 0)
    return found


def write(place: Path, asked: dict[str, Any]) -> tuple[Path, Path]:
    """A weights file and a run directory whose config asks for this."""
    raw = merge(to_dict(from_dict(BASE)), asked)
    plain = {"distill": {"teachers": asked.get("distill", {}).get("teachers", [])}}
    state = build_student(from_dict(merge(BASE, plain)), 10).state_dict()
    about = {"config": raw, "facts": asdict(FACTS)}
    run = place / "run"
    run.mkdir(parents=True)
    for file in (place / "file.safetensors", run / "weights.safetensors"):
        write_weights(file, state, {"mixstill": json.dumps(about)})
    (run / "config.yaml").write_text(yaml.safe_dump(raw))
    return place / "file.safetensors", run


def teacher(text: str) -> Callable[[], int]:
    def load() -> int:
        try:
            load_teacher(text)
        except UserError as error:
            print(f"mixstill: {error}", file=sys.stderr)
            return 2
        return 0

    return load


def ways(file: Path, run: Path, image: Path, out: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Each way to use a file or a run of a stranger's."""

    def command(*words: object) -> Callable[[], int]:
        return lambda: cli.main([str(word) for word in words])

    yield "eval FILE", command("eval", file, "--device", "cpu")
    yield "eval RUN", command("eval", run, "--device", "cpu")
    yield "predict FILE", command("predict", file, image, "--device", "cpu")
    yield "strip FILE", command("strip", file, out / "plain.safetensors")
    yield "train --init-from FILE", command("train", "--init-from", file, "--output", out / "run")
    yield "check --init-from FILE", command("check", "--init-from", file, "--steps", "1")
    yield "train --resume RUN", command("train", "--resume", "--output", run)
    yield "teacher FILE", teacher(str(file))
    yield "teacher RUN", teacher(str(run))
    yield "teacher MODEL=FILE", teacher(f"mixer_digits={file}")


def timm_ways(folder: Path, image: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    yield "predict FOLDER", lambda: cli.main(["predict", str(folder), str(image), "--device", "cpu"])
    yield "predict local-dir:FOLDER", lambda: cli.main(["predict", f"local-dir:{folder}", str(image)])
    yield "teacher FOLDER", teacher(str(folder))


def used(root: Path, out: Path, use: Callable[[], int]) -> dict[str, Any]:
    """What one use came to."""
    SEEN.clear()
    before, error = listing(root), io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        code = use()
    after = listing(root)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    strange = [path for path in changed if not path.startswith(str(out))]
    return {"code": code, "said": error.getvalue(), "changed": strange, "seen": list(SEEN)}


def main(root: Path, asked: dict[str, dict[str, Any]], timm_asked: dict[str, list[Any]]) -> dict[str, Any]:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    image = root / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    sys.addaudithook(watch)
    with contextlib.suppress(PermissionError):
        subprocess.Popen(["true"])
    found["the canary sings"] = list(SEEN)
    for name, fields in asked.items():
        place, out = root / name, root / f"{name}.out"
        file, run = write(place, fields)
        out.mkdir()
        for way, use in ways(file, run, image, out):
            found[f"{way} | {name}"] = used(root, out, use)
    file, _ = write(root / "own", {})
    for name, (path, value) in timm_asked.items():
        folder = root / f"timm-{name}"
        assert cli.main(["strip", str(file), str(folder)]) == 0
        told = json.loads((folder / "config.json").read_text())
        *sections, leaf = path
        inner = told
        for section in sections:
            inner = inner.setdefault(section, {})
        if value is not None:
            inner[leaf] = value
        (folder / "config.json").write_text(json.dumps(told))
        for way, use in timm_ways(folder, image):
            found[f"{way} | {name}"] = used(root, root / "none", use)
    return found


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):
        report = main(Path(sys.argv[1]), *json.load(sys.stdin))
    print(json.dumps(report))
