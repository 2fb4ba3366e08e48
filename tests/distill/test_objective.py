"""The objective against its equation in float64 numpy; B batch, K classes, M modules, T teachers."""

import numpy as np
import pytest
import torch

from mixstill.config import DistillConfig
from mixstill.distill.objective import Objective

B, K = 6, 5
MODULES = ("small@1/2", "large@last", "small@last")
MODULE_TEACHER = (0, 1, 0)
TEACHERS = ("small", "large")


def make_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class logits, heads, teacher logits and labels; the teachers differ in how sure they are."""
    generator = torch.Generator().manual_seed(0)
    logits, heads = torch.randn(B, K, generator=generator), torch.randn(3, B, K, generator=generator)
    teachers = torch.randn(2, B, K, generator=generator) * torch.tensor([1.0, 4.0]).view(2, 1, 1)
    return logits, heads, teachers, torch.tensor([0, 4, 2, 2, 1, 3])


def make_objective(**config) -> Objective:
    return Objective(DistillConfig(**config), 0.1, MODULES, MODULE_TEACHER, TEACHERS)


def softmax(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis, keepdims=True)


def module_oracle(heads, teachers, kind, tau, weights) -> tuple[np.ndarray, np.ndarray]:
    """D and w of each module on each sample, [M, B] each."""
    heads, teachers = heads.double().numpy(), teachers.double().numpy()[list(MODULE_TEACHER)]
    p = softmax(teachers)
    if kind == "hard":
        distance = -(np.eye(K)[teachers.argmax(-1)] * np.log(softmax(heads))).sum(-1)
    else:
        target = softmax(teachers / tau)
        distance = tau**2 * (target * np.log(target / softmax(heads / tau))).sum(-1)
    sign = {"confidence": -1, "entropy": 1, "uniform": 0}[weights]
    return distance, softmax(-sign * (p * np.log(p)).sum(-1), axis=0)


@pytest.mark.parametrize("weights", ["confidence", "entropy", "uniform"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_every_term_follows_the_equation_under_its_name(kind, weights) -> None:
    logits, heads, teachers, labels = make_batch()
    terms = make_objective(kind=kind, weights=weights, alpha=0.3, tau=2.0)(logits, heads, teachers, labels)

    smoothed = 0.9 * np.eye(K)[labels.numpy()] + 0.1 / K
    class_term = -(smoothed * np.log(softmax(logits.double().numpy()))).sum(-1).mean()
    distance, weight = module_oracle(heads, teachers, kind, 2.0, weights)
    distill = (weight * distance).sum(0).mean()
    expected = {
        "class": class_term,
        "distill/small@1/2": distance[0].mean(),
        "distill/large@last": distance[1].mean(),
        "distill/small@last": distance[2].mean(),
        "weight/small": (weight[0] + weight[2]).mean(),
        "weight/large": weight[1].mean(),
        "distill": distill,
        "total": 0.7 * class_term + 0.3 * distill,
    }
    assert {name: term.item() for name, term in terms.named.items()} == pytest.approx(expected, rel=1e-5)
    assert terms.total.item() == terms.named["total"].item()
    assert all(term.shape == () for term in terms.named.values())


@pytest.mark.parametrize("mixed", [False, True])
def test_alpha_0_is_the_class_loss_alone_and_alpha_1_the_distillation_alone(mixed: bool) -> None:
    logits, heads, teachers, labels = make_batch()
    targets = torch.nn.functional.one_hot(labels, K).float().roll(1, 0) if mixed else labels
    for alpha, name in ((0.0, "class"), (1.0, "distill")):
        terms = make_objective(alpha=alpha)(logits, heads, teachers, targets)
        torch.testing.assert_close(terms.total, terms.named[name])


def test_gradients_reach_class_head_and_heads_and_no_teacher() -> None:
    logits, heads, teachers, labels = make_batch()
    for tensor in (logits, heads, teachers):
        tensor.requires_grad_()
    terms = make_objective(alpha=0.3, kind="soft", tau=1.0)(logits, heads, teachers, labels)
    terms.total.backward()
    assert teachers.grad is None
    assert not any(term.requires_grad for term in terms.named.values())

    # dL/dz = (1 - alpha) (softmax(z) - y) / B for the class head, alpha w (softmax(head) - softmax(teacher)) / B
    smoothed = 0.9 * np.eye(K)[labels.numpy()] + 0.1 / K
    expected = 0.7 * (softmax(logits.detach().double().numpy()) - smoothed) / B
    np.testing.assert_allclose(logits.grad, expected, rtol=1e-4, atol=1e-7)
    _, weight = module_oracle(heads.detach(), teachers.detach(), "soft", 1.0, "confidence")
    taught_by = softmax(teachers.detach().double().numpy())[list(MODULE_TEACHER)]
    expected = 0.3 * weight[..., None] * (softmax(heads.detach().double().numpy()) - taught_by) / B
    np.testing.assert_allclose(heads.grad, expected, rtol=1e-4, atol=1e-7)


def test_without_modules_the_loss_is_the_class_loss_whatever_alpha_is() -> None:
    logits, _, _, labels = make_batch()
    objective = Objective(DistillConfig(alpha=0.7), 0.1, (), (), ())
    terms = objective(logits, logits.new_zeros(0, B, K), None, labels)
    assert list(terms.named) == ["class", "total"]
    expected = torch.nn.functional.cross_entropy(logits.double(), labels, label_smoothing=0.1)
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_modules_without_teacher_logits_are_an_error_that_names_them() -> None:
    logits, heads, _, labels = make_batch()
    with pytest.raises(ValueError, match=r"small@1/2, large@last, small@last need their teachers' logits"):
        make_objective()(logits, heads, None, labels)
