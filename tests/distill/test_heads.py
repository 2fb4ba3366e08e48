"""Teachers that speak to heads of the backbone's own: the class head, and a distillation token's."""

import pytest
import torch
from torch import nn

from mixstill.config import Config, DistillConfig
from mixstill.distill.equation import equation
from mixstill.distill.objective import Objective
from mixstill.distill.placement import Placement
from mixstill.distill.student import Student
from mixstill.distill.tokens import Tokens
from mixstill.errors import UserError
from mixstill.models.create import create_backbone

K = 5
SMALL_DEIT = {"patch_size": 8, "depth": 2, "embed_dim": 12, "num_heads": 3}
DISTILLED = {
    "deit_tiny_distilled_patch16_224": (32, SMALL_DEIT),
    "levit_128s": (64, {"embed_dim": (16, 16, 16), "depth": (1, 1, 1), "key_dim": 4, "num_heads": (2, 2, 2)}),
    "repvit_m1": (32, {"embed_dim": (8, 8, 8, 8), "depth": (1, 1, 1, 1)}),
}


def make_student(name, *places, size=32, drop_rate=0.0, **kwargs) -> tuple[Student, torch.Tensor]:
    torch.manual_seed(0)
    kwargs |= {"drop_rate": drop_rate} if drop_rate else {}
    backbone = create_backbone(name, K, input_size=size, kwargs=kwargs)
    student = Student(backbone, [Placement.parse(place) for place in places])
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.3)
    return student, torch.randn(3, 3, size, size)


def test_at_the_class_head_the_teacher_speaks_to_the_logits_themselves():
    student, images = make_student("resnet10t", "a@class", "b@class", channels=(8, 8, 16, 16), stem_width=8)
    output = student.eval()(images)
    assert torch.equal(output.heads, torch.stack([output.logits, output.logits]))
    assert output.tokens == (Tokens(), Tokens())
    assert len(student.token_modules) == 0
    assert student.token_shapes == {}
    torch.testing.assert_close(output.predict("average"), output.logits)


def test_the_class_head_needs_no_features():
    class Plain(nn.Module):
        num_classes = K

        def forward_features(self, images):
            return images.mean((2, 3))

        def forward_head(self, features):
            return features.repeat(1, 2)[:, :K]

    student = Student(Plain(), [Placement("a", "class")])
    assert student.eval()(torch.randn(1, 3, 32, 32)).heads.shape == (1, 1, K)


