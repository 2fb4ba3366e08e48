"""A teacher that knows nothing of the data is told from one that is only fed or read wrongly, and why it is."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from mixstill import recipes
from mixstill.data import Resident, load_split
from mixstill.distill.classifier import Classifier, Facts, build_student, load_classifier
from mixstill.distill.diagnosis import Accuracy, Examiner, Sample, best_order, held_out, told
from mixstill.distill.teachers import Teacher
from mixstill.train.run import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A teacher of the digits after 3 epochs."""
    path = tmp_path_factory.mktemp("teacher") / "digits-teacher"
    summary = train(recipes.load("digits-teacher", {"train": {"epochs": 3, "eval_interval": 3}}), path, quiet=True)
    assert summary["top1"] > 80
    return load_classifier(str(path)), summary["top1"] / 100


@pytest.fixture(scope="module")
def whole():
    """All of the test split."""
    test = load_split(recipes.load("digits-teacher").data, "test", "cpu", 8)
    return Examiner(held_out(test, 1000), Facts(10, test.classes, test.mean, test.std, 8))


@pytest.fixture(scope="module")
def exam(whole):
    """Fewer of it, which is quicker."""
    return replace(whole, sample=Sample(whole.sample.pixels[:256], whole.sample.labels[:256]))


@pytest.fixture(scope="module")
def best(trained, exam) -> str:
    """What the good teacher gets, as it is printed."""
    return f"{exam.accuracy(Teacher(trained[0], exam.facts))}"


def with_facts(classifier: Classifier, **facts) -> Classifier:
    return replace(classifier, facts=replace(classifier.facts, **facts))


def diagnosis(exam: Examiner, classifier: Classifier):
    teacher = Teacher(replace(classifier, config=None), exam.facts)
    before = (teacher.own, teacher.input_size)
    found = exam.diagnose(teacher)
    assert (teacher.own, teacher.input_size) == before
    return found, told("small", teacher, found)


# --- causes ---


def test_a_good_teacher_has_its_accuracy_and_no_cause(trained, whole) -> None:
    classifier, top1 = trained
    found, _ = diagnosis(whole, classifier)
    assert found.accuracy.top1 == pytest.approx(top1)
    assert (found.accuracy.n, found.accuracy.at_chance, found.cause) == (596, False, None)
    assert found.accuracy.chance == pytest.approx(0.1, abs=0.002)


def test_permuted_classes_are_another_order(trained, exam, best) -> None:
    classifier, _ = trained
    model, order = copy.deepcopy(classifier.model), (3 * torch.arange(10) + 1) % 10
    for parameter in (model.backbone.fc.weight, model.backbone.fc.bias):
        parameter.data = parameter.data[order]
    found, line = diagnosis(exam, replace(classifier, model=model))
    assert found.accuracy.at_chance
    assert f"; likely cause: its classes are in another order; in the best order it gets {best} (now" in line


def test_a_wrong_normalisation_is_told_with_the_one_that_helps(trained, exam, best) -> None:
    classifier, _ = trained
    found, line = diagnosis(exam, with_facts(classifier, mean=(5.0,) * 3, std=(1.0,) * 3))
    assert found.accuracy.at_chance
    helps = f"its normalisation is another; with that of the data set it gets {best}"
    assert line.startswith("small is at chance: 10.")
    assert f"likely cause: {helps} (now: mean 5/5/5, std 1/1/1, 8 pixels)" in line


@pytest.mark.parametrize("size", [2, 20])
def test_a_wrong_resolution_is_told_with_the_one_that_helps(trained, exam, best, size) -> None:
    classifier, _ = trained
    found, line = diagnosis(exam, with_facts(classifier, input_size=size))
    assert found.accuracy.at_chance
    assert f"likely cause: its resolution is another; at 8 pixels it gets {best} (now" in line


@pytest.mark.parametrize("size", [4, 16])
def test_half_and_double_of_its_resolution_are_tried_too(trained, exam, size) -> None:
    classifier, _ = trained
    model = copy.deepcopy(classifier.model)
    model.backbone.pretrained_cfg = {**model.backbone.pretrained_cfg, "input_size": (3, 24, 24)}
    student = replace(exam.facts, input_size=24)  # so that neither the student's size nor the model's own is right
    teacher = Teacher(replace(with_facts(classifier, input_size=size), model=model, config=None), student)
    cause = replace(exam, facts=student).diagnose(teacher).cause
    assert cause is not None
    assert cause.startswith("its resolution is another; at 8 pixels it gets ")


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_untrained_weights_get_every_likely_cause(trained, exam, seed) -> None:
    classifier, _ = trained
    config = recipes.load("digits-teacher", {"train": {"seed": seed}})
    found, line = diagnosis(exam, replace(classifier, model=build_student(config, 10).eval()))
    assert found.accuracy.at_chance
    assert found.cause is None
    for word in ("order", "normalisation", "resolution", "untrained"):
        assert word in line
    assert "\n" not in line


def test_a_teacher_above_chance_that_could_be_far_better_is_told(trained, exam) -> None:
    classifier, _ = trained
    found, line = diagnosis(exam, with_facts(classifier, mean=(0.7,) * 3))
    assert not found.accuracy.at_chance
    assert "small is far worse than it could be: " in line
    assert "its normalisation is another; with that of the data set" in line


