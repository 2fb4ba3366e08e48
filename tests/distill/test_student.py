"""Students over small backbones of every kind; B batch, N patches, C channels, K classes, M modules."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from timm.models import build_model_with_cfg
from timm.models.mlp_mixer import Affine, GatedMlp, MlpMixer, ResBlock, SpatialGatingBlock
from timm.optim import create_optimizer_v2
from torch import nn

from mixstill.distill.placement import Placement
from mixstill.distill.student import Student, StudentOutput, backbone_of
from mixstill.distill.tokens import Tokens
from mixstill.errors import UserError
from mixstill.models.create import create_backbone, pixels

K = 5


def _timm_mlp(name, **kwargs):
    """A small one of timm's MLPs whose registered names take no size."""
    size = {"img_size": 8, "patch_size": 2, "num_blocks": 3, "embed_dim": 16, "proj_drop_rate": 0.2}
    return build_model_with_cfg(MlpMixer, name, False, num_classes=K, **size, **kwargs)


def _backbone(name, input_size, **kwargs):
    return create_backbone(name, K, input_size=input_size, drop_path=0.2, kwargs=kwargs)


# Each drops something at random in training, and none has its usual input size.
BACKBONES = {
    "mixer": partial(_backbone, "mixer_digits", 12, num_blocks=3, embed_dim=16, proj_drop_rate=0.2),
    "resmlp": partial(_timm_mlp, "resmlp_12_224", block_layer=ResBlock, norm_layer=Affine, mlp_ratio=4),
    "gmlp": partial(_timm_mlp, "gmlp_ti16_224", block_layer=SpatialGatingBlock, mlp_layer=GatedMlp, mlp_ratio=6),
    "vit": partial(_backbone, "vit_tiny_patch16_224", 32, patch_size=8, depth=3, embed_dim=12, num_heads=3),
    "convnext": partial(_backbone, "convnext_atto", 64, depths=(1, 1, 2, 1), dims=(8, 8, 16, 16)),
    "swin": partial(
        _backbone, "swin_tiny_patch4_window7_224", 32, window_size=2, depths=(1, 2), embed_dim=12, num_heads=(1, 2)
    ),
    "resnet": partial(_backbone, "resnet10t", 64, channels=(8, 8, 16, 16), stem_width=8),
    "cifar_resnet": partial(_backbone, "cifar_resnet8", 16, width=4),
}
TWO = (Placement("small", "2/3"), Placement("large", "last"))
every_backbone = pytest.mark.parametrize("name", BACKBONES)


def make_backbone(name: str) -> nn.Module:
    """A backbone with random weights and statistics: many start with a head or branches of zeros, which hide much."""
    torch.manual_seed(0)
    backbone = BACKBONES[name]()
    for values in backbone.state_dict().values():
        if values.is_floating_point():
            nn.init.uniform_(values, 0.1, 0.5) if values.ndim < 2 else nn.init.normal_(values, std=0.2)
    return backbone


def make_images(backbone: nn.Module, batch: int = 3) -> torch.Tensor:
    side = pixels(backbone)
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def make_student(name: str = "mixer", placements=TWO, **kwargs) -> tuple[Student, torch.Tensor]:
    backbone = make_backbone(name)
    return Student(backbone, placements, **kwargs), make_images(backbone)


def seeded(model: nn.Module, images: torch.Tensor):
    torch.manual_seed(7)
    return model(images)


def features_after(backbone: nn.Module, images: torch.Tensor, block: int) -> torch.Tensor:
    """Z [B,N,C] of one block, from the maps that every backbone gives."""
    maps = backbone.forward_intermediates(images, indices=[block], output_fmt="NCHW", intermediates_only=True)[0]
    return torch.einsum("bchw->bhwc", maps).reshape(len(images), -1, maps.shape[1])


# --- a student is its backbone ---


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@every_backbone
def test_class_logits_are_bit_equal_to_the_plain_backbones(name, training):
    student, images = make_student(name)
    plain = make_backbone(name)
    assert torch.equal(seeded(student.train(training), images).logits, seeded(plain.train(training), images))
    state = plain.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in student.backbone.state_dict().items())
    logits = seeded(plain, images)
    assert logits.std(dim=0).min() > 0
    assert torch.equal(logits, plain.eval()(images)) is not training


