"""Train every student in its small form with two teachers for some steps of CIFAR-100, and see that all of it works.

    python benchmarks/students.py --data-dir DIR --output results/students.json
    python benchmarks/students.py --table results/students.json

DIR holds CIFAR-100 as the hub's Parquet files; its first 6,400 training and 100 test images are taken. Two ResNets are
trained on them for a moment. Then each student trains by its own recipe, but for the rate and its warm-up, and

- its loss must fall, from the mean of the first steps to that of the last,
- the optimizer must know of a gradient that is not zero for each parameter,
- a run that is stopped halfway and resumed must end with the very bits of one that goes straight,
- stripped, its backbone must give the very logits in another process, by timm without mixstill.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import timm
import torch
from interrupt import lines, same
from provenance import provenance
from torch import Tensor, nn

from mixstill import load_classifier, recipes
from mixstill.config import Config
from mixstill.distill.classifier import WEIGHTS_FILE, build_student
from mixstill.distill.placement import Placement
from mixstill.distill.sizes import count_parameters
from mixstill.distill.strip import strip
from mixstill.distill.student import Student
from mixstill.models import read_weights
from mixstill.train.run import CHECKPOINT, train
from mixstill.train.state import State

CLASSES = 100
TRAIN, TEST = 6400, 100  # images
ENDS = 5  # steps at either end of a run that its loss is the mean of


@dataclass(frozen=True)
class Form:
    """A student in its small form: the recipe, what differs from it, and the two places that the teachers speak to."""

    recipe: str = "cifar100-std"
    model: Mapping[str, Any] = field(default_factory=dict)
    places: tuple[str, str] = ("2/3", "last")
    batch_size: int = 32
    layers: str | None = None
    """What timm's `MlpMixer` is told besides its size, where the backbone is one; timm has no name for these sizes."""


_RESMLP = "mlp_ratio=4, block_layer=partial(ResBlock, init_values=0.1), norm_layer=Affine"
_GMLP = "mlp_ratio=6, block_layer=SpatialGatingBlock, mlp_layer=GatedMlp"
_TOKEN = ("token", "last")
FORMS = {
    "Mixer-S/4": Form(batch_size=8, layers=""),
    "ResMLP-S12/4": Form("cifar100-std-resmlp-s12", batch_size=8, layers=_RESMLP),
    "gMLP-Ti/4": Form("cifar100-std-gmlp-ti", batch_size=16, layers=_GMLP),
    "CycleMLP-B1, stem stride 1": Form("cifar100-std-cyclemlp-b1", places=("8", "last"), batch_size=8),
    "DeiT-Ti/4": Form("cifar100-deit-ti", batch_size=16),
    "DeiT-Ti/4, token": Form("cifar100-deit-ti-distilled", places=_TOKEN, batch_size=16),
    "Mixer-S/4, token": Form("cifar100-token", places=_TOKEN, batch_size=8),
    "Mixer, micro": Form(model={"name": "mixer_micro_32"}, layers=""),
    "ResMLP, micro": Form(model={"name": "resmlp_micro_32"}, layers=_RESMLP),
    "gMLP, micro": Form(model={"name": "gmlp_micro_32"}, layers=_GMLP),
    "CycleMLP, micro": Form(model={"name": "cyclemlp_micro_32"}),
    "Mixer, micro, token": Form(model={"name": "mixer_micro_distilled_32"}, places=_TOKEN),
}
TEACHERS = {"cifar100-micro-teacher": 200, "cifar100-resnet32": 20}  # recipes, and the steps that each is trained


def main() -> int:
    """Run the campaign and print its table; 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="where CIFAR-100 lies")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--output", type=Path, help="JSON of what was found")
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print the table of such a JSON")
    options = parser.parse_args()
    if options.table is not None:
        print(table(json.loads(options.table.read_text(encoding="utf-8"))))
        return 0
    if options.data_dir is None:
        parser.error("--data-dir is needed")
    with tempfile.TemporaryDirectory(prefix="mixstill-students-") as name:
        folder = Path(name)
        cut(options.data_dir, folder / "data")
        teachers, taught = briefly_trained(folder)
        configs = {form: configured(form, folder / "data", teachers, options.steps) for form in FORMS}
        result = provenance(torch.device("cpu"), options.data_dir, options.output) | {
            "note": f"The first {TRAIN} training images of CIFAR-100; first and last: the mean loss of {ENDS} steps; "
            f"seconds: of the straight run, evaluation on {TEST} images included.",
            "steps": options.steps,
            "teachers": taught,
            "students": campaign(configs, folder),
        }
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    return 0 if all(map(sound, result["students"].values())) else 1


def cut(source: Path, folder: Path, train: int = TRAIN, test: int = TEST) -> None:
    """Write the first images of each split of CIFAR-100, in the hub's Parquet layout, to a folder."""
    folder.mkdir()
    for split, count in (("train", train), ("test", test)):
        first = min(source.rglob(f"{split}-*.parquet"))
        pq.write_table(pq.read_table(first).slice(0, count), folder / f"{split}-00000-of-00001.parquet")


