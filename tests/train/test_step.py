"""One step against the same step written out by hand with autograd."""

import pytest
import torch

from mixstill import rng
from mixstill.distill.mutual_information import derangement_shift, dv_bound

PLAIN_SGD = {
    "optim.opt": "sgd",
    "optim.momentum": 0.0,
    "optim.weight_decay": 0.0,
    "optim.lr": 0.5,
    "views.mixup": 0.8,
}


@pytest.fixture
def taught(build, teachers):
    placed = [f"{teachers['small']}@1/2", f"{teachers['large']}@last"]
    return lambda options=None: build(PLAIN_SGD | {"distill.teachers": placed} | (options or {}))


def weights(built) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in built.state.student.named_parameters()}


def gradients(built) -> dict[str, torch.Tensor]:
    """Of the objective on the first whole batch."""
    (part,) = built.batches.get(0, 0)
    images, targets = part.images, part.targets
    with rng.borrowed(rng.model_seed(built.stepper.config.train.seed, 0, 0)):
        output = built.state.student(images)
    terms = built.stepper.objective(output.logits, output.heads, built.stepper.teachers(images), targets)
    names, parameters = zip(*built.state.student.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(terms.total, parameters), strict=True))


def test_a_step_of_sgd_goes_down_the_gradient_of_the_total(taught) -> None:
    built = taught()
    before, gradient = weights(built), gradients(built)
    (terms,) = built.steps(1)
    for name, value in weights(built).items():
        torch.testing.assert_close(value, before[name] - 0.5 * gradient[name], msg=name)
    assert built.state.step == 1
    assert all(not term.requires_grad and term.ndim == 0 for term in terms.values())
    distilled = {f"distill/{name}" for name in ("small@1/2", "large@last")}
    assert set(terms) == {"class", "distill", "total", "weight/small", "weight/large"} | distilled
    assert all(parameter.grad is None for parameter in built.state.student.parameters())


@pytest.mark.parametrize("most", [1, 2, 4, 5])
def test_passes_make_the_same_step_as_the_whole_batch(taught, most) -> None:
    paths = {"model.drop_path": 0.5}
    whole, split = taught(paths), taught(paths | {"train.device_batch_size": most})
    assert split.batches.passes == {1: 5, 2: 5, 4: 3, 5: 2}[most]
    start = weights(whole)
    one, other = whole.steps(3), split.steps(3)
    after = weights(split)
    for name, value in weights(whole).items():
        assert not torch.equal(value, start[name])
        torch.testing.assert_close(value, after[name], atol=1e-5, rtol=0, msg=name)
    for ours, theirs in zip(one, other, strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=1e-5, msg=name)


def test_passes_clip_the_gradient_of_the_whole_batch(taught) -> None:
    clip = {"optim.clip_grad": 0.01}
    whole, split = taught(clip), taught(clip | {"train.device_batch_size": 4})
    (one,), (other,) = whole.steps(1), split.steps(1)
    torch.testing.assert_close(one["gradient_norm"], other["gradient_norm"])
    after = weights(split)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, after[name], atol=1e-6, rtol=0, msg=name)


def test_clipping_shortens_the_step_and_reports_the_whole_norm(taught) -> None:
    built = taught({"optim.clip_grad": 0.01})
    before = weights(built)
    norm = torch.cat([value.flatten() for value in gradients(built).values()]).norm()
    (terms,) = built.steps(1)
    moved = torch.cat([(value - before[name]).flatten() for name, value in weights(built).items()]).norm()
    assert norm > 0.01
    torch.testing.assert_close(terms["gradient_norm"], norm)
    assert moved.item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_the_moving_average_starts_at_the_first_step_and_follows_its_recursion(taught) -> None:
    built = taught({"train.ema_decay": 0.7})
    built.steps(1)
    expected = weights(built)  # timm's average forgets the weights from before it
    for _ in range(3):
        built.steps(1)
        for name, value in weights(built).items():
            expected[name] = 0.7 * expected[name] + 0.3 * value
    for name, value in built.state.ema.module.named_parameters():
        torch.testing.assert_close(value, expected[name], msg=name)
        assert not torch.equal(value, weights(built)[name])


def test_the_decay_of_a_warming_average_is_timms(taught) -> None:
    """1 - (1 + t) ** -(2/3) at update t, as far as the decay allows; the first update takes the weights over."""
    built = taught({"train.ema_decay": 0.99, "train.ema_warmup": True})
    built.steps(1)
    expected = weights(built)
    for update in (1, 2, 3):
        built.steps(1)
        decay = 1 - (1 + update) ** -(2 / 3)
        for name, value in weights(built).items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in built.state.ema.module.named_parameters():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_dropout_of_a_backbone_differs_from_part_to_part(taught) -> None:
    built = taught({"train.device_batch_size": 5, "model.kwargs": {"num_blocks": 2, "embed_dim": 8, "drop_rate": 0.5}})
    masks = []
    dropout = next(module for module in built.state.student.modules() if isinstance(module, torch.nn.Dropout))
    dropout.register_forward_hook(lambda _, inputs, output: masks.append((output == 0) & (inputs[0] != 0)))
    dropout.p = 0.5
    built.steps(1)
    assert len(masks) == built.batches.passes == 2
    assert masks[0].any()
    assert not torch.equal(masks[0][:4], masks[1][:4])


