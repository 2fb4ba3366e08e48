"""Token modules against the paper's equations in float64 numpy; B batch, N patches, C channels, H hidden, K classes."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from mixstill.distill import tokens
from mixstill.distill.tokens import TOKEN_STD, ChannelStep, SpatialStep, TokenModule, Tokens

B, N, C, K = 3, 6, 4, 5
KINDS = ["spatial+channel", "spatial", "channel", "none"]


def make_module(**kwargs) -> TokenModule:
    """A module in float64 whose every parameter is random, so that none can be left out unnoticed."""
    torch.manual_seed(0)
    module = TokenModule(N, C, K, **kwargs).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def make_features() -> torch.Tensor:
    return torch.randn(B, N, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def layer_norm(x: np.ndarray, parameters: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def whole_mlp(x: np.ndarray, parameters: dict[str, np.ndarray], name: str) -> np.ndarray:
    """[..., n] -> [..., n]: the MLP with all of its outputs, of which the module holds only the token's, the last."""
    first, first_bias = parameters[f"{name}.0.weight"], parameters[f"{name}.0.bias"]
    anything = np.random.default_rng(2).normal(size=(x.shape[-1] - 1, len(first)))
    second = np.concatenate([anything, parameters[f"{name}.2.weight"]])
    second_bias = np.concatenate([np.ones(x.shape[-1] - 1), parameters[f"{name}.2.bias"]])
    hidden = x @ first.T + first_bias
    return (hidden * (1 + erf(hidden / np.sqrt(2))) / 2) @ second.T + second_bias


def oracle(module: TokenModule, features: torch.Tensor, tokens: str, steps: int, earlier: Tokens | None = None):
    """T_S <- MLP_S(LN([Z; T_S])) + T_S and T_C <- MLP_C(LN([Z, T_C])) + T_C, and the head on [T_S, T_C]."""
    parameters = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    z, read, spatial, channel = features.numpy(), [], None, None
    if "spatial" in tokens:
        start = parameters["spatial.start"] if earlier is None else earlier.spatial.detach().numpy()
        spatial = np.broadcast_to(start, (B, C))
        for k in range(steps):
            joined = np.concatenate([z, spatial[:, None, :]], axis=1)
            along_patches = layer_norm(joined, parameters, f"spatial.steps.{k}.norm").swapaxes(1, 2)
            mixed = whole_mlp(along_patches, parameters, f"spatial.steps.{k}.mlp").swapaxes(1, 2)
            spatial = (mixed + joined)[:, N, :]
        read.append(spatial)
    if "channel" in tokens:
        start = parameters["channel.start"] if earlier is None else earlier.channel.detach().numpy()
        channel = np.broadcast_to(start, (B, N))
        for k in range(steps):
            joined = np.concatenate([z, channel[:, :, None]], axis=2)
            mixed = whole_mlp(
                layer_norm(joined, parameters, f"channel.steps.{k}.norm"), parameters, f"channel.steps.{k}.mlp"
            )
            channel = (mixed + joined)[:, :, C]
        read.append(channel)
    if tokens == "none":
        read.append(layer_norm(z, parameters, "norm").mean(axis=1))
    return np.concatenate(read, axis=1) @ parameters["head.weight"].T + parameters["head.bias"], spatial, channel


