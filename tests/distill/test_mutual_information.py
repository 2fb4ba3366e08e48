"""The regulariser against the equations of MINE, in float64; B batch, C channels, N patch tokens, M modules."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mixstill.distill.mutual_information import MutualInformation, StatisticsNetwork, derangement_shift, dv_bound
from mixstill.errors import UserError

B, SHIFT = 7, 3
SHAPES = [(5, 4), (3, 6)]


def make_regulariser(shapes=SHAPES, seed=0, **options) -> MutualInformation:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MutualInformation(shapes, **{"width": 16, **options})


def make_pairs(seed=0, dtype=torch.float64, scale=3.0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def tokens(width: int) -> Tensor:
        values = scale * torch.randn(B, width, generator=generator, dtype=torch.float64)
        return values.to(dtype).requires_grad_()

    return [(tokens(c), tokens(n)) for c, n in SHAPES]


def partners(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The marginal pair, sample by sample: T_S of sample i with T_C of sample i - SHIFT."""
    spatial, channel = pair
    return spatial, torch.stack([channel[(i - SHIFT) % B] for i in range(B)])


def plain_bound(network: StatisticsNetwork, pair: tuple[Tensor, Tensor]) -> Tensor:
    return network(*pair).mean() - network(*partners(pair)).exp().mean().log()


def test_statistics_network_is_three_linear_layers_on_both_tokens() -> None:
    network = StatisticsNetwork(channels=5, patches=4)
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert shapes == [(512, 9), (512,), (512, 512), (512,), (1, 512), (1,)]
    spatial, channel = torch.randn(B, 5, requires_grad=True), torch.randn(B, 4, requires_grad=True)
    statistic = network(spatial, channel)
    assert statistic.shape == (B,)
    for gradient in torch.autograd.grad(statistic.sum(), [spatial, channel]):
        assert gradient.abs().min() > 0


def test_dv_bound_follows_the_formula_and_does_not_overflow() -> None:
    joint, marginal = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.0, 1.0, -2.0]])
    expected = 7 / 3 - math.log((1 + math.e + math.exp(-2)) / 3)
    assert dv_bound(joint, marginal).tolist() == [pytest.approx(expected)]
    # a constant added to the statistic leaves the bound as it is, even where e^psi is far beyond float32
    shifted = dv_bound(joint.double() + 1e4, marginal.double() + 1e4)
    assert shifted.item() == pytest.approx(expected)


@pytest.mark.parametrize(("seed", "above"), [(3, [True, False]), (4, [False, True]), (1, [False, False])])
@pytest.mark.parametrize("limited", [True, False])
def test_networks_ascend_in_one_backward_and_tokens_descend_by_weight_where_they_may(seed, above, limited) -> None:
    regulariser, pairs, weight = make_regulariser().double(), make_pairs(seed), 0.3
    loss, estimates = regulariser(pairs, SHIFT, weight, limited=limited)
    assert (estimates > 0).tolist() == above
    loss.backward()
    networks = copy.deepcopy(regulariser.networks)
    for network, trained, pair, estimate in zip(networks, regulariser.networks, pairs, estimates, strict=True):
        bound = plain_bound(network, pair)
        assert estimate.item() == pytest.approx(bound.item(), rel=1e-9)
        ascent = torch.autograd.grad(bound, [*network.parameters(), *pair])
        for parameter, gradient in zip([*trained.parameters(), *pair], ascent, strict=True):
            sign = weight * float(bound > 0 or not limited) if any(parameter is token for token in pair) else -1.0
            torch.testing.assert_close(parameter.grad, sign * gradient, rtol=1e-8, atol=1e-12)
    assert loss.item() == pytest.approx(-estimates.sum().item(), rel=1e-9)
    assert not estimates.requires_grad


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0])
def test_gradient_of_the_log_term_is_divided_by_the_running_mean(rate: float) -> None:
    regulariser = make_regulariser(ema_rate=rate).double()
    running = [None, None]
    for step in range(3):
        pairs = make_pairs(seed=step)
        regulariser.zero_grad()
        loss, estimates = regulariser(pairs, SHIFT, 1.0)
        loss.backward()
        for m, network in enumerate(copy.deepcopy(regulariser.networks)):
            joint, marginal = network(*pairs[m]), network(*partners(pairs[m]))
            batch = marginal.detach().exp().mean()
            running[m] = batch if running[m] is None else (1 - rate) * running[m] + rate * batch
            # E[grad psi] - E[grad psi e^psi] / EMA(E[e^psi])
            surrogate = joint.mean() - (marginal * marginal.detach().exp()).mean() / running[m]
            expected = torch.autograd.grad(surrogate, list(network.parameters()))
            for parameter, gradient in zip(regulariser.networks[m].parameters(), expected, strict=True):
                torch.testing.assert_close(parameter.grad, -gradient, rtol=1e-8, atol=1e-12)
            assert regulariser.log_ema[m].item() == pytest.approx(running[m].log().item(), abs=1e-9)
            # the value is the batch's own
            assert estimates[m].item() == pytest.approx(plain_bound(network, pairs[m]).item(), abs=1e-9)