@every_backbone
def test_the_backbones_weights_load_into_the_stock_backbone(name):
    student, images = make_student(name)
    stock = BACKBONES[name]()
    stock.load_state_dict(student.backbone.state_dict())
    assert torch.equal(stock.eval()(images), student.eval()(images).logits)


@every_backbone
def test_every_parameter_gets_a_gradient(name):
    student, images = make_student(name)
    output = seeded(student, images)
    (output.logits.square().sum() + output.heads.square().sum()).backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []
    modules = student.token_modules.named_parameters()
    assert [name for name, parameter in modules if not parameter.grad.any()] == []


@every_backbone
def test_distillation_reaches_the_backbone(name):
    student, images = make_student(name, TWO[:1])
    seeded(student, images).heads.square().sum().backward()
    first = next(parameter for key, parameter in student.backbone.named_parameters() if key.endswith("weight"))
    assert first.grad.any()


def test_without_modules_every_head_is_the_class_head():
    student, images = make_student(placements=())
    output = student.eval()(images)
    assert isinstance(output, StudentOutput)
    assert output.heads.shape == (0, 3, K)
    assert output.tokens == ()
    assert student.token_shapes == {}
    assert [key for key, _ in student.named_parameters() if not key.startswith("backbone.")] == []
    for head in ("average", "class", "distill"):
        for space in ("logit", "probability"):
            assert torch.equal(output.predict(head, space), output.logits)
    assert torch.equal(output.logits, make_backbone("mixer").eval()(images))


# --- modules ---


@every_backbone
def test_each_module_reads_the_block_of_its_place(name):
    student, images = make_student(name, (Placement("a"), Placement("b", "0"), Placement("c", "2/3")))
    student.eval()
    output = student(images)
    depth = len(student.layout.shapes)
    assert student.blocks == (depth - 1, 0, -(-2 * depth // 3) - 1)
    assert len(student.token_modules) == 3
    for m, block in enumerate(student.blocks):
        features = features_after(student.backbone, images, block)
        patches, channels = features.shape[1:]
        assert student.token_shapes[m] == (channels, patches)
        head, tokens = student.token_modules[str(m)](features)
        # Rows of a map in another order give the same sums, differently rounded.
        torch.testing.assert_close(output.heads[m], head, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output.tokens[m].spatial, tokens.spatial, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output.tokens[m].channel, tokens.channel, rtol=1e-4, atol=1e-5)


def test_block_i_of_a_mixer_is_what_its_first_blocks_give():
    student, images = make_student(placements=(Placement("a", "1"),))
    backbone = student.eval().backbone
    features = backbone.blocks[:2](backbone.stem(images))
    assert torch.equal(student(images).heads[0], student.token_modules["0"](features)[0])


@pytest.mark.parametrize("training", [False, True])
@every_backbone
def test_the_output_has_one_type_and_shape_in_both_modes(name, training):
    student, images = make_student(name)
    output = student.train(training)(images)
    assert isinstance(output, StudentOutput)
    assert output.logits.shape == (3, K)
    assert output.heads.shape == (2, 3, K)
    assert [tuple(t.spatial.shape) for t in output.tokens] == [
        (3, channels) for channels, _ in student.token_shapes.values()
    ]
    assert [tuple(t.channel.shape) for t in output.tokens] == [
        (3, patches) for _, patches in student.token_shapes.values()
    ]


@pytest.mark.parametrize(("tokens", "names"), [("spatial", {"spatial", "head"}), ("none", {"norm", "head"})])
def test_modules_have_the_tokens_and_steps_that_were_asked_for(tokens, names):
    student, images = make_student(tokens=tokens, steps=2)
    parameters = [key.split(".") for key, _ in student.token_modules.named_parameters()]
    assert {key[1] for key in parameters} == names
    assert {key[3] for key in parameters if key[2:3] == ["steps"]} == ({"0", "1"} if tokens == "spatial" else set())
    assert student(images).heads.shape == (2, 3, K)


def test_a_mixers_modules_take_its_own_token_mixing_width():
    student = Student(create_backbone("mixer_digits", K, kwargs={"embed_dim": 16, "mlp_ratio": (0.75, 4.0)}), TWO)
    widths = [
        (m.spatial.steps[0].mlp[0].out_features, m.channel.steps[0].mlp[0].out_features)
        for m in student.token_modules.values()
    ]
    assert widths == [(12, 64), (12, 64)]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("mixer_s16_224", 22.155, 22.165), ("mixer_b16_224", 66.705, 66.715), ("resmlp_24_224", 32.45, 32.53)],
)
def test_two_modules_give_the_published_sizes(name, low, high):
    with torch.device("meta"):
        student = Student(create_backbone(name, 1000), [Placement("resnet50"), Placement("resnet101")])
    assert low <= sum(parameter.numel() for parameter in student.parameters()) / 1e6 <= high


