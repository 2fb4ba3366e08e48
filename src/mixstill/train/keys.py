"""What a teacher's answers depend on, and the caches that hold the answers to just that."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from mixstill.config import Config
from mixstill.data.fingerprint import fingerprint
from mixstill.data.split import Split
from mixstill.data.streaming import Stream
from mixstill.distill.cache import VERSION, Cache, weights_digest
from mixstill.distill.classifier import Facts
from mixstill.distill.form import Form
from mixstill.distill.student import backbone_of
from mixstill.distill.teachers import Teacher, Teachers
from mixstill.errors import UserError
from mixstill.paths import path_of
from mixstill.train.batch import Batches


def open_caches(config: Config, teachers: Teachers, batches: Batches, facts: Facts) -> list[Cache]:
    """The cache of each teacher; none where `distill.cache` is not given. Nothing is written.

    The number of epochs, of processes and of passes, and the device, make no other answers.

    Raises:
        UserError: data that cannot be cached, or a folder that holds answers to something else.
    """
    if config.distill.cache is None or not len(teachers.members):
        return []
    root, form = path_of(config.distill.cache, "distill.cache"), form_of(config, facts.num_classes)
    data = batches.data
    shared = {
        "student": {"input_size": facts.input_size, "mean": facts.mean, "std": facts.std},
        "data": _source(config, data)
        | {"classes": facts.num_classes, "images": len(data), "content": fingerprint(data)},
        "views": asdict(config.views),
        "train": {"seed": config.train.seed, "batch_size": batches.size, "amp": config.train.amp},
        "distill": {"cache_top_k": form.top_k},
    }
    return [
        Cache(
            root=root,
            name=name,
            key={"format": VERSION, "teacher": _about(cast(Teacher, member)), **shared},
            rows=batches.size,
            steps=batches.per_epoch,
            form=form,
        )
        for name, member in zip(teachers.names, teachers.members, strict=True)
    ]


def form_of(config: Config, classes: int) -> Form:
    """How answers are, or would be, stored. Raises `UserError` where a cache's `cache_top_k` leaves no class out."""
    most = config.distill.cache_top_k
    if most is None or most < classes:
        return Form(classes, most)
    if config.distill.cache is None:
        return Form(classes)
    raise UserError(
        f"distill.cache_top_k: {most} is not valid; the data have {classes} classes: give fewer, or none for all"
    )


def _source(config: Config, data: Split) -> dict[str, Any]:
    """What names the data that are read, of whose content only names are known."""
    names = ("dataset", "train_split", "input_key", "target_key") if isinstance(data, Stream) else ()
    return {name: getattr(config.data, name) for name in names}


def _about(teacher: Teacher) -> dict[str, Any]:
    """What a teacher's answers depend on besides the images."""
    order = {} if teacher.order is None else {"order": list(teacher.order)}
    return order | {
        "model": type(backbone_of(teacher.model)).__name__,
        "input_size": teacher.facts.input_size,
        "mean": teacher.facts.mean,
        "std": teacher.facts.std,
        "weights": weights_digest(teacher.model),
    }
