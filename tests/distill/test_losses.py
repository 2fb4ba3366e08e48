"""Each loss against its equation in float64 numpy; B batch, K classes, M modules."""

import math

import numpy as np
import pytest
import torch

from mixstill.distill.losses import class_loss, entropy, hard_distillation, soft_distillation, teacher_weights
from mixstill.errors import UserError


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(logits: torch.Tensor, tau: float = 1.0) -> np.ndarray:
    powers = np.exp(logits.double().numpy() / tau)
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
def test_class_loss_is_the_smoothed_cross_entropy(smoothing: float, mixed: bool) -> None:
    logits, labels = random_logits(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    target = np.eye(5)[labels.numpy()]
    if mixed:
        target = 0.3 * target + 0.7 * target[::-1]
    smoothed = (1 - smoothing) * target + smoothing / 5
    expected = -(smoothed * np.log(softmax(logits))).sum(-1).mean()
    loss = class_loss(logits, torch.from_numpy(target.copy()) if mixed else labels, smoothing)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (2, 6, 5)])
def test_hard_distillation_is_the_cross_entropy_with_the_decision(shape: tuple[int, ...]) -> None:
    head, teacher = random_logits(*shape), random_logits(*shape, seed=1)
    decision = np.eye(5)[teacher.numpy().argmax(-1)]
    expected = -(decision * np.log(softmax(head))).sum(-1)
    np.testing.assert_allclose(hard_distillation(head, teacher), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(6, 5), (2, 6, 5)])
def test_soft_distillation_is_tau_squared_times_the_divergence(shape: tuple[int, ...], tau: float) -> None:
    head, teacher = random_logits(*shape), random_logits(*shape, seed=1)
    p, q = softmax(teacher, tau), softmax(head, tau)
    expected = tau**2 * (p * np.log(p / q)).sum(-1)
    np.testing.assert_allclose(soft_distillation(head, teacher, tau), expected, rtol=1e-4, atol=1e-5)


def test_soft_distillation_survives_classes_that_a_teacher_rules_out() -> None:
    head = random_logits(2, 3).requires_grad_()
    teacher = torch.tensor([[0.0, -math.inf, 0.0], [1e4, 0.0, -1e4]])
    soft_distillation(head, teacher, 2.0).sum().backward()
    assert head.grad is not None
    assert head.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_are_float32_whatever_the_logits_are(dtype: torch.dtype) -> None:
    head, teacher = random_logits(2, 4, 5).to(dtype)
    labels = torch.arange(4)
    for loss, exact in (
        (class_loss(head, labels, 0.1), class_loss(head.float(), labels, 0.1)),
        (hard_distillation(head, teacher), hard_distillation(head.float(), teacher.float())),
        (soft_distillation(head, teacher, 2.0), soft_distillation(head.float(), teacher.float(), 2.0)),
        (entropy(head), entropy(head.float())),
    ):
        assert loss.dtype == torch.float32
        assert torch.equal(loss, exact)


def test_entropy_and_its_gradient_follow_the_formula() -> None:
    logits = random_logits(6, 5).requires_grad_()
    p = softmax(logits.detach())
    expected = -(p * np.log(p)).sum(-1)
    result = entropy(logits)
    result.sum().backward()
    np.testing.assert_allclose(result.detach(), expected, rtol=1e-4, atol=1e-6)
    # dH/dz_k = -p_k (ln p_k + H)
    np.testing.assert_allclose(logits.grad, -p * (np.log(p) + expected[:, None]), rtol=1e-3, atol=1e-6)
    assert entropy(torch.zeros(100)).item() == pytest.approx(math.log(100))


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([1e4, 0.0, 0.0], 0.0),
        ([0.0, -1e30, -3e38], 0.0),
        ([200.0, 200.0, -200.0], math.log(2)),
        ([1.0, 1.0, -math.inf], math.log(2)),
    ],
)
def test_entropy_has_no_nan_where_probabilities_vanish(logits: list[float], expected: float) -> None:
    tensor = torch.tensor(logits, requires_grad=True)
    result = entropy(tensor)
    result.backward()
    assert result.item() == pytest.approx(expected, abs=1e-6)
    assert tensor.grad is not None
    assert tensor.grad.isfinite().all()


# Teacher A has the logits (0, 0), so p = (1/2, 1/2) and H = ln 2                           = 0.6931472.
# Teacher B has (ln 3, 0), so p = (3/4, 1/4) and H = 3/4 ln(4/3) + 1/4 ln 4 = 2 ln 2 - 3/4 ln 3 = 0.5623351.
# The surer B gets by confidence e^-0.5623351 / (e^-0.5623351 + e^-0.6931472) = 0.5698767 / 1.0698767 = 0.5326564,
# and by entropy the share that A has there, 0.5 / 1.0698767 = 0.4673436.
@pytest.mark.parametrize(
    ("kind", "surer", "less_sure"),
    [("confidence", 0.5326564, 0.4673436), ("entropy", 0.4673436, 0.5326564), ("uniform", 0.5, 0.5)],
)
def test_two_teachers_weigh_as_computed_by_hand_on_each_sample(kind, surer, less_sure) -> None:
    even, sure = [0.0, 0.0], [math.log(3), 0.0]
    weights = teacher_weights(torch.tensor([[even, sure], [sure, even]]), kind)
    expected = torch.tensor([[less_sure, surer], [surer, less_sure]])
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["confidence", "entropy", "uniform"])
def test_weights_sum_to_one_and_do_not_depend_on_the_rest_of_the_batch(kind) -> None:
    logits = random_logits(3, 128, 10)
    weights = teacher_weights(logits, kind)
    assert weights.shape == (3, 128)
    torch.testing.assert_close(weights.sum(0), torch.ones(128))
    torch.testing.assert_close(weights[:, 5:6], teacher_weights(logits[:, 5:6], kind))


def test_an_unknown_kind_of_weights_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"distill.weights: unknown value 'confidance'; did you mean 'confidence'\?"):
        teacher_weights(random_logits(2, 3, 4), "confidance")  # type: ignore[arg-type]