def test_usual_distillation_is_its_equation():
    """DeiT (Touvron et al., ICML 2021), equation 2: (1 - l) CE(softmax(z), y) + l tau^2 KL, both of one head."""
    student, images = make_student("resnet10t", "a@class", channels=(8, 8, 16, 16), stem_width=8)
    output, alpha, tau = student.eval()(images), 0.1, 3.0
    teacher, labels = torch.randn(1, 3, K), torch.tensor([0, 4, 2])
    config = DistillConfig(kind="soft", alpha=alpha, tau=tau)
    found = Objective(config, 0.0, ["a@class"], [0], ["a"])(output.logits, output.heads, teacher, labels)
    z, t = output.logits.double(), teacher[0].double()
    p, q = torch.softmax(t / tau, 1), torch.softmax(z / tau, 1)
    divergence = (p * (p / q).log()).sum(1).mean()
    ce = -torch.softmax(z, 1).log()[torch.arange(3), labels].mean()
    torch.testing.assert_close(found.total.double(), (1 - alpha) * ce + alpha * tau**2 * divergence, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", DISTILLED)
def test_the_tokens_head_is_heard_apart_in_any_mode(name):
    size, kwargs = DISTILLED[name]
    student, images = make_student(name, "a@token", "b@last", size=size, **kwargs)
    backbone = student.backbone
    with torch.no_grad():
        for _ in range(2):  # statistics of random layers must settle
            student.train()(images)
        output = student.eval()(images)
        torch.testing.assert_close((output.logits + output.heads[0]) / 2, backbone(images))
        assert not torch.allclose(output.logits, output.heads[0], atol=1e-3)
        assert set(student.token_modules) == {"1"}
        assert (len(output.tokens), output.tokens[0]) == (2, Tokens())
        assert not any(module.training for module in student.modules())


def test_evaluation_drops_nothing_and_training_does():
    student, images = make_student("deit_tiny_distilled_patch16_224", "a@token", drop_rate=0.9, **SMALL_DEIT)
    quiet = student.eval()(images)
    assert torch.equal(quiet.heads, student(images).heads)
    assert torch.equal(quiet.logits, student(images).logits)
    assert not torch.equal(student.train()(images).heads, student(images).heads)


def test_the_class_and_the_token_of_deit_are_its_two_heads():
    student, images = make_student("deit_tiny_distilled_patch16_224", "a@token", "a@class", **SMALL_DEIT)
    backbone = student.eval().backbone
    output, final = student(images), backbone.forward_features(images)
    torch.testing.assert_close(output.logits, backbone.head(final[:, 0]))
    torch.testing.assert_close(output.heads, torch.stack([backbone.head_dist(final[:, 1]), output.logits]))


def test_all_of_a_distilled_student_gets_a_gradient():
    student, images = make_student("deit_tiny_distilled_patch16_224", "a@token", "b@1", **SMALL_DEIT)
    output = student.train()(images)
    (output.logits.sum() + output.heads.square().sum()).backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []


def test_without_a_teacher_at_the_token_a_distilled_backbone_is_timms():
    student, images = make_student("deit_tiny_distilled_patch16_224", "a@last", **SMALL_DEIT)
    assert torch.equal(student.train()(images).logits, student.backbone(images))


def test_the_mode_of_the_backbone_is_left_as_it_was():
    torch.manual_seed(0)
    backbone = create_backbone("deit_tiny_distilled_patch16_224", K, input_size=32, kwargs=SMALL_DEIT)
    Student(backbone, [Placement("a", "token")])
    assert all(module.training for module in backbone.modules())
    Student(backbone.eval(), [Placement("a", "token")])
    assert not any(module.training for module in backbone.modules())


def test_a_backbone_that_fails_on_the_blank_image_keeps_its_modes():
    backbone = create_backbone("deit_tiny_distilled_patch16_224", K, input_size=32, kwargs=SMALL_DEIT)
    backbone.norm = nn.LayerNorm(7)
    backbone.blocks[0].eval()
    before = [module.training for module in backbone.modules()]
    with pytest.raises(RuntimeError, match="normalized_shape"):
        Student(backbone, [Placement("a", "token")])
    assert [module.training for module in backbone.modules()] == before


@pytest.mark.parametrize("name", ["resnet10t", "efficientvit_b0"])
def test_a_backbone_without_a_token_says_so(name):
    with pytest.raises(UserError, match=r"distill.teachers: the place 'token' .* mixer_s16_distilled_224"):
        make_student(name, "a@token", size=64)


def test_a_method_without_a_second_head_is_no_token():
    backbone = create_backbone("efficientformerv2_s0", K, input_size=64)
    backbone.head_dist = None
    with pytest.raises(UserError, match="does not have"):
        Student(backbone, [Placement("a", "token")])


@pytest.mark.parametrize(
    ("places", "counted"),
    [
        (("a@class",), ()),
        (("a@class", "b@token"), (1,)),
        (("a@token", "b@token", "c@last"), (0, 2)),
        (("a@class", "b@class", "c@last", "c@0"), (2, 3)),
    ],
)
def test_a_head_of_many_teachers_counts_once_in_the_average(places, counted):
    student, images = make_student("deit_tiny_distilled_patch16_224", *places, **SMALL_DEIT)
    output = student.eval()(images)
    distilled = output.heads[list(counted)].mean(0) if counted else output.logits
    torch.testing.assert_close(output.predict("distill"), distilled)
    torch.testing.assert_close(output.predict("average"), (output.logits + distilled) / 2)
    mixed = (output.logits.softmax(1) + output.heads[list(counted)].softmax(2).mean(0)) / 2 if counted else None
    if mixed is not None:
        torch.testing.assert_close(output.predict("average", "probability").exp(), mixed)


def test_a_backbone_of_grey_images_may_have_a_token():
    student, _ = make_student("deit_tiny_distilled_patch16_224", "a@token", in_chans=1, **SMALL_DEIT)
    assert student.eval()(torch.randn(1, 1, 32, 32)).heads.shape == (1, 1, K)


@pytest.mark.parametrize("place", ["class", "token"])
def test_one_teacher_stands_at_a_head_once(place):
    with pytest.raises(UserError, match=f"a@{place} stands twice at the {place} head"):
        make_student("deit_tiny_distilled_patch16_224", f"a@{place}", f"a@{place}", **SMALL_DEIT)


def test_tokens_propagate_between_modules_only():
    backbone = create_backbone("mixer_digits", K, kwargs={"num_blocks": 3, "embed_dim": 8})
    places = [Placement.parse(text) for text in ("a@last", "a@class", "a@0")]
    student = Student(backbone, places, propagate=True)
    assert student.earlier == (2, None, None)
    assert student(torch.randn(2, 3, 8, 8)).heads.shape == (3, 2, K)


def test_the_equation_names_the_heads():
    names = ["small@class", "large@token", "large@last"]
    config = Config(distill=DistillConfig(alpha=0.5, weights="uniform"))
    first = equation(config, names, ["small", "large", "large"])[0]
    assert "CE(class, argmax small) + 1/3 CE(token, argmax large) + 1/3 CE(head large@last, argmax large)" in first
