"""The stored form of answers against float64, and what it must keep exactly."""

import numpy as np
import pytest
import torch

from mixstill.distill.form import Form
from mixstill.distill.losses import entropy, hard_distillation, soft_distillation, teacher_weights


def logits(rows: int, classes: int, scale: float = 4.0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(rows * classes)) * scale


def stored(form: Form, values: torch.Tensor) -> torch.Tensor:
    return form.decode(form.encode(values))


def float64_softmax(values: torch.Tensor) -> np.ndarray:
    z = values.double().numpy()
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_all_classes_are_the_shifted_logits_in_float16() -> None:
    values = logits(5, 7)
    expected = (values.double() - values.double().max(1, keepdim=True).values).numpy()
    found = stored(Form(7), values)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=2**-11, atol=2**-24)
    assert Form(7).encode(values).shape == (5, Form(7).width) == (5, 14)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_others_share_their_probability_evenly(k) -> None:
    values = logits(6, 9)
    p = float64_softmax(values)
    expected = np.empty_like(p)
    for row, probabilities in enumerate(p):
        order = np.argsort(-probabilities)
        expected[row] = (1 - probabilities[order[:k]].sum()) / (9 - k)
        expected[row, order[:k]] = probabilities[order[:k]]
    found = float64_softmax(stored(Form(9, k), values))
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1)


@pytest.mark.parametrize("k", [1, 4])
def test_a_remainder_far_below_rounding_keeps_its_size(k) -> None:
    values = torch.full((1, 10), -30.0)
    values[0, 3] = 0.0
    values[0, 4:7] = torch.tensor([-1.0, -2.0, -3.0]) if k == 4 else -30.0
    found = stored(Form(10, k), values)
    torch.testing.assert_close(found, values, rtol=2**-10, atol=0)


@pytest.mark.parametrize("top_k", [None, 1, 3, 99])
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-3, 1.0, 30.0, 1e4, 1e6])
def test_the_decision_is_exact(top_k, scale) -> None:
    for values in (logits(50, 100, scale), logits(50, 100, scale).bfloat16()):  # of which many are equal
        assert torch.equal(stored(Form(100, top_k), values).argmax(1), values.float().argmax(1))


@pytest.mark.parametrize(("classes", "top_k", "width"), [(10, None, 20), (10, 3, 12), (32767, 3, 12), (32768, 3, 18)])
def test_an_answer_has_its_width(classes, top_k, width) -> None:
    form = Form(classes, top_k)
    values = logits(2, classes)
    values[0, classes - 1] = 100.0
    assert form.width == form.encode(values).shape[1] == width
    assert form.encode(values).dtype == torch.uint8
    assert stored(form, values)[0].argmax() == classes - 1


def test_losses_on_stored_answers_are_those_on_live_ones() -> None:
    teacher, head = logits(8, 10), logits(8, 10, 1.0)
    found = stored(Form(10), teacher)
    torch.testing.assert_close(hard_distillation(head, found), hard_distillation(head, teacher), rtol=0, atol=0)
    soft = soft_distillation(head, teacher, 3.0)
    torch.testing.assert_close(soft_distillation(head, found, 3.0), soft, atol=0, rtol=1e-3)
    torch.testing.assert_close(entropy(found), entropy(teacher), atol=5e-3, rtol=0)
    both = (torch.stack([teacher, head]), torch.stack([found, stored(Form(10), head)]))
    weights = [teacher_weights(each, "confidence") for each in both]
    torch.testing.assert_close(weights[0], weights[1], atol=2e-3, rtol=0)


@pytest.mark.parametrize("top_k", [None, 3])
def test_what_was_stored_is_stored_as_it_is(top_k) -> None:
    form = Form(10, top_k)
    once = form.encode(logits(20, 10))
    again = form.decode(form.encode(form.decode(once)))
    torch.testing.assert_close(again, form.decode(once), rtol=2**-10, atol=2**-24)
    if top_k is None:
        assert torch.equal(again, form.decode(once))


@pytest.mark.parametrize("top_k", [None, 2])
def test_infinite_and_undefined_answers_are_seen(top_k) -> None:
    form = Form(5, top_k)
    values = logits(3, 5)
    assert form.finite(form.encode(values))
    values[1, 2] = -torch.inf  # a class that is left out
    assert form.finite(form.encode(values))
    for value in (torch.nan, torch.inf):
        values[1, 2] = value
        assert not form.finite(form.encode(values))
    values[1] = -torch.inf
    assert not form.finite(form.encode(values))


@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_the_squares_tell_rounding_from_another_teacher(top_k) -> None:
    form = Form(100, top_k)
    for scale in (0.01, 3.0, 1e5):
        values = logits(30, 100, scale)
        record = form.encode(values)

        def off(other: torch.Tensor, record: torch.Tensor = record) -> float:
            difference, both = form.squares(record, other)
            return float((difference / both).sqrt())

        assert off(values) < 1e-3
        if scale < 1e5:
            assert off(values + 5.0) < 1e-3
            assert off(values.bfloat16()) < 0.01
            assert off(values.flip(0)) > 0.1 * min(1, scale * 10)


def test_the_squares_are_those_of_centred_logits() -> None:
    form, values, other = Form(6), logits(4, 6).half().float(), logits(4, 6, 2.0)
    then, now = (z.double().numpy() - z.double().numpy().mean(1, keepdims=True) for z in (values, other))
    expected = [((then - now) ** 2).sum(), (then**2).sum() + (now**2).sum()]
    np.testing.assert_allclose(form.squares(form.encode(values), other).numpy(), expected, rtol=1e-3)


def test_answers_that_are_all_alike_are_not_far_from_each_other() -> None:
    for top_k in (None, 2):
        form = Form(6, top_k)
        difference, both = form.squares(form.encode(torch.zeros(3, 6)), torch.zeros(3, 6))
        assert float(difference / both) < 1e-4
