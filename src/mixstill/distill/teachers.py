"""Teachers: classifiers that are frozen and in eval mode whatever anyone says, each fed as it was trained.

Shapes: B batch, K classes, T teachers, M modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn

from mixstill.distill.cache import weights_digest
from mixstill.distill.classifier import Classifier, Facts, load_classifier
from mixstill.distill.naming import matched
from mixstill.distill.placement import Placement
from mixstill.distill.student import prediction
from mixstill.errors import UserError
from mixstill.stored import model_and_source
from mixstill.views import resize


class Teacher(nn.Module):
    """One teacher. It takes the student's normalised images and puts them into its own normalisation and resolution.

    Its logits come in the data's order of classes, matched by name where both name the same classes. `facts` are those
    of its classifier.

    Raises:
        UserError: the teacher has another number of classes than the data, or was trained by mixstill on others.
    """

    mean: Tensor
    std: Tensor
    student_mean: Tensor
    student_std: Tensor
    columns: Tensor

    def __init__(self, classifier: Classifier, student: Facts) -> None:
        super().__init__()
        own = classifier.facts
        if own.num_classes != student.num_classes:
            raise UserError(
                f"distill.teachers: {classifier.name} has {own.num_classes} classes, "
                f"but the data have {student.num_classes}; train it on these first: mixstill train RECIPE --init-from "
                f"{classifier.name} --teachers none --output RUN, then --teachers RUN@PLACE"
            )
        order = matched(own.classes, student.classes)
        differing = own.differing_class(student.classes or ()) if order is None else None
        if differing is not None and classifier.config is not None:
            raise UserError(
                f"distill.teachers: {classifier.name} was trained on other classes: {differing} in the data; name "
                "another teacher"
            )
        self.order = None if order in (None, tuple(range(own.num_classes))) else order
        self.differing = differing
        self.model = classifier.model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.facts = own
        self.input_size = own.input_size
        self.own, self.student = (own.mean, own.std), (student.mean, student.std)
        names = ("mean", "std", "student_mean", "student_std")
        for name, values in zip(names, (*self.own, *self.student), strict=True):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.register_buffer("columns", torch.tensor(self.order or (), dtype=torch.int64), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """A teacher is in eval mode, whatever `mode` says."""
        return super().train(False)

    def round_weights(self) -> None:
        """Keep the weights as bfloat16 autocast would round them in each pass: the same answers, sooner."""
        for name, module in self.model.named_modules():
            # others compute with their weights besides, and so do token modules
            if type(module) in (nn.Conv2d, nn.Linear) and not name.startswith("token_modules"):
                module.to(torch.bfloat16)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The student's normalised images [B,3,H,W] -> logits [B,K], without gradient."""
        if self.own != self.student or images.shape[-1] != self.input_size:
            pixels = resize(images * self.student_std + self.student_mean, self.input_size)
            images = (pixels - self.mean) / self.std
        logits = prediction(self.model(images))
        return logits if self.order is None else logits[:, self.columns]

    @property
    def names_told(self) -> str | None:
        """How its class names compare with the data's, where they are not just the same; None where they are."""
        if self.order is not None:
            return "its classes are matched by name, since they come in another order"
        return None if self.differing is None else f"it names its classes otherwise: {self.differing} in the data"


class Teachers(nn.Module):
    """The T teachers of a run, each loaded once however many modules it speaks to.

    Args:
        placements: one per module.
        student: the facts of what the student sees.
    """

    def __init__(self, placements: Sequence[Placement], student: Facts) -> None:
        super().__init__()
        sources = list(dict.fromkeys(placement.teacher for placement in placements))
        self.names = teacher_names(sources)
        self.module_teacher = [sources.index(placement.teacher) for placement in placements]
        self.module_names = [
            f"{self.names[teacher]}@{placement.place}"
            for teacher, placement in zip(self.module_teacher, placements, strict=True)
        ]
        self.members = nn.ModuleList(Teacher(load_teacher(source), student) for source in sources)

    def forward(self, images: Tensor, which: Sequence[int] | None = None) -> Tensor | None:
        """The student's normalised images [B,3,H,W] -> logits [T,B,K]; None where there are no teachers.

        `which` are the numbers of those to be asked; default: all.
        """
        if not len(self.members):
            return None
        asked = self.members if which is None else [self.members[t] for t in which]
        return torch.stack([teacher(images) for teacher in asked])

    def digest(self) -> str:
        """The digests of all weights, by teacher."""
        return " ".join(weights_digest(cast(Teacher, teacher).model) for teacher in self.members)

    def round_weights(self) -> None:
        """Keep every teacher's weights as bfloat16 autocast would round them."""
        for teacher in self.members:
            cast(Teacher, teacher).round_weights()


def load_teacher(source: str) -> Classifier:
    """A teacher's classifier: any SOURCE, or MODEL=FILE for a weights file that does not tell its architecture."""
    model, place = model_and_source(source)
    try:
        return load_classifier(place, model=model) if model else load_classifier(source)
    except UserError as error:
        raise UserError(f"distill.teachers: {error}") from error


def teacher_names(sources: Sequence[str]) -> list[str]:
    """A short name for each source, for logs: the last part of a path, or the sources where two would be alike."""
    short = [Path(source.rpartition("=")[2]).stem or source for source in sources]
    return short if len(set(short)) == len(short) else list(sources)