def test_what_is_random_in_a_step_depends_on_its_place_alone(taught) -> None:
    one, other = taught({"model.drop_path": 0.5}), taught({"model.drop_path": 0.5})
    torch.manual_seed(1)
    one.steps(2)
    torch.manual_seed(2)
    other.steps(2)
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_autocast_keeps_the_parameters_in_float32_and_changes_the_sums(taught) -> None:
    full, half = taught(), taught({"train.amp": True})
    (one,), (other,) = full.steps(1), half.steps(1)
    assert {value.dtype for value in weights(half).values()} == {torch.float32}
    assert other["total"].dtype == torch.float32
    assert 0 < abs(one["total"] - other["total"]) < 0.05


MI = {"mi.weight": 0.3, "mi.lr": 0.02, "mi.width": 8}


def information_gradients(built, images, shift, *, limited=True) -> tuple[torch.Tensor, dict, dict]:
    """V by module, its gradients to the student, of what is above 0 if `limited`, and to the statistics networks."""
    output = built.state.student(images)
    bounds = []
    for network, tokens in zip(built.state.information.networks, output.tokens, strict=True):
        joint = network(tokens.spatial, tokens.channel)
        bounds.append(dv_bound(joint, network(tokens.spatial, tokens.channel.roll(shift, 0))))
    total = torch.stack(bounds)
    pushed = total.clamp(min=0) if limited else total
    found = []
    for module, bound in ((built.state.student, pushed.sum()), (built.state.information, total.sum())):
        names, parameters = zip(*module.named_parameters(), strict=True)
        values = torch.autograd.grad(bound, parameters, retain_graph=True, allow_unused=True)
        found.append(
            {n: torch.zeros_like(p) if v is None else v for n, p, v in zip(names, parameters, values, strict=True)}
        )
    return torch.stack(bounds).detach(), *found


@pytest.mark.parametrize(("seed", "above"), [(3, [True, False]), (0, [False, False])])
def test_the_regulariser_in_each_step_pushes_the_student_down_and_the_networks_up(taught, seed, above) -> None:
    built = taught(MI | {"train.seed": seed})
    before, gradient = weights(built), gradients(built)
    images = built.batches.get(0, 0)[0].images
    shift = derangement_shift(seed, 0, 0, len(images))
    bounds, of_student, of_networks = information_gradients(built, images, shift)
    assert (bounds > 0).tolist() == above
    statistics = {name: value.detach().clone() for name, value in built.state.information.named_parameters()}
    (terms,) = built.steps(1)
    for name, value in weights(built).items():
        expected = before[name] - 0.5 * (gradient[name] + 0.3 * of_student[name])
        torch.testing.assert_close(value, expected, atol=2e-6, rtol=1e-4, msg=name)
    for name, value in built.state.information.named_parameters():  # the first step of Adam has the rate's length
        clear = of_networks[name].abs() > 1e-6
        torch.testing.assert_close(
            (value - statistics[name])[clear], 0.02 * of_networks[name].sign()[clear], atol=1e-3, rtol=0, msg=name
        )
    logged = torch.stack([terms["mutual_information/small@1/2"], terms["mutual_information/large@last"]])
    torch.testing.assert_close(logged, bounds)
    assert built.stepper.regularise_epoch(built.state, built.batches, 0) == {}


def test_the_regulariser_of_an_epoch_is_one_plain_step_on_both_sides(taught) -> None:
    built = taught(MI | {"mi.every": "epoch"})
    assert built.state.statistics_optimizer is None
    (terms,) = built.steps(1)
    assert not any(name.startswith("mutual_information") for name in terms)
    before = weights(built)
    statistics = {name: value.detach().clone() for name, value in built.state.information.named_parameters()}
    images = built.batches.sample(0)
    shift = derangement_shift(0, 0, 2**31, len(images))
    with rng.borrowed(rng.model_seed(0, 0, 2**31)):
        bounds, of_student, of_networks = information_gradients(built, images, shift, limited=False)
    assert (bounds < 0).any()  # the report's Algorithm 1 has no limit
    found = built.stepper.regularise_epoch(built.state, built.batches, 0)
    assert list(found) == ["mutual_information/small@1/2", "mutual_information/large@last"]
    torch.testing.assert_close(torch.stack(list(found.values())), bounds)
    for name, value in weights(built).items():
        expected = before[name] - 0.02 * 0.3 * of_student[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5, msg=name)
    for name, value in built.state.information.named_parameters():
        torch.testing.assert_close(value, statistics[name] + 0.02 * of_networks[name], atol=1e-6, rtol=1e-5, msg=name)
