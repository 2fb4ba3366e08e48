"""What all contenders of a race start from: the same images, the same teachers, the same weights, one fixed batch.

The images lie there twice, as the hub's Parquet for mixstill and as torchvision's pickles for the others.
"""

from __future__ import annotations

import io
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from task import Task
from timm.models import save_for_hf
from torch import Tensor, nn
from torch.nn.functional import one_hot

import mixstill  # noqa: F401  (registers the students and teachers)
from mixstill.config import DataConfig
from mixstill.data.cifar import load_cifar
from mixstill.data.images import Source

CLASSES, SIDE = 100, 32
_SEEN = 256  # images, by an untrained teacher


def prepare(task: Task, images: int, data_dir: Path | None, teachers: list[Path]) -> None:
    """Fill the folder of the race with `images` training images, and a quarter as many to measure on.

    `teachers` are weights files of the smaller and the larger; without them they are made, from a fixed seed.
    """
    for name in ("parquet", "pickles/cifar-100-python", "teachers", "start"):
        Path(task.path(name)).mkdir(parents=True)
    parts: list[tuple[Any, int]] = [("train", images), ("test", max(1, images // 4))]
    for number, (part, count) in enumerate(parts):
        pixels, labels = made(count, number) if data_dir is None else read(data_dir, part, count)
        write_parquet(Path(task.path("parquet", f"{part}-00000-of-00001.parquet")), pixels, labels)
        write_pickle(Path(task.path("pickles", "cifar-100-python", part)), pixels, labels)
    seen = (pixels[:_SEEN] / 255 - 0.5) / 0.25
    names = {"fine_label_names": [str(number) for number in range(CLASSES)]}
    Path(task.path("pickles", "cifar-100-python", "meta")).write_bytes(pickle.dumps(names))
    files: list[Path | None] = [*teachers] or [None, None]
    for name, file in zip(task.teachers, files, strict=True):
        write_teacher(task, name, made_teacher(name, seen) if file is None else given_teacher(name, file))
    for name in (task.student, task.token_student):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=CLASSES)
        for head in (module for part, module in model.named_children() if part.startswith("head")):
            if isinstance(head, nn.Linear):  # timm's are zero: then any loss would begin at log 100
                nn.init.normal_(head.weight, std=0.05)
        save_file(model.state_dict(), task.path("start", f"{name}.safetensors"))
    torch.save(batch(task.batch_size), task.path("batch.pt"))


def made(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise uint8 [count,3,32,32], with a brightness for each label int64 [count]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    noise = torch.randint(0, 128, (count, 3, SIDE, SIDE), generator=generator)
    return (noise + labels[:, None, None, None]).to(torch.uint8), labels


@cache
def source(data_dir: Path, part: Any) -> Source:
    """A part of CIFAR-100, decoded once for all duels."""
    return load_cifar(DataConfig(dataset="cifar100"), data_dir, part)


def read(data_dir: Path, part: Any, count: int) -> tuple[Tensor, Tensor]:
    """The first images of CIFAR-100."""
    whole = source(data_dir, part)
    return whole.pixels[:count], whole.labels[:count]


def write_parquet(path: Path, pixels: Tensor, labels: Tensor) -> None:
    """As the hub has it: PNG and `fine_label`."""
    rows = []
    for image in pixels.permute(0, 2, 3, 1).numpy():
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, "PNG")
        rows.append({"bytes": encoded.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"img": pa.array(rows, kind), "fine_label": labels.tolist()}), path)


def write_pickle(path: Path, pixels: Tensor, labels: Tensor) -> None:
    """As torchvision has it."""
    data = np.ascontiguousarray(pixels.flatten(1).numpy())
    path.write_bytes(pickle.dumps({"data": data, "fine_labels": labels.tolist()}))


def made_teacher(name: str, images: Tensor) -> nn.Module:
    """A teacher that was never trained.

    The statistics of its batch norms are those of `images`: without them its answers would be so far apart that std's
    entropy is not a number.
    """
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(images)
    return model


def given_teacher(name: str, file: Path) -> nn.Module:
    """The teacher of a weights file, as mixstill writes it or with the names of its CIFAR ResNets."""
    model = timm.create_model(name, num_classes=CLASSES)
    model.load_state_dict({key.removeprefix("backbone."): value for key, value in load_file(file).items()})
    return model


def write_teacher(task: Task, name: str, model: nn.Module) -> None:
    """For mixstill and std, for DeiT, and for timm."""
    save_file(model.state_dict(), task.path("teachers", f"{name}.safetensors"))
    torch.save({"model": model.state_dict()}, task.path("teachers", f"{name}.pth"))
    save_for_hf(model, task.path("teachers", name), safe_serialization=True)


def batch(size: int) -> dict[str, Tensor]:
    """The fixed batch: images float32 [B,3,32,32], targets [B,100], and the same smoothed."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, CLASSES, (size,), generator=generator)
    targets = one_hot(labels, CLASSES).float()
    images = torch.randn(size, 3, SIDE, SIDE, generator=generator)
    return {"images": images, "targets": targets, "smoothed": 0.9 * targets + 0.1 / CLASSES}