class Fixed(nn.Module):
    """Answers by the mean of the image; takes 8 pixels only."""

    def forward(self, images):
        assert images.shape[-1] == 8
        return nn.functional.one_hot((images.mean((1, 2, 3)) > 0).long(), 10).float()


def test_a_teacher_that_takes_one_size_only_is_examined_too(exam) -> None:
    found, line = diagnosis(exam, Classifier(Fixed(), exam.facts, "fixed"))
    assert found.cause is None
    assert "untrained" in line


# --- statistics ---


def test_random_answers_fit_no_order_beyond_chance() -> None:
    draw = torch.Generator().manual_seed(0)
    for classes, n in ((10, 600), (100, 1000), (1000, 4000)):
        labels = torch.arange(n) % classes
        answers = torch.randint(classes, (n,), generator=draw)
        assert best_order(answers, labels, classes).at_chance
        order = torch.randperm(classes, generator=draw)
        assert best_order(order[labels], labels, classes).top1 == 1
        right = torch.rand(n, generator=draw) < 0.7
        noisy = best_order(torch.where(right, order[labels], answers), labels, classes)
        assert noisy.top1 == pytest.approx(0.7, abs=0.15)


def test_chance_is_what_the_same_answers_get_on_unrelated_images() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    always = Accuracy.of(torch.zeros(100, dtype=torch.int64), labels, 2)
    assert (always.top1, always.chance, always.at_chance) == (0.9, pytest.approx(0.9), True)
    assert always.skill == pytest.approx(0)
    some = Accuracy.of(torch.tensor([0, 1] * 50), torch.tensor([0, 1, 2, 3] * 25), 4)
    assert (some.top1, some.chance) == (0.5, 0.25)
    assert some.skill == pytest.approx((0.5 - 0.25) / 0.75)


@pytest.mark.parametrize(("right", "at_chance"), [(100, True), (128, True), (129, False)])
def test_at_chance_ends_three_standard_errors_above_it(right, at_chance) -> None:
    assert Accuracy(right / 1000, 1000, 0.1).at_chance is at_chance  # 0.1 + 3 sqrt(0.09 / 1000) = 0.12846


# --- samples ---


@dataclass
class Turns:
    """A split whose classes take turns, or follow each other; the pixel of each image is its position."""

    n: int
    k: int
    ordered: bool = False

    def __len__(self) -> int:
        return self.n

    @property
    def classes(self):
        return tuple(map(str, range(self.k)))

    def eval_batches(self, batch_size, rank=0, count=1):
        for ids in torch.arange(self.n)[rank::count].split(batch_size):
            labels = ids * self.k // self.n if self.ordered else ids % self.k
            yield (ids % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1), labels


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(("n", "k"), [(1000, 10), (10_000, 10), (600, 7), (50, 3), (5000, 100)])
def test_a_sample_has_all_classes_alike_whatever_their_order(n, k, ordered) -> None:
    split = Turns(n, k, ordered)
    sample = held_out(split, 500)
    counts = torch.bincount(sample.labels, minlength=k)
    assert len(sample.labels) == len(sample.pixels) == min(n, 500)
    assert counts.min() > 0.3 * 500 / k or n < 500
    assert torch.equal(sample.labels, held_out(split, 500).labels)
    first = torch.bincount(sample.labels[: min(n, 500) // 2], minlength=k)
    assert first.min() > 0 or k > 10, "where a teacher is slow, only the first are asked for"


def test_a_sample_keeps_images_and_labels_together() -> None:
    sample = held_out(Turns(200, 5), 100)
    assert torch.equal(sample.pixels[:, 0, 0, 0].long() % 5, sample.labels)  # 200 positions, below 251


def test_a_sample_of_a_held_split_has_each_class_by_its_share() -> None:
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)[
        torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    ]
    pixels = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    split = Resident(pixels, labels, torch.arange(1000), ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3)
    sample = held_out(split, 500)
    assert torch.bincount(sample.labels).tolist() == [450, 45, 5]
    assert torch.equal(sample.pixels[:, 0, 0, 0].long(), sample.labels)
    assert torch.equal(sample.labels, held_out(split, 500).labels)
    assert sample.labels[:50].bincount().max() < 50, "where a teacher is slow, only the first are asked for"
    assert torch.bincount(held_out(split, 512).labels).sum() >= 512
    assert len(held_out(split, 5000).labels) == 1000


class Slow(nn.Module):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return torch.zeros(len(images), 10)


def test_a_slow_teacher_answers_one_batch(exam) -> None:
    model = Slow()
    teacher = Teacher(Classifier(model, exam.facts, "slow"), exam.facts)
    assert len(exam.answers(teacher, seconds=0)) == model.seen == 32
    assert exam.accuracy(teacher, seconds=0).n == 32
    assert exam.accuracy(teacher).n == 256
    assert Examiner(Sample(exam.sample.pixels[:5], exam.sample.labels[:5]), exam.facts).accuracy(teacher).n == 5
