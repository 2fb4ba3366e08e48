"""Scores against counts made sample by sample in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from mixstill.data import Resident
from mixstill.distill.student import StudentOutput
from mixstill.train.evaluate import Score, evaluate, heads_of, main_head, plain

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Fixed(nn.Module):
    """Linear in the pixels of 4x4 images; with `modules`, a student with so many heads. Notes the batches it saw."""

    def __init__(self, classes: int, modules: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(classes)
        self.weight = nn.Parameter(torch.randn(1 + modules, classes, 48, generator=generator))
        self.modules_count = modules
        self.seen: list[int] = []
        self.modes: list[bool] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor | StudentOutput:
        self.seen.append(len(images))
        self.modes.append(self.training)
        logits = torch.einsum("mkd,bd->mbk", self.weight.to(images.dtype), images.flatten(1))
        return StudentOutput(logits[0], logits[1:], ()) if self.modules_count else logits[0]


def resident(classes: int, n: int = 11) -> Resident:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * n, 3, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (2 * n,), generator=generator)
    names = tuple(map(str, range(classes)))
    return Resident(pixels, labels, torch.arange(1, 2 * n, 2), names, MEAN, STD)


def run(model: nn.Module, data: Resident, **options) -> dict[str, Score]:
    arguments = {"mean": MEAN, "std": STD, "input_size": 4, "batch_size": 4} | options
    return evaluate(model, data, **arguments)


def logits_oracle(model: Fixed, data: Resident) -> np.ndarray:
    """[1+M, n, K]"""
    images = data.pixels[data.ids].double().numpy() / 255
    images = (images - np.array(MEAN).reshape(3, 1, 1)) / np.array(STD).reshape(3, 1, 1)
    return np.einsum("mkd,bd->mbk", model.weight.detach().double().numpy(), images.reshape(len(images), -1))


def score_oracle(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    top1 = top5 = loss = 0.0
    for row, label in zip(logits, labels, strict=True):
        rank = int((row > row[label]).sum())
        top1 += rank < 1
        top5 += rank < 5
        loss -= row[label] - np.log(np.exp(row).sum())
    return 100 * top1 / len(labels), 100 * top5 / len(labels), loss / len(labels)


@pytest.mark.parametrize("classes", [3, 5, 12])
def test_a_classifier_is_scored_on_every_sample_once(classes) -> None:
    model, data = Fixed(classes), resident(classes)
    scores = run(model, data)
    assert list(scores) == ["class"]
    score = scores["class"]
    expected = score_oracle(logits_oracle(model, data)[0], data.labels[data.ids].numpy())
    assert (score.top1, score.top5, score.loss) == pytest.approx(expected, rel=1e-6)
    assert score.n == 11
    assert model.seen == [4, 4, 3]
    assert (score.top5 == 100) == (classes <= 5)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


@pytest.mark.parametrize("space", ["logit", "probability"])
def test_every_head_of_a_student_is_scored(space) -> None:
    model, data = Fixed(7, modules=2), resident(7)
    scores = run(model, data, space=space)
    logits = logits_oracle(model, data)
    given = softmax(logits) if space == "probability" else logits
    distill = given[1:].mean(0)
    heads = {"class": given[0], "distill": distill, "average": (given[0] + distill) / 2}
    assert set(scores) == set(heads)
    labels = data.labels[data.ids].numpy()
    for name, head in heads.items():
        expected = score_oracle(np.log(head) if space == "probability" else head, labels)
        assert (scores[name].top1, scores[name].top5, scores[name].loss) == pytest.approx(expected, rel=1e-5), name
    assert len({score.loss for score in scores.values()}) == 3
    assert main_head(scores) == scores["average"]


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_scored_in_eval_mode_without_gradient_and_left_in_its_mode(training) -> None:
    model = Fixed(3).train(training)
    run(model, resident(3))
    assert model.modes == [False, False, False]
    assert model.training == training
    assert model.weight.grad is None


def test_images_are_brought_to_the_models_own_size() -> None:
    sizes = []

    class Sizes(Fixed):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(images.shape[-1])
            return images.new_zeros(len(images), 3)

    run(Sizes(3), resident(3), input_size=8)
    assert set(sizes) == {8}


def test_autocast_computes_in_bfloat16_and_scores_in_float32() -> None:
    kinds = []

    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(48, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = self.layer(images.flatten(1))
            kinds.append(logits.dtype)
            return logits

    run(Kinds(), resident(3), amp=True)
    assert set(kinds) == {torch.bfloat16}


def test_a_score_shows_itself_as_timm_prints_it() -> None:
    score = Score(76.85, 94.1701, 0.87149, 10)
    assert str(score) == "* Acc@1 76.850 Acc@5 94.170 loss 0.871"
    assert plain({"class": score}) == {"class": {"top1": 76.85, "top5": 94.1701, "loss": 0.87149, "n": 10}}
    assert main_head({"class": score}) == score


def test_a_student_without_modules_has_the_class_head_alone() -> None:
    logits = torch.randn(2, 3)
    assert list(heads_of(StudentOutput(logits, logits.new_empty(0, 2, 3), ()))) == ["class"]
    assert torch.equal(heads_of(logits)["class"], logits)