@pytest.mark.parametrize("training", [False, True])
def test_building_a_student_leaves_the_backbones_modes_and_statistics(training):
    backbone = make_backbone("cifar_resnet").train(training)
    backbone.layer2.eval()
    before = [module.training for module in backbone.modules()]
    state = copy.deepcopy(backbone.state_dict())
    draw = torch.get_rng_state()
    Student(backbone, [])
    assert torch.equal(torch.get_rng_state(), draw)
    Student(backbone, TWO)
    assert [module.training for module in backbone.modules()] == before
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


# --- optimizer ---


@every_backbone
def test_undecayed_names_exist_and_hold_tokens_and_what_the_backbone_names(name):
    student, _ = make_student(name)
    names = student.no_weight_decay()
    assert names <= {key for key, _ in student.named_parameters()}
    starts = {f"token_modules.{m}.{token}.start" for m in (0, 1) for token in ("spatial", "channel")}
    assert starts <= names
    expected = {"vit": {"pos_embed", "cls_token"}, "swin": 3}.get(name, set())
    own = {key.removeprefix("backbone.") for key in names - starts}
    assert len(own) == expected if isinstance(expected, int) else own == expected


def test_timms_optimizer_leaves_tokens_undecayed():
    student, _ = make_student("vit")
    optimizer = create_optimizer_v2(student, opt="adamw", lr=0.1, weight_decay=0.05)
    undecayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {key for key, p in student.named_parameters() if id(p) in undecayed} >= student.no_weight_decay()


# --- predictions ---


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize("modules", [1, 3])
@pytest.mark.parametrize("space", ["logit", "probability"])
@pytest.mark.parametrize("head", ["average", "class", "distill"])
def test_predictions_are_averages_of_logits_or_probabilities(head, space, modules):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, K, generator=generator)
    heads = 3 * torch.randn(modules, 4, K, generator=generator)
    found = StudentOutput(logits, heads, (Tokens(),) * modules).predict(head, space)

    z, h = logits.double().numpy(), heads.double().numpy()
    view = softmax if space == "probability" else lambda x: x
    of_heads = sum(view(one) for one in h) / modules
    expected = {"class": view(z), "distill": of_heads, "average": (view(z) + of_heads) / 2}[head]
    shown = found.double().numpy()
    np.testing.assert_allclose(softmax(shown) if space == "probability" else shown, expected, rtol=1e-5, atol=1e-6)
    if head == "class":
        assert found is logits


def test_probabilities_that_underflow_stay_finite():
    logits, heads = torch.tensor([[0.0, 500.0]]), torch.tensor([[[0.0, 400.0]]])
    output = StudentOutput(logits, heads, (Tokens(),))
    torch.testing.assert_close(output.predict("distill", "probability"), torch.tensor([[-400.0, 0.0]]))
    expected = torch.tensor([[-400.0 - np.log(2), 0.0]], dtype=torch.float32)
    torch.testing.assert_close(output.predict("average", "probability"), expected)


# --- propagation ---