def briefly_trained(folder: Path) -> tuple[list[str], dict[str, dict[str, float]]]:
    """The runs of the teachers in `folder`, and for each the steps it was trained and its top-1 on the test images."""
    about = {}
    for name, steps in TEACHERS.items():
        data = {"data_dir": str(folder / "data")}
        options = {"batch_size": 64, "epochs": -(-64 * steps // TRAIN), "max_steps": steps, "eval_interval": steps}
        warmup = {"warmup_epochs": 0.1 * 64 * steps / TRAIN}
        over = {"data": data, "optim": warmup, "train": options | {"device": "cpu"}}
        summary = train(recipes.load(name, over), folder / name, quiet=True)
        about[name] = {"steps": summary["step"], "top1": summary["top1"]}
    return [str(folder / name) for name in TEACHERS], about


def configured(name: str, data: Path, teachers: Sequence[str], steps: int) -> Config:
    """The run of a student on the images in `data`, for so many steps."""
    form = FORMS[name]
    placed = [str(Placement(teacher, place)) for teacher, place in zip(teachers, form.places, strict=True)]
    images = sum(pq.read_metadata(file).num_rows for file in data.glob("train-*.parquet"))
    per_epoch = images // min(form.batch_size, images)
    options: dict[str, Any] = {
        "model": dict(form.model),
        "data": {"data_dir": str(data)},
        "distill": {"teachers": placed, "kind": "hard", "alpha": 0.5},
        "mi": {"weight": 0.1},
        "optim": {"lr": 1e-3, "lr_base_size": None, "warmup_epochs": 0.1 * steps / per_epoch},
        "train": {"epochs": -(-steps // per_epoch), "max_steps": steps, "batch_size": form.batch_size},
    }
    options["train"] |= {"device": "cpu", "log_interval": 1, "eval_interval": steps}
    return recipes.load(form.recipe, options)


def campaign(configs: Mapping[str, Config], folder: Path) -> dict[str, dict[str, Any]]:
    """What training, resuming and stripping each of the students came to."""
    rows, builds = {}, {}
    for name, config in configs.items():
        run = folder / config.model.name
        rows[name] = trained(config, run)
        builds[name] = stripped(run, FORMS[name].layers)
        rows[name]["loaded_by"] = builds[name].by
        print(f"{name}: {json.dumps(rows[name])}", file=sys.stderr, flush=True)
    for name, equal in answers_alike(builds).items():
        rows[name]["strip_equal"] = equal
    return rows


def trained(config: Config, run: Path) -> dict[str, Any]:
    """Train the run to its end, and another that stops halfway and is resumed."""
    summary = train(config, run, quiet=True)
    other = run.with_name(f"{run.name}-resumed")
    half = replace(config, train=replace(config.train, max_steps=summary["step"] // 2))
    train(half, other, quiet=True)
    train(config, other, resume=True, quiet=True)
    losses = [line["total"] for line in terms(run)]
    ends = min(ENDS, len(losses) // 2)
    return {
        "model": config.model.name,
        "kwargs": config.model.kwargs,
        "teachers": list(summary["teachers"]),
        "batch_size": config.train.batch_size,
        "parameters": summary["parameters"],
        "backbone_parameters": summary["backbone_parameters"],
        "seconds": summary["seconds"],
        "first": statistics.fmean(losses[:ends]),
        "last": statistics.fmean(losses[-ends:]),
        "unused": unused(config, run / CHECKPOINT),
        "resume_equal": equal_ends(run, other),
    }


def unused(config: Config, checkpoint: Path) -> list[str]:
    """The parameters, those of the statistics networks too, whose gradient was zero in all steps: no moment is kept."""
    saved = torch.load(checkpoint, weights_only=True)
    state = State.start(config, build_student(config, CLASSES), saved["data"])
    state.restore(checkpoint)
    named = [*state.student.named_parameters(), *(state.information or nn.Module()).named_parameters()]
    optimizers = [optimizer for optimizer in (state.optimizer, state.statistics_optimizer) if optimizer is not None]
    moments = {parameter: kept["exp_avg"] for optimizer in optimizers for parameter, kept in optimizer.state.items()}
    return [name for name, parameter in named if parameter not in moments or not moments[parameter].any()]


def equal_ends(run: Path, other: Path) -> bool:
    """Whether two runs have the same weights, checkpoint and terms of each step, to the bit."""
    weights = [read_weights(path / WEIGHTS_FILE).state for path in (run, other)]
    states = [torch.load(path / CHECKPOINT, weights_only=True) for path in (run, other)]
    return same(*weights) and same(*states) and terms(run) == terms(other)


def terms(run: Path) -> list[dict[str, Any]]:
    """The terms of each step; evaluations, one more in a run that was stopped, are left out."""
    return [line for line in lines(run) if "eval" not in line]


@dataclass(frozen=True)
class Build:
    """The Python that builds a stripped student, whose architecture it is, and its logits [B,K] of images [B,3,H,W]."""

    code: str
    by: str
    images: Tensor
    logits: Tensor


@torch.no_grad()
def stripped(run: Path, layers: str | None) -> Build:
    """Strip a run, and tell how it is built: by timm's name for it, timm's `MlpMixer`, or a name of mixstill's."""
    classifier, out = load_classifier(str(run)), run.with_name(f"{run.name}-plain")
    assert isinstance(classifier.model, Student)
    backbone: Any = classifier.model.backbone
    told = strip(classifier, out)
    assert count_parameters(backbone) == told.params
    size = classifier.facts.input_size
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    code, by = told.load, "timm, by name" if told.stock else "mixstill's name"
    if layers is not None:
        patch, blocks, channels = backbone.stem.patch_size[0], len(backbone.blocks), backbone.embed_dim
        built = f"num_classes={backbone.num_classes}, img_size={size}, patch_size={patch}, num_blocks={blocks}"
        built = f"MlpMixer({built}, embed_dim={channels}, {layers})"
        code, by = f"loaded({built}, {str(out / 'model.safetensors')!r})", "timm, by class"
    return Build(code, by, images, backbone(images))


_STOCK = """
import sys
sys.modules["mixstill"] = None
from functools import partial
import timm, torch
from safetensors.torch import load_file
from timm.layers import GatedMlp
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock, SpatialGatingBlock

def loaded(model, file):
    model.load_state_dict(load_file(file))
    return model

torch.set_num_threads(int(sys.argv[2]))
jobs = torch.load(sys.argv[1])
with torch.no_grad():
    logits = {name: eval(code).eval()(images) for name, (code, images) in jobs.items()}
torch.save(logits, sys.argv[1])
"""


@torch.no_grad()
def answers_alike(builds: Mapping[str, Build]) -> dict[str, bool]:
    """Whether each stripped student, loaded by a Python that cannot import mixstill, gives the very logits it gave.

    What only mixstill has, a CycleMLP or a Mixer with a token, is loaded here.
    """
    stock = {name: (build.code, build.images) for name, build in builds.items() if build.by.startswith("timm")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "jobs.pt")
        torch.save(stock, file)
        command = [sys.executable, "-c", _STOCK, str(file), str(torch.get_num_threads())]
        subprocess.run(command, check=True)
        logits = torch.load(file)
    for name in builds.keys() - stock.keys():
        model = eval(builds[name].code.removeprefix("import mixstill; "), {"timm": timm})
        logits[name] = model.eval()(builds[name].images)
    return {name: torch.equal(logits[name], build.logits) for name, build in builds.items()}


def sound(row: Mapping[str, Any]) -> bool:
    """Whether a student came out as it must."""
    return bool(row["last"] < row["first"] and not row["unused"] and row["resume_equal"] and row["strip_equal"])


def table(result: Mapping[str, Any]) -> str:
    """The students as a Markdown table."""
    head = ("student", "parameters", "batch", "loss, first", "loss, last", "seconds", "unused", "resumed", "stripped")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in result["students"].items():
        bits = ["equal" if row[key] else "NOT equal" for key in ("resume_equal", "strip_equal")]
        cells = [name, f"{row['parameters']:,}", str(row["batch_size"]), f"{row['first']:.3f}", f"{row['last']:.3f}"]
        cells += [f"{row['seconds']:.0f}", str(len(row["unused"])), bits[0], f"{bits[1]} ({row['loaded_by']})"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
