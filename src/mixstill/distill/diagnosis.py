"""Whether a teacher knows the data that it is to teach, and what is amiss where it does not.

Shapes: n samples, H x W pixels, K classes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mixstill import rng
from mixstill.data import Batch, Split
from mixstill.data.sampling import stratified
from mixstill.distill.classifier import Facts
from mixstill.distill.student import backbone_of
from mixstill.distill.teachers import Teacher
from mixstill.models.create import pixels
from mixstill.normalisation import CIFAR10, CIFAR100, IMAGENET, Normalisation
from mixstill.views import normalise, resize, to_float

_BATCH = 32  # small, so that a slow teacher stops in time
_GAIN = 0.2  # of the way from chance to all right, that a change must bring to be named as the cause
_REORDERED = 0.15  # of the samples, that another order of classes must bring to be a mistake
_NORMALISATIONS: dict[str, Normalisation] = {
    "ImageNet": IMAGENET,
    "CIFAR-10": CIFAR10,
    "CIFAR-100": CIFAR100,
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none, pixels in [0, 1]": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@dataclass(frozen=True, eq=False)
class Sample:
    """Held-out images as evaluation sees them, in an order that has nothing to do with their classes.

    pixels: uint8 [n,3,H,W]; labels: int64 [n]; both on the device.
    """

    pixels: Tensor
    labels: Tensor


def held_out(split: Split, count: int) -> Sample:
    """`count` samples of a split or somewhat more, all where there are fewer; the same in every call.

    Each class has its share of them, where the labels are known before the images are read; else they are from all
    over the split, and no more than `count`.
    """
    part = stratified(split, count)
    found = _from_all_over(split, count) if part is None else part.eval_batches(_BATCH)
    pixels, labels = (torch.cat(tensors) for tensors in zip(*found, strict=True))
    order = rng.permutation(0, rng.Domain.SUBSET, 0, len(labels)).to(labels.device)
    order = order[:count] if part is None else order
    return Sample(pixels[order], labels[order])


def _from_all_over(split: Split, count: int) -> Iterator[Batch]:
    """About `count` samples or more, at equal distances."""
    stride = max(1, len(split) // count)
    while math.gcd(stride, len(split.classes)) > 1:  # classes may take turns in a data set
        stride -= 1
    return split.eval_batches(_BATCH, 0, stride)


@dataclass(frozen=True)
class Accuracy:
    """The share of n samples that is answered right, and `chance`: what such answers get on unrelated images."""

    top1: float
    n: int
    chance: float

    @classmethod
    def of(cls, answers: Tensor, labels: Tensor, classes: int) -> Accuracy:
        """Of the answers int64 [n] to samples with the labels int64 [n]."""
        shares = [torch.bincount(values, minlength=classes).double() / len(labels) for values in (answers, labels)]
        chance = max(1 / classes, float(shares[0] @ shares[1]))  # of 90 % cats, always 'cat' knows 90 % by chance
        return cls(float((answers == labels).double().mean()), len(labels), chance)

    @property
    def at_chance(self) -> bool:
        """Whether it is not above chance by three standard errors."""
        return self.top1 <= self.chance + 3 * math.sqrt(self.chance * (1 - self.chance) / self.n)

    @property
    def skill(self) -> float:
        """0 at chance, 1 where all is right (Cohen's kappa)."""
        return (self.top1 - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0

    def __str__(self) -> str:
        return f"{100 * self.top1:.1f} % of {self.n}"


@dataclass(frozen=True)
class Diagnosis:
    """How well a teacher answers, and why it answers badly: None where no cause was found.

    `ordered` is what it gets in the best order of classes, where that is clearly more.
    """

    accuracy: Accuracy
    cause: str | None
    ordered: Accuracy | None = None


@dataclass(frozen=True, eq=False)
class Examiner:
    """Puts `sample` to teachers, as a student of `facts` gives its images to them."""

    sample: Sample
    facts: Facts
    amp: bool = False

    def accuracy(self, teacher: Teacher, seconds: float = math.inf) -> Accuracy:
        """Top-1 on the sample, or on as much of it as `seconds` allow."""
        answers = self.answers(teacher, seconds)
        return Accuracy.of(answers, self.sample.labels[: len(answers)], self.facts.num_classes)

    def diagnose(self, teacher: Teacher, seconds: float = 20.0) -> Diagnosis:
        """Its accuracy, and what would make it far better: another order of classes, normalisation or resolution."""
        began = time.monotonic()
        answers = self.answers(teacher, seconds / 2)
        labels, classes = self.sample.labels[: len(answers)], self.facts.num_classes
        found, ordered = Accuracy.of(answers, labels, classes), best_order(answers, labels, classes)
        better = ordered if clearly_better(ordered, found) else None
        if found.skill > 1 - _GAIN:
            return Diagnosis(found, None, better)
        causes = [(ordered, f"its classes are in another order; in the best order it gets {ordered}")]
        changed = list(self._changed(teacher))
        for number, (other, text) in enumerate(changed):
            left = seconds - (time.monotonic() - began)
            if left < 0 and not found.at_chance:
                break
            try:
                accuracy = self.accuracy(other, left / (len(changed) - number))
            except (RuntimeError, ValueError, TypeError, AssertionError, IndexError):
                continue  # it does not take images of this size
            causes.append((accuracy, f"{text} it gets {accuracy}"))
        best, cause = max(causes, key=lambda pair: pair[0].skill)
        helps = best.skill - found.skill > max(_GAIN, 3 * math.sqrt(0.5 / best.n))
        return Diagnosis(found, cause if helps else None, better)

    def misordered(self, teacher: Teacher, seconds: float = math.inf) -> tuple[Accuracy, Accuracy | None]:
        """Its accuracy, and that in the best order of classes where that is clearly more."""
        answers = self.answers(teacher, seconds)
        labels, classes = self.sample.labels[: len(answers)], self.facts.num_classes
        found, ordered = Accuracy.of(answers, labels, classes), best_order(answers, labels, classes)
        return found, ordered if clearly_better(ordered, found) else None

    @torch.no_grad()
    def answers(self, teacher: Teacher, seconds: float = math.inf) -> Tensor:
        """The classes that it answers, int64 [n]; fewer, but one batch at least, where `seconds` are over."""
        began, found = time.monotonic(), list[Tensor]()
        for chosen in torch.split(self.sample.pixels, _BATCH):
            if found and time.monotonic() - began > seconds:
                break
            images = normalise(resize(to_float(chosen), self.facts.input_size), self.facts.mean, self.facts.std)
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self.amp):
                found.append(teacher(images).argmax(dim=1))
            if images.is_cuda:
                torch.cuda.synchronize(images.device)  # or the time would be that of asking
        return torch.cat(found)

    def _changed(self, teacher: Teacher) -> Iterator[tuple[Teacher, str]]:
        """The teacher with another normalisation, then at another resolution, each with words for it."""
        known = {"the data set": (self.facts.mean, self.facts.std), **_NORMALISATIONS}
        for name, own in known.items():
            if own != teacher.own:
                other = copy.copy(teacher)
                other.own = own
                yield other, f"its normalisation is another; with that of {name}"
        built_for = _built_for(backbone_of(teacher.model))
        sizes = (self.facts.input_size, built_for, teacher.input_size // 2, teacher.input_size * 2)
        for size in dict.fromkeys(sizes):
            if size not in (0, None, teacher.input_size):
                other = copy.copy(teacher)
                other.input_size = size
                yield other, f"its resolution is another; at {size} pixels"


def _built_for(model: torch.nn.Module) -> int | None:
    try:
        return pixels(model)
    except (AttributeError, KeyError):
        return None


def best_order(answers: Tensor, labels: Tensor, classes: int) -> Accuracy:
    """What the answers get once each stands for the class that it fits best, one to one: int64 [n] twice.

    Any answers fit some order by chance; so the order is found on one half of each class and measured on the other,
    and the other way round.
    """
    half = torch.empty_like(labels)
    half[labels.argsort(stable=True)] = torch.arange(len(labels), device=labels.device) % 2
    renamed = answers.clone()
    for side in (0, 1):
        fit = half != side
        counts = torch.bincount(answers[fit] * classes + labels[fit], minlength=classes**2).view(classes, classes)
        _, order = linear_sum_assignment(counts.cpu().numpy(), maximize=True)
        renamed[half == side] = torch.as_tensor(order, device=answers.device)[answers[half == side]]
    return Accuracy.of(renamed, labels, classes)


def clearly_better(ordered: Accuracy, found: Accuracy) -> bool:
    """Whether an order of classes brings 15 points, and more than chance may bring on so few samples."""
    return ordered.top1 - found.top1 >= max(_REORDERED, 3 * math.sqrt(0.5 / found.n))


def misorder(name: str, found: Accuracy, ordered: Accuracy) -> str:
    """One line on a teacher whose classes are in another order."""
    return (
        f"{name} has its classes in another order than the data: {found} held-out images right, {ordered} in the best "
        "order; bring the data's classes into its order, or give it as a timm folder whose config.json has label_names"
    )


def told(name: str, teacher: Teacher, diagnosis: Diagnosis) -> str:
    """One line on a teacher that answers badly."""
    accuracy = diagnosis.accuracy
    how = "at chance" if accuracy.at_chance else "far worse than it could be"
    given = f"mean {_numbers(teacher.own[0])}, std {_numbers(teacher.own[1])}, {teacher.input_size} pixels"
    text = f"{name} is {how}: {accuracy} held-out images right, {100 * accuracy.chance:.1f} % by chance"
    if diagnosis.cause is not None:
        return f"{text}; likely cause: {diagnosis.cause} (now: {given})"
    return (
        f"{text}; likely causes: its classes are in another order, its normalisation or resolution is another (now: "
        f"{given}), or its weights are untrained; none of those tried helps"
    )


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in values)