def test_tokens_propagate_from_a_teachers_earlier_module_only():
    # The later module is named first, and another teacher stands between.
    places = (Placement("a"), Placement("b", "1"), Placement("a", "0"))
    student, images = make_student(placements=places, propagate=True)
    student.eval()
    assert student.earlier == (2, None, None)
    starts = {key for key in student.no_weight_decay() if key.endswith("start")}
    assert starts == {f"token_modules.{m}.{token}.start" for m in (1, 2) for token in ("spatial", "channel")}

    output = student(images)
    features = [features_after(student.backbone, images, block) for block in student.blocks]
    head_2, tokens_2 = student.token_modules["2"](features[2])
    head_0, tokens_0 = student.token_modules["0"](features[0], tokens_2)
    head_1, _ = student.token_modules["1"](features[1])
    for found, expected in zip(output.heads, (head_0, head_1, head_2), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(output.tokens[0].spatial, tokens_0.spatial)
    torch.testing.assert_close(output.tokens[0].channel, tokens_0.channel)


def test_tokens_propagate_through_all_places_of_a_teacher():
    places = (Placement("a", "0"), Placement("a", "1"), Placement("a", "2"))
    assert make_student(placements=places, propagate=True)[0].earlier == (None, 0, 1)
    assert make_student(placements=places)[0].earlier == (None, None, None)


@pytest.mark.parametrize("tokens", ["spatial+channel", "spatial", "channel"])
def test_every_parameter_gets_a_gradient_where_tokens_propagate(tokens):
    places = (Placement("a", "0"), Placement("b", "1"), Placement("a"), Placement("b"))
    student, images = make_student(placements=places, tokens=tokens, propagate=True)
    output = seeded(student, images)
    (output.logits.square().sum() + output.heads.square().sum()).backward()
    assert [name for name, p in student.token_modules.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_places_of_different_shapes_cannot_propagate():
    places = (Placement("a", "0"), Placement("a", "last"))
    with pytest.raises(UserError) as caught:
        make_student("cifar_resnet", places, propagate=True)
    assert str(caught.value) == (
        "distill.propagate: tokens at a@0 and a@last differ in (channels, patches): (4, 256) and (16, 16); "
        "they cannot propagate"
    )
    make_student("cifar_resnet", places)
    make_student("cifar_resnet", (Placement("a", "0"), Placement("b", "last")), propagate=True)


# --- a user's mistakes ---


@pytest.mark.parametrize("place", ["2", "last", "1.0", "3/3"])
def test_a_teacher_stands_once_at_a_block_however_its_place_is_written(place):
    with pytest.raises(UserError, match=r"^distill.teachers: a@2 stands twice at block 2 of the student$"):
        make_student(placements=(Placement("a", "2"), Placement("b", place), Placement("a", place)))
    make_student(placements=(Placement("a", "1"), Placement("a", place), Placement("b", place)))


def test_a_place_out_of_range_is_a_users_mistake():
    with pytest.raises(UserError, match=r"^distill.teachers: a@3: the place is out of range; .* 0 to 2, "):
        make_student(placements=(Placement("a", "3"),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "spatal"}, "tokens: unknown value 'spatal'; did you mean 'spatial'?"),
        ({"tokens": None}, "tokens: unknown value None; did you mean 'none'?"),
        ({"steps": 0}, "steps: 0 is not valid; it must be a whole number, 1 or more"),
        ({"steps": 1.5}, "steps: 1.5 is not valid; it must be a whole number, 1 or more"),
        ({"steps": "2"}, "steps: '2' is not valid; it must be a whole number, 1 or more"),
    ],
)
@pytest.mark.parametrize("placements", [TWO, ()])
def test_modules_that_cannot_be_are_a_users_mistake(placements, options, message):
    with pytest.raises(UserError) as caught:
        Student(make_backbone("mixer"), placements, **options)
    assert str(caught.value) == message


def test_the_backbone_of_a_plain_model_is_itself():
    backbone = make_backbone("mixer")
    assert backbone_of(backbone) is backbone
    assert backbone_of(Student(backbone, TWO)) is backbone


class Featureless(nn.Module):
    """A classifier that does not let its features be read."""

    num_classes = K

    def forward_features(self, images):
        return images

    def forward_head(self, features):
        return features.mean(dim=(2, 3))[:, :1].expand(-1, K)


def test_a_backbone_whose_features_cannot_be_read_takes_no_modules():
    with pytest.raises(UserError) as caught:
        Student(Featureless(), TWO)
    assert str(caught.value) == (
        "model: Featureless has no forward_intermediates, so no token module can read its features"
    )
    assert Student(Featureless())(torch.zeros(2, 3, 4, 4)).logits.shape == (2, K)


def test_a_backbone_that_does_not_run_at_its_input_size_is_a_users_mistake():
    backbone = make_backbone("mixer")
    backbone.stem.img_size = None  # its pretrained_cfg then tells the size
    backbone.pretrained_cfg = {"input_size": (3, 8, 8)}
    backbone.blocks.train()
    with pytest.raises(UserError, match=r"^model: MlpMixer cannot read images of 8 pixels: [^\n]+$"):
        Student(backbone, TWO)
    assert backbone.blocks.training
