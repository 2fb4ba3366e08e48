"""Students with token modules at other resolutions. B batch, N patches, C channels, K tiles per side."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mixstill.distill.placement import Placement
from mixstill.distill.resizing import resized_module, student_weights
from mixstill.distill.student import Student
from mixstill.distill.tokens import TokenModule
from mixstill.errors import UserError
from mixstill.models.create import create_backbone
from mixstill.models.resizing import enlargement
from mixstill.models.weights import load_into

SMALL = {"num_blocks": 3, "embed_dim": 8, "patch_size": 2}
CYCLE = {"depths": (1, 1), "embed_dims": (6, 8), "mlp_ratios": (2, 2), "stem_stride": 1}
VIT = {"depth": 3, "embed_dim": 12, "num_heads": 3, "patch_size": 2}
BACKBONES = {
    "mixer": ("mixer_micro_32", SMALL),
    "resmlp": ("resmlp_micro_32", SMALL),
    "gmlp": ("gmlp_micro_32", SMALL),
    "cyclemlp": ("cyclemlp_b1_224", CYCLE),
    "deit": ("deit_tiny_distilled_patch16_224", VIT),
    "resnet": ("cifar_resnet8", {"width": 4}),
}
TWO = [Placement("small", "2/3"), Placement("large", "last")]
SAME = [Placement("small", "1/3"), Placement("small", "last")]
KINDS = ["spatial+channel", "spatial", "channel", "none"]


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for values in model.state_dict().values():
        if values.is_floating_point():
            nn.init.uniform_(values, 0.1, 0.5) if values.ndim < 2 else nn.init.normal_(values, std=0.3)
    return model.double().eval()


def make(family: str, side: int, placements=TWO, classes: int = 5, **kwargs) -> Student:
    """A student that begins as another with the same arguments would."""
    name, arguments = BACKBONES[family]
    torch.manual_seed(1)
    backbone = create_backbone(name, classes, input_size=side, kwargs=arguments | kwargs.pop("arguments", {}))
    return Student(backbone, placements, **kwargs).double().eval()


def images(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(side))


def resized(old: Student, family: str, side: int, placements=TWO, **kwargs) -> Student:
    """Enlarged where it is a Mixer and a whole factor."""
    wider = enlargement(old.backbone, make(family, side, ()).backbone)
    new = make(family, side, placements, arguments=wider, **kwargs)
    state, anew = student_weights(old, new)
    assert anew == []
    load_into(new, state, "resized")
    return new


BUILDS = [(tokens, {}) for tokens in KINDS]
BUILDS += [(tokens, build) for tokens in KINDS[:3] for build in ({"steps": 2}, {"propagate": True})]


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize(("tokens", "build"), BUILDS)
def test_an_enlarged_student_computes_the_same_on_tiled_images_in_all_heads(factor, tokens, build) -> None:
    placements = SAME if "propagate" in build else TWO
    old = randomised(make("mixer", 8, placements, tokens=tokens, **build))
    new = resized(old, "mixer", 8 * factor, placements, tokens=tokens, **build)
    with torch.no_grad():
        before, after = old(images(8)), new(images(8).repeat(1, 1, factor, factor))
    torch.testing.assert_close(after.logits, before.logits, atol=1e-10, rtol=0)
    torch.testing.assert_close(after.heads, before.heads, atol=1e-10, rtol=0)
    for one, other in zip(before.tokens, after.tokens, strict=True):
        assert (one.spatial is None) == ("spatial" not in tokens)
        if one.spatial is not None:
            torch.testing.assert_close(other.spatial, one.spatial, atol=1e-10, rtol=0)
        if one.channel is not None:
            tiled = one.channel.view(2, 4, 4).repeat(1, factor, factor).flatten(1)
            torch.testing.assert_close(other.channel, tiled, atol=1e-10, rtol=0)


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize(("before", "after"), [(8, 16), (16, 8), (8, 12)])
@pytest.mark.parametrize("tokens", ["spatial+channel", "none"])
def test_students_of_every_family_run_at_the_other_size(family, before, after, tokens) -> None:
    old = randomised(make(family, before, tokens=tokens))
    new = resized(old, family, after, tokens=tokens)
    with torch.no_grad():
        output = new(images(after))
    assert output.heads.shape == (2, 2, 5)
    assert output.logits.isfinite().all()
    assert output.heads.isfinite().all()


def both(tokens: str, before: int, after: int, steps: int = 1) -> tuple[TokenModule, TokenModule]:
    """A module on before x before patches, and that at after x after."""
    old, new = (TokenModule(side**2, 6, 5, tokens=tokens, steps=steps).double() for side in (before, after))
    randomised(old)
    new.load_state_dict(resized_module(old.state_dict(), before**2, after**2))
    return old, new


@pytest.mark.parametrize("tokens", KINDS)
@pytest.mark.parametrize(("before", "after"), [(4, 8), (8, 4), (4, 6), (1, 3)])
def test_an_interpolated_module_answers_constant_features_as_before(tokens, before, after) -> None:
    old, new = both(tokens, before, after, steps=2)
    if old.channel is not None:
        nn.init.constant_(old.channel.start, 0.7)
        new.load_state_dict(resized_module(old.state_dict(), before**2, after**2))
    features = torch.randn(3, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        one, tokens_before = old(features.expand(3, before**2, 6))
        other, tokens_after = new(features.expand(3, after**2, 6))
    torch.testing.assert_close(other, one, atol=1e-12, rtol=0)
    if tokens_before.spatial is not None:
        torch.testing.assert_close(tokens_after.spatial, tokens_before.spatial, atol=1e-12, rtol=0)
    if tokens_before.channel is not None:
        assert tokens_after.channel.shape == (3, after**2)


def test_what_stands_on_patches_is_interpolated_and_all_else_stays() -> None:
    old, new = (module.state_dict() for module in both("spatial+channel", 4, 8))

    def resampled(values: torch.Tensor, side: int) -> torch.Tensor:
        """[N] -> [N']."""
        grid = values.view(1, 1, *[round(len(values) ** 0.5)] * 2)
        return F.interpolate(grid, (side, side), mode="bicubic", antialias=True).flatten()

    bound = {"channel.start", "spatial.steps.0.mlp.0.weight", "head.weight"}
    assert all(torch.equal(old[name], new[name]) for name in old.keys() - bound)
    torch.testing.assert_close(new["channel.start"], resampled(old["channel.start"], 8), atol=1e-12, rtol=0)
    mlp, mlp_old = (state["spatial.steps.0.mlp.0.weight"] for state in (new, old))
    assert torch.equal(mlp[:, -1], mlp_old[:, -1])  # the token's own column
    assert torch.equal(new["head.weight"][:, :6], old["head.weight"][:, :6])  # the columns of the spatial token
    seen = torch.randn(64, dtype=torch.float64)
    for found, before in ((mlp[:, :-1], mlp_old[:, :-1]), (new["head.weight"][:, 6:], old["head.weight"][:, 6:])):
        torch.testing.assert_close(found @ seen, before @ resampled(seen, 4), atol=1e-12, rtol=0)


def test_patches_that_are_no_square_are_told() -> None:
    module = TokenModule(6, 4, 5).state_dict()
    assert resized_module(module, 6, 6) is module
    with pytest.raises(UserError, match=r"data.input_size: tokens on 6 patches, which are no square grid"):
        resized_module(module, 6, 24)


# --- other teachers and classes ---


def test_modules_go_on_by_teacher_and_place_and_the_others_begin_anew() -> None:
    old = randomised(make("resmlp", 8))
    placements = [Placement("third", "last"), Placement("large", "last"), Placement("small", "last")]
    new = make("resmlp", 12, placements)
    begun = {name: value.clone() for name, value in new.state_dict().items()}
    state, anew = student_weights(old, new)
    assert anew == [placements[0], placements[2]]
    load_into(new, state, "other teachers")
    same = new.token_modules["1"].state_dict(), old.token_modules["1"].state_dict()
    assert torch.equal(same[0]["head.weight"][:, :8], same[1]["head.weight"][:, :8])
    for key in ("0", "2"):
        for name, value in new.token_modules[key].state_dict().items():
            assert torch.equal(value, begun[f"token_modules.{key}.{name}"])


@pytest.mark.parametrize("other", [{"tokens": "spatial"}, {"steps": 2}])
def test_modules_of_another_build_begin_anew(other) -> None:
    new = make("mixer", 8, **other)
    state, anew = student_weights(randomised(make("mixer", 8)), new)
    assert anew == TWO
    load_into(new, state, "another build")


def test_a_module_that_begins_to_propagate_begins_anew() -> None:
    new = make("mixer", 8, SAME, propagate=True)
    _, anew = student_weights(randomised(make("mixer", 8, SAME)), new)
    assert anew == [SAME[1]]


def test_a_backbone_by_itself_is_taken_without_modules() -> None:
    old = randomised(make("mixer", 8, ()))
    for source in (old, old.backbone):
        new = make("mixer", 8, [*TWO, Placement("small", "class")])
        state, anew = student_weights(source, new)
        assert anew == TWO
        load_into(new, state, "backbone")
        assert torch.equal(new(images(8)).logits, old(images(8)).logits)


def test_without_heads_those_of_the_new_student_stay() -> None:
    old = randomised(make("deit", 8))
    new = make("deit", 12, classes=7)
    begun = {name: value.clone() for name, value in new.state_dict().items()}
    state, anew = student_weights(old, new, heads=False)
    load_into(new, state, "other classes")
    assert anew == []
    kept = {name for name, value in new.state_dict().items() if torch.equal(value, begun[name])}
    heads = {f"backbone.{name}.{part}" for name in ("head", "head_dist") for part in ("weight", "bias")}
    heads |= {f"token_modules.{m}.head.{part}" for m in (0, 1) for part in ("weight", "bias")}
    assert kept == heads
    with pytest.raises(UserError, match=r"'backbone.head.weight': \[5, 12\] for \[7, 12\]"):
        load_into(new, student_weights(old, new)[0], "other classes")
