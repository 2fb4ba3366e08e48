"""Work out what the ImageNet recipes take of a machine: days, money, storage and bandwidth, and which part is slowest.

    python benchmarks/scale.py --page docs/scale.md
    python benchmarks/scale.py --measured results/views-share-224.json --gpus 16 --json

Nothing is trained. A step's multiply-adds are counted; how fast a GPU works through them is assumed, or comes from a
file that `benchmarks/share.py` wrote: the recipes in it keep their measured images/s, the others get their utilisation.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from page import fill

from mixstill import recipes
from mixstill.config import Config
from mixstill.distill.cache import record_bytes
from mixstill.distill.classifier import build_student, enlarged, sketch_student
from mixstill.distill.placement import Placement
from mixstill.distill.registry import PREFIX
from mixstill.distill.sizes import count_macs, count_parameters, size_of
from mixstill.markdown import grid
from mixstill.models.create import pixels

CLASSES, IMAGES = 1000, 1_281_167  # of ImageNet-1k
DATA_SETS = {  # images and classes
    "ImageNet-1k": (IMAGES, CLASSES),
    "ImageNet-21k, winter 2021": (13_153_500, 19_167),
    "ImageNet-21k, fall 2011": (14_197_122, 21_841),
    "ImageNet-21k-P, fall 2011": (11_060_223, 10_450),
}
LAYOUTS: dict[str, int | None] = {"all classes": None, "top 100": 100, "top 10": 10}
RECIPES = [name for name in recipes.names() if name.startswith("imagenet-")]
MOVES = ("imagenet-deit-ti-distilled", "imagenet-std-mixer-s16", "imagenet-std-resmlp-b24")
HOSTS = ((1, 16), (8, 128), (8, 1024))  # GPUs and CPU cores


def assumed(default: float, unit: str, about: str) -> Any:
    """A field that is assumed unless it is given."""
    return field(default=default, metadata={"unit": unit, "about": about})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine of several GPUs is taken to be able to do."""

    gpus: int = assumed(8, "", "GPUs that share a batch")
    teraflops: float = assumed(790, "TFLOP/s", "a GPU's rate of bfloat16 matrix products, an H200's as large ones run")
    float32: float = assumed(55, "TFLOP/s", "its rate of float32 ones, for a recipe without mixed precision")
    mfu: float = assumed(0.41, "", "share of these that a whole step gets; a roofline of Mixer-S/16 gave 0.41 to 0.49")
    efficiency: float = assumed(0.95, "", "speed of one GPU among several, of its speed alone")
    dollars: float = assumed(3.0, "$", "price of a GPU for an hour")
    cores: int = assumed(128, "", "CPU cores that read photos")
    core_rate: float = assumed(300, "images/s", "views that a core reads, decodes and cuts, three of each photo")
    jpeg: float = assumed(115, "kB", "a photo's file, the mean of ImageNet-1k's training set")
    disk: float = assumed(6, "GB/s", "reading, of photos and cached answers together")
    upload: float = assumed(50, "GB/s", "from the host to one GPU (PCIe 5)")
    interconnect: float = assumed(300, "GB/s", "of each GPU in an all-reduce (NVLink)")


@dataclass(frozen=True)
class Work:
    """What a recipe asks for: `macs` of one image forward, of the student and of each teacher; `side` in pixels."""

    recipe: str
    params: int
    macs: int
    teacher_macs: tuple[int, ...]
    side: int
    batch: int
    epochs: int
    repeats: int
    amp: bool = True

    def flops(self, cached: bool) -> float:
        """FLOPs of one image in a step, with the teachers' answers cached or not."""
        return step_flops(self.macs, () if cached else self.teacher_macs)


# ---- formulas


def step_flops(student: float, teachers: Sequence[float]) -> float:
    """FLOPs of an image in a training step, from multiply-adds: the student forward and, twice that, backward."""
    return 2 * (3 * student + sum(teachers))


def rate(flops: float, teraflops: float, mfu: float) -> float:
    """Images/s of a GPU."""
    return 1e12 * teraflops * mfu / flops


def utilisation(images_per_second: float, flops: float, teraflops: float) -> float:
    """The share of a GPU's matrix products that a measured speed stands for: the inverse of `rate`."""
    return images_per_second * flops / (1e12 * teraflops)