def test_a_jump_of_the_statistic_beyond_float32_leaves_loss_and_gradient_finite() -> None:
    regulariser = make_regulariser()
    regulariser(make_pairs(dtype=torch.float32), SHIFT, 1.0)
    for offset in (200.0, -200.0):
        with torch.no_grad():
            for network in regulariser.networks:
                network.layers[-1].bias.fill_(offset)
        loss, _ = regulariser(make_pairs(dtype=torch.float32), SHIFT, 1.0)
        gradients = torch.autograd.grad(loss, list(regulariser.parameters()))
        assert all(gradient.isfinite().all() for gradient in [loss, regulariser.log_ema, *gradients])


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_saved_state_goes_on_exactly(steps_before: int) -> None:
    first, second = make_regulariser(), make_regulariser(seed=1)
    for step in range(steps_before):
        first(make_pairs(step, torch.float32), SHIFT, 1.0)
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        losses = []
        for regulariser in (first, second):
            regulariser.zero_grad()
            loss, _ = regulariser(make_pairs(step, torch.float32), SHIFT, 1.0)
            loss.backward()
            losses.append(loss)
        assert torch.equal(*losses)
        assert torch.equal(first.log_ema, second.log_ema)
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)


def test_eval_mode_leaves_the_running_mean_alone() -> None:
    regulariser = make_regulariser().double()
    trained, _ = copy.deepcopy(regulariser)(make_pairs(), SHIFT, 1.0)
    loss, _ = regulariser.eval()(make_pairs(), SHIFT, 1.0)
    assert torch.equal(loss, trained)
    assert regulariser.log_ema.isneginf().all()


def test_autocast_and_bfloat16_tokens_are_computed_in_float32() -> None:
    pairs = make_pairs(dtype=torch.bfloat16)
    exact, _ = make_regulariser()([(s.float(), c.float()) for s, c in pairs], SHIFT, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, estimates = make_regulariser()(pairs, SHIFT, 1.0)
    loss.backward()
    assert loss.dtype == estimates.dtype == torch.float32
    assert torch.equal(loss, exact)
    assert pairs[0][0].grad.dtype == torch.bfloat16


def test_mistakes_are_told_in_words() -> None:
    single = [(s[:1], c[:1]) for s, c in make_pairs()]
    with pytest.raises(UserError, match=r"train.batch_size: 1 sample .* needs at least 2"):
        make_regulariser().double()(single, 1, 1.0)
    with pytest.raises(UserError, match=r"train.batch_size: 1 sample"):
        derangement_shift(0, 0, 0, batch=1)
    with pytest.raises(UserError, match=r"mi.weight: needs at least one teacher"):
        MutualInformation([])
    for shift in (0, B):
        with pytest.raises(ValueError, match=rf"shift is {shift}: it must be in 1..6"):
            make_regulariser().double()(make_pairs(), shift, 1.0)


def test_shifts_pair_no_sample_with_itself_and_reach_every_other_one() -> None:
    shifts = [derangement_shift(seed=5, epoch=2, step=step, batch=5) for step in range(400)]
    counts = np.bincount(shifts, minlength=5)
    assert counts[0] == 0
    assert len(counts) == 5
    assert counts[1:].min() > 70  # 100 are expected of each
    assert shifts[:50] == [derangement_shift(5, 2, step, 5) for step in range(50)]
    assert shifts[:50] != [derangement_shift(5, 3, step, 5) for step in range(50)]
    assert shifts[:50] != [derangement_shift(6, 2, step, 5) for step in range(50)]
    assert derangement_shift(0, 0, 0, batch=2) == 1


@pytest.fixture
def one_thread():
    """Layers this small gain nothing from a second thread, and lose much where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def estimate(d: int, r: float, to_spatial=lambda x: x, to_channel=lambda y: y) -> float:
    """What a trained statistics network says, on fresh samples, of d pairs of Gaussians with correlation r."""
    generator = torch.Generator().manual_seed(0)

    def sample(n: int) -> list[tuple[Tensor, Tensor]]:
        x, noise = torch.randn(2, n, d, generator=generator)
        return [(to_spatial(x), to_channel(r * x + math.sqrt(1 - r**2) * noise))]

    steps, batch, lr = 100, 1000, 1e-2
    regulariser = make_regulariser([(d, d)], width=32, ema_rate=0.1)
    optimizer = torch.optim.Adam(regulariser.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        loss, _ = regulariser(sample(batch), derangement_shift(0, 0, step, batch), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        _, estimates = regulariser.eval()(sample(100_000), 1, 0.0)
    return estimates.item()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("d", "r", "nats"), [(1, 0.5, 0.1438), (1, 0.9, 0.8304), (2, 0.9, 1.661)])
def test_estimate_is_within_5_percent_of_the_closed_form(d: int, r: float, nats: float) -> None:
    assert nats == pytest.approx(-d / 2 * math.log(1 - r**2), abs=5e-4)
    assert estimate(d, r) == pytest.approx(nats, rel=0.05)


@pytest.mark.usefixtures("one_thread")
def test_estimate_of_shuffled_pairs_is_zero() -> None:
    assert estimate(2, 0.9, to_channel=lambda y: y.roll(1, 0)) == pytest.approx(0, abs=0.01)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("d", "nats", "to_spatial", "to_channel"),
    [
        (2, 1.661, lambda x: x @ torch.tensor([[1.0, 0.5], [0.0, 1.0]]), lambda y: 1 - y.flip(-1)),
        (1, 0.8304, lambda x: 2 - 3 * x, lambda y: y + y**3 / 10),
    ],
    ids=["linear", "monotone"],
)
def test_estimate_is_the_same_after_invertible_maps(d: int, nats: float, to_spatial, to_channel) -> None:
    assert estimate(d, 0.9, to_spatial, to_channel) == pytest.approx(nats, rel=0.05)