def assert_follows(found, expected) -> None:
    logits, tokens = found
    for value, equation in zip((logits, tokens.spatial, tokens.channel), expected, strict=True):
        assert (value is None) == (equation is None)
        if value is not None:
            np.testing.assert_allclose(value.detach().numpy(), equation, rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("tokens", KINDS)
def test_logits_and_tokens_follow_the_equations(tokens, steps):
    module, features = make_module(tokens=tokens, steps=steps), make_features()
    assert_follows(module(features), oracle(module, features, tokens, steps))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("tokens", KINDS[:3])
def test_tokens_that_propagate_start_from_the_earlier_modules(tokens, steps):
    module, features = make_module(tokens=tokens, steps=steps, learned_start=False), make_features()
    _, earlier = make_module(tokens=tokens)(2 * features)
    assert_follows(module(features, earlier), oracle(module, features, tokens, steps, earlier))


@pytest.mark.parametrize("learned_start", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("tokens", KINDS)
def test_every_parameter_gets_a_gradient(tokens, steps, learned_start):
    module, features = make_module(tokens=tokens, steps=steps, learned_start=learned_start), make_features()
    starts = [name for name, _ in module.named_parameters() if name.endswith(".start")]
    expected = [f"{name}.start" for name in ("spatial", "channel") if name in tokens and learned_start]
    assert starts == expected
    earlier = None if learned_start else make_module(tokens=tokens)(features)[1]
    module(features, earlier)[0].square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("tokens", "spatial", "channel"),
    [("spatial+channel", (B, C), (B, N)), ("spatial", (B, C), None), ("channel", None, (B, N)), ("none", None, None)],
)
def test_there_are_just_the_tokens_that_were_asked_for(tokens, spatial, channel):
    logits, found = TokenModule(N, C, K, tokens=tokens)(torch.randn(B, N, C))
    assert logits.shape == (B, K)
    assert [None if t is None else tuple(t.shape) for t in (found.spatial, found.channel)] == [spatial, channel]


def test_hidden_widths_are_half_and_four_times_the_channels_unless_given():
    steps = [TokenModule(N, C, K), TokenModule(N, C, K, spatial_hidden=7, channel_hidden=9)]
    widths = [(m.spatial.steps[0].mlp[0].out_features, m.channel.steps[0].mlp[0].out_features) for m in steps]
    assert widths == [(C // 2, 4 * C), (7, 9)]


def test_tokens_and_heads_start_small_and_biases_at_zero():
    torch.manual_seed(0)
    module = TokenModule(1000, 1000, 10)
    for values in (module.spatial.start, module.channel.start, module.head.weight):
        assert values.std().item() == pytest.approx(TOKEN_STD, rel=0.1)
    assert not module.head.bias.any()


@pytest.mark.parametrize("tokens", KINDS[:3])
def test_a_module_without_a_start_needs_the_earlier_tokens(tokens):
    module = TokenModule(N, C, K, tokens=tokens, learned_start=False)
    with pytest.raises(RuntimeError, match="needs the tokens of the earlier module"):
        module(torch.randn(B, N, C))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", [SpatialStep, ChannelStep])
def test_a_step_is_that_of_joined_features_compiled_or_not(kind, compiled, monkeypatch) -> None:
    """The equation with the token really joined, in float64."""
    torch.manual_seed(0)
    step, features = kind(5, 7, 6).double(), torch.randn(3, 5, 7, dtype=torch.float64)
    for parameter in step.parameters():
        torch.nn.init.normal_(parameter)
    token = torch.randn(3, 7 if kind is SpatialStep else 5, dtype=torch.float64)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    if kind is SpatialStep:
        rows = step.norm(torch.cat([features, token.unsqueeze(1)], dim=1)).transpose(1, 2)
    else:
        rows = step.norm(torch.cat([features, token.unsqueeze(2)], dim=2))
    first, _, last = step.mlp
    hidden = rows @ first.weight.T + first.bias
    gelu = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    expected = (gelu @ last.weight.T + last.bias).squeeze(-1) + token
    torch.testing.assert_close(step(features, token), expected, atol=1e-12, rtol=1e-12)


def test_large_features_in_float16_do_not_overflow_the_variance() -> None:
    step = ChannelStep(5, 64, 8)
    features, token = 300 * torch.randn(2, 5, 64), 300 * torch.randn(2, 5)
    exact = tokens._joint_norm(step.norm, features, token)
    found = tokens._joint_norm(step.norm.half(), features.half(), token.half())
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == torch.float16
        torch.testing.assert_close(ours.float(), theirs, atol=5e-3, rtol=5e-3)