def together(images_per_second: float, gpus: int, efficiency: float) -> float:
    """Images/s of several GPUs."""
    return images_per_second * gpus * (efficiency if gpus > 1 else 1.0)


def days(images: int, batch: int, epochs: int, images_per_second: float) -> float:
    """Days of training; an epoch is its whole batches. Evaluation is not in it."""
    return images // batch * batch * epochs / images_per_second / 86_400


def cost(days_: float, gpus: int, dollars: float) -> float:
    """What the GPUs cost in these days, at a price for an hour of one."""
    return days_ * 24 * gpus * dollars


def cache_bytes(images: int, batch: int, classes: int, top_k: int | None, epochs: int = 1) -> int:
    """Of one teacher's answers to all whole batches: float16 of all classes, or of k and their indices."""
    return epochs * (images // batch) * record_bytes(batch, classes, top_k)


def decoded_bytes(side: int) -> int:
    """Of a view as it goes to the GPU: three channels of 8 bits."""
    return 3 * side**2


def file_bytes(jpeg: float, repeats: int) -> float:
    """Read for a view where each photo is opened once for its `repeats` views; `jpeg` in kB."""
    return 1e3 * jpeg / repeats


def allreduce_seconds(params: int, gpus: int, gigabytes: float) -> float:
    """To sum float32 gradients around a ring, at GB/s of each GPU: 2 (n-1)/n of them go out of it."""
    return 2 * (gpus - 1) / gpus * params * 4 / (1e9 * gigabytes)


# ---- a recipe on a machine


@dataclass(frozen=True)
class Speed:
    """Images/s of one GPU in full steps, and where that comes from."""

    live: float
    cached: float
    origin: str


def limits(work: Work, machine: Machine, gpu: float, answers: int) -> dict[str, float]:
    """Images/s that each part of the machine alone would allow, all others being free.

    Args:
        work: of one recipe.
        machine: what it runs on.
        gpu: images/s of one GPU.
        answers: bytes read from the cache for each view, of all teachers together.
    """
    found = {
        "GPUs": together(gpu, machine.gpus, machine.efficiency),
        "CPU cores": machine.cores * machine.core_rate,
        "disk": 1e9 * machine.disk / (file_bytes(machine.jpeg, work.repeats) + answers),
        "upload": 1e9 * machine.upload * machine.gpus / (decoded_bytes(work.side) + answers),
    }
    if machine.gpus > 1:
        found["interconnect"] = work.batch / allreduce_seconds(work.params, machine.gpus, machine.interconnect)
    return found


def slowest(found: Mapping[str, float]) -> str:
    """The part that sets the pace."""
    return min(found, key=lambda part: found[part])


def answers_of(work: Work, top_k: int | None) -> int:
    """Bytes of all teachers' answers to a view."""
    return len(work.teacher_macs) * record_bytes(work.batch, CLASSES, top_k) // work.batch


def speeds(works: Sequence[Work], machine: Machine, measured: Mapping[str, float]) -> dict[str, Speed]:
    """How fast a GPU is at each recipe; `measured` images/s of live steps are taken as they are."""

    def peak(work: Work) -> float:
        return machine.teraflops if work.amp else machine.float32

    shares = [
        utilisation(measured[work.recipe], work.flops(cached=False), peak(work))
        for work in works
        if work.recipe in measured
    ]
    share, origin = (statistics.fmean(shares), "scaled") if shares else (machine.mfu, "assumed")

    def speed(work: Work) -> Speed:
        live = measured.get(work.recipe, rate(work.flops(cached=False), peak(work), share))
        gain = work.flops(cached=False) / work.flops(cached=True)
        return Speed(live, live * gain, "measured" if work.recipe in measured else origin)

    return {work.recipe: speed(work) for work in works}


@cache
def work_of(name: str) -> Work:
    """What a recipe asks for; a Mixer that goes on from a run at fewer pixels is as wide as it gets by that."""
    config = recipes.load(name)
    if "--init-from" in recipes.header(name)["command"]:
        config = enlarged(config, sketch_student(recipes.load(name.rpartition("-")[0])).backbone)
    teachers = dict.fromkeys(Placement.parse(text).teacher for text in config.distill.teachers)
    params, macs, side = _student_size(config)
    return Work(
        recipe=name,
        params=params,
        macs=macs,
        teacher_macs=tuple(size_of(teacher).macs for teacher in teachers),
        side=side,
        batch=config.train.batch_size,
        epochs=config.train.epochs,
        repeats=config.views.aug_repeats,
        amp=config.train.amp,
    )


def _student_size(config: Config) -> tuple[int, int, int]:
    """Parameters, multiply-adds of one image, and pixels per side, counted without weights."""
    if not config.model.kwargs:
        name = PREFIX + config.model.name if timm.is_model(PREFIX + config.model.name) else config.model.name
        places = [Placement.parse(text).place for text in config.distill.teachers]
        size = size_of(name, CLASSES, config.data.input_size, places=places, tokens=config.distill.tokens)
        return size.params, size.macs, size.input_size
    with torch.device("meta"):
        student = build_student(config, CLASSES)
    side = pixels(student.backbone)
    macs, _ = count_macs(student, config.model.name, side)
    return count_parameters(student), macs, side


# ---- tables


def compute(works: Sequence[Work], machine: Machine, speed: Mapping[str, Speed]) -> Iterator[dict[str, Any]]:
    """What each recipe takes of the GPUs, if nothing else is slower."""
    for work in works:
        own = speed[work.recipe]
        taken = [days(IMAGES, work.batch, work.epochs, limits(work, machine, gpu, 0)["GPUs"]) for gpu in _pair(own)]
        yield {
            "recipe": work.recipe.removeprefix("imagenet-"),
            "epochs": work.epochs,
            "MACs (G)": f"{work.macs / 1e9:.2f}",
            "teachers' (G)": " + ".join(f"{macs / 1e9:.2f}" for macs in work.teacher_macs) or "-",
            "GFLOP an image": _two(work, "{:.1f}", *(work.flops(cached) / 1e9 for cached in (False, True))),
            "images/s of a GPU": _two(work, "{:,.0f}", *_pair(own)),
            "from": own.origin,
            "days": _two(work, "{:.3f}", *taken),
            "dollars": _two(work, "{:,.0f}", *(cost(each, machine.gpus, machine.dollars) for each in taken)),
        }


def needs(works: Sequence[Work], machine: Machine, speed: Mapping[str, Speed]) -> Iterator[dict[str, Any]]:
    """What the GPUs have to be fed with so that they never wait; and the slowest part, and the days at its pace."""
    for work in works:
        own = speed[work.recipe]
        rates = [together(gpu, machine.gpus, machine.efficiency) for gpu in _pair(own)]
        full, few = (answers_of(work, top_k) for top_k in (None, 10))
        files, view = file_bytes(machine.jpeg, work.repeats), decoded_bytes(work.side)
        read = f"{rates[1] * full / 1e6:,.0f}; {rates[1] * few / 1e6:,.0f}" if full else "-"
        exchange = 1e3 * allreduce_seconds(work.params, machine.gpus, machine.interconnect)
        steps = [1e3 * work.batch / each for each in rates]
        found = [limits(work, machine, gpu, answers) for gpu, answers in zip(_pair(own), (0, full), strict=True)]
        taken = [days(IMAGES, work.batch, work.epochs, min(parts.values())) for parts in found]
        yield {
            "recipe": work.recipe.removeprefix("imagenet-"),
            "images/s": _two(work, "{:,.0f}", *rates),
            "CPU cores": _two(work, "{:,.0f}", *(each / machine.core_rate for each in rates)),
            "JPEG (MB/s)": _two(work, "{:,.0f}", *(each * files / 1e6 for each in rates)),
            "decoded (MB/s)": _two(work, "{:,.0f}", *(each * view / 1e6 for each in rates)),
            "to a GPU (MB/s)": _two(work, "{:,.0f}", *(each * view / machine.gpus / 1e6 for each in rates)),
            "cache (MB/s), all; top 10": read,
            "all-reduce of a step (ms)": f"{exchange:.2f} of " + _two(work, "{:.1f}", *steps),
            "slowest": _two(work, "{}", *map(slowest, found)),
            "days": _two(work, "{:.3f}", *taken),
            "dollars": _two(work, "{:,.0f}", *(cost(each, machine.gpus, machine.dollars) for each in taken)),
        }


def _pair(speed: Speed) -> tuple[float, float]:
    return speed.live, speed.cached


def _two(work: Work, form: str, live: Any, cached: Any) -> str:
    """A figure with live and with cached teachers; one figure where there is no difference."""
    texts = [form.format(live), form.format(cached)]
    return texts[0] if not work.teacher_macs or texts[0] == texts[1] else " -> ".join(texts)


def caches(batch: int, epochs: int) -> Iterator[dict[str, Any]]:
    """The size of one teacher's answers, an epoch's and all."""
    for name, (images, classes) in DATA_SETS.items():
        row: dict[str, Any] = {"data set": name, "images": f"{images:,}", "classes": f"{classes:,}"}
        for layout, top_k in LAYOUTS.items():
            once, all_ = (cache_bytes(images, batch, classes, top_k, count) for count in (1, epochs))
            row[f"{layout}: 1; {epochs} epochs"] = f"{_size(once)}; {_size(all_)}"
        yield row


def moves(machine: Machine, speed: Mapping[str, Speed]) -> Iterator[dict[str, Any]]:
    """The slowest part of a few hosts, and the images/s that it allows."""
    for work in map(work_of, MOVES):
        own = speed[work.recipe]
        for gpus, cores in HOSTS:
            host = replace(machine, gpus=gpus, cores=cores)
            row: dict[str, Any] = {"recipe": work.recipe.removeprefix("imagenet-"), "GPUs": gpus, "CPU cores": cores}
            settings = {"live": (own.live, 0)}
            settings |= {f"cached, {name}": (own.cached, answers_of(work, top_k)) for name, top_k in LAYOUTS.items()}
            for setting, (gpu, answers) in settings.items():
                found = limits(work, host, gpu, answers)
                row[setting] = f"{slowest(found)}, {min(found.values()):,.0f}"
            yield row


def assumptions(machine: Machine, given: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the figures rest on."""
    for each in fields(machine):
        value = f"{getattr(machine, each.name):g} {each.metadata['unit']}".strip()
        origin = "given" if each.name in given else "assumed"
        yield {"option": _flag(each.name), "value": value, "is": origin, "about": each.metadata["about"]}


def _size(count: float) -> str:
    """Bytes, in the unit that leaves the number short."""
    power = next((power for power in (1, 2, 3) if count < 999.5 * 1000**power), 4)
    return f"{count / 1000**power:.3g} {' kMGT'[power]}B"


# ---- the command


def main() -> None:
    """Print the tables, or all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for each in fields(Machine):
        about = f"{each.metadata['about']} [{each.default:g} {each.metadata['unit']}".rstrip() + "]"
        parser.add_argument(_flag(each.name), type=type(each.default), help=about)
    parser.add_argument("--measured", type=Path, metavar="FILE", help="JSON of benchmarks/share.py, from one such GPU")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables into this page as well")
    options = vars(parser.parse_args())
    given = {each.name: options[each.name] for each in fields(Machine) if options[each.name] is not None}
    file = options["measured"]
    found = tables(Machine(**given), list(given), {} if file is None else measured_in(file))
    if options["json"]:
        print(json.dumps(found, indent=1))
    else:
        printed = {name: grid(rows) for name, rows in found.items()}
        print("\n\n".join(printed.values()))
        if options["page"] is not None:
            fill(options["page"], printed)


def tables(
    machine: Machine, given: Sequence[str] = (), measured: Mapping[str, float] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """All tables by name."""
    works = [work_of(name) for name in RECIPES]
    speed = speeds(works, machine, measured or {})
    return {
        "assumptions": list(assumptions(machine, given)),
        "compute": list(compute(works, machine, speed)),
        "needs": list(needs(works, machine, speed)),
        "cache": list(caches(batch=1024, epochs=300)),
        "moves": list(moves(machine, speed)),
    }


def measured_in(file: Path) -> dict[str, float]:
    """The images/s of each recipe in a JSON of benchmarks/share.py."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {recipe: row["images_per_second"] for recipe, row in rows.items()}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


if __name__ == "__main__":
    main()
