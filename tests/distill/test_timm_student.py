import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from timm.task import TokenDistillationTask
from torch import Tensor, nn

from mixstill.distill.placement import Placement
from mixstill.distill.registry import PREFIX, default_cfgs
from mixstill.distill.student import Student
from mixstill.distill.timm_student import TimmStudent
from mixstill.errors import UserError
from mixstill.models.create import create_backbone

PLACES = (Placement("small", "2/3"), Placement("large"))


def make_model(placements=PLACES) -> tuple[TimmStudent, Tensor]:
    torch.manual_seed(0)
    backbone = create_backbone("mixer_digits", 5, kwargs={"num_blocks": 3, "embed_dim": 16})
    nn.init.normal_(backbone.head.weight)  # zeros in timm
    return TimmStudent(backbone, placements), torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize("distilled", [None, False, True])
@pytest.mark.parametrize("training", [False, True])
def test_two_tensors_come_out_in_distilled_training_only(training, distilled):
    model, images = make_model()
    if distilled is not None:
        model.set_distilled_training(True)
        model.set_distilled_training(distilled)
    found, output = model.train(training)(images), Student.forward(model, images)
    mean_head = (output.heads[0] + output.heads[1]) / 2
    if training and distilled:
        assert isinstance(found, tuple)
        torch.testing.assert_close(found, (output.logits, mean_head))
    else:
        torch.testing.assert_close(found, (output.logits + mean_head) / 2)
        assert not torch.allclose(found, output.logits)


def test_distilled_training_is_on_unless_told_otherwise():
    model, images = make_model()
    model.set_distilled_training()
    assert len(model.train()(images)) == 2


def test_without_modules_both_outputs_are_the_class_logits():
    model, images = make_model(())
    model.set_distilled_training()
    logits, distilled = model.train()(images)
    assert torch.equal(logits, distilled)
    assert torch.equal(model.eval()(images), model.backbone(images))


def test_a_students_weights_fit_and_answer_alike():
    model, images = make_model()
    student = Student(create_backbone("mixer_digits", 5, kwargs={"num_blocks": 3, "embed_dim": 16}), PLACES)
    student.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images), student.eval()(images).predict())


def test_timm_finds_what_it_asks_a_model_for():
    model, _ = make_model()
    assert model.num_classes == 5
    assert model.default_cfg is model.pretrained_cfg
    data = resolve_model_data_config(model)
    assert (data["input_size"], data["mean"]) == ((3, 8, 8), (0.5, 0.5, 0.5))


def test_the_input_size_told_is_that_of_the_images_taken():
    assert timm.create_model("std_mixer_digits", img_size=12).pretrained_cfg["input_size"] == (3, 12, 12)


def test_timms_optimizer_leaves_tokens_undecayed():
    model, _ = make_model()
    names = model.no_weight_decay()
    assert names == {f"token_modules.{m}.{token}.start" for m in range(2) for token in ("spatial", "channel")}
    optimizer = create_optimizer_v2(model, opt="adamw", lr=0.1, weight_decay=0.05)
    undecayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in undecayed} >= names


def test_features_and_head_are_the_backbones():
    model, images = make_model()
    model.eval()
    features = model.forward_features(images)
    assert torch.equal(features, model.backbone.forward_features(images))
    assert torch.equal(model.forward_head(features), model.backbone(images))
    assert model.forward_head(features, pre_logits=True).shape == (4, 16)
    _, (third,) = model.forward_intermediates(images, indices=[2], output_fmt="NLC")
    assert third.shape == (4, 16, 16)


def test_a_new_classifier_is_one_in_every_head_and_none_gives_pooled_features():
    model, images = make_model()
    model.reset_classifier(7)
    assert model.num_classes == 7
    assert model(images).shape == (4, 7)
    assert [head.out_features for head in model.get_classifier()] == [7, 7, 7]
    model.reset_classifier(0)
    assert torch.equal(model(images), model.forward_head(model.forward_features(images), pre_logits=True))
    model.reset_classifier(3)
    model.set_distilled_training()
    assert [tuple(logits.shape) for logits in model.train()(images)] == [(4, 3), (4, 3)]


def test_new_heads_lie_where_the_others_do():
    model, _ = make_model()
    model.double().reset_classifier(7)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


@pytest.mark.parametrize("name", ["std_mixer_digits", "std_gmlp_ti16_224", "std_resmlp_12_224", "std_cyclemlp_b1_224"])
@pytest.mark.parametrize("coarse", [False, True])
def test_layer_groups_are_the_backbones_and_the_modules_come_last(name, coarse):
    with torch.device("meta"):
        model = timm.create_model(name)
    own = group_parameters(model.backbone, model.backbone.group_matcher(coarse=coarse))
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    assert len(groups) == len(own)
    for group, names in own.items():
        below = [name.removeprefix("backbone.") for name in groups[group] if name.startswith("backbone.")]
        assert below == names
    modules = [name for name, _ in model.token_modules.named_parameters(prefix="token_modules")]
    assert set(modules) <= set(groups[max(groups)])


def test_gradient_checkpointing_reaches_the_backbone_and_changes_nothing():
    model, images = make_model()
    plain = model(images)
    model.set_grad_checkpointing()
    assert model.backbone.grad_checkpointing
    assert torch.equal(model(images), plain)


def test_every_vision_mlp_has_a_student_and_nothing_else_has():
    names = set(timm.list_models("std_*"))
    assert names == set(default_cfgs)
    assert {"std_mixer_s4_32", "std_mixer_b16_224", "std_gmixer_12_224", "std_cyclemlp_b5_224"} <= names
    assert not {"std_resnet18", "std_convmixer_768_32"} & names
    assert set(timm.list_models(module="registry")) == names
    assert timm.list_models("std_*", pretrained=True) == []


def test_a_students_cfg_is_the_backbones_without_its_weights():
    cfg, own = timm.models.get_pretrained_cfg("std_mixer_b16_224"), timm.models.get_pretrained_cfg("mixer_b16_224")
    assert (cfg.input_size, cfg.mean, cfg.interpolation) == (own.input_size, own.mean, own.interpolation)
    assert own.has_weights
    assert not cfg.has_weights
    model = timm.create_model("std_mixer_digits")
    assert model.get_submodule(model.pretrained_cfg["first_conv"]) is model.backbone.stem.proj
    assert model.get_submodule(model.pretrained_cfg["classifier"]) is model.backbone.head


def test_pretrained_weights_are_the_backbones(tmp_path):
    own = timm.create_model("mixer_digits", num_blocks=2)
    torch.save(own.state_dict(), tmp_path / "own.pth")
    overlay = {"file": str(tmp_path / "own.pth")}
    model = timm.create_model("std_mixer_digits", pretrained=True, pretrained_cfg_overlay=overlay, num_blocks=2)
    assert torch.equal(model.backbone.blocks[1].mlp_tokens.fc1.weight, own.blocks[1].mlp_tokens.fc1.weight)


@pytest.mark.parametrize(
    ("options", "blocks", "keys"),
    [
        ({}, (3, 3), {"0", "1"}),
        ({"places": "2/3"}, (2,), {"0"}),
        ({"places": 0}, (0,), {"0"}),
        ({"places": 0.5}, (1,), {"0"}),
        ({"places": "1/4,last"}, (0, 3), {"0", "1"}),
        ({"places": ["1/3", "last"], "tokens": "spatial", "steps": 2, "propagate": True}, (1, 3), {"0", "1"}),
        ({"places": []}, (), set()),
    ],
)
def test_where_the_modules_are_and_what_they_are_is_told_by_name(options, blocks, keys):
    model = timm.create_model("std_mixer_digits", num_classes=3, **options)
    assert model.blocks == blocks
    assert set(model.token_modules) == keys
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    if "tokens" in options:
        assert all(module.channel is None and len(module.spatial.steps) == 2 for module in model.token_modules.values())
        assert model.earlier == (None, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"places": "9"}, "out of range"),
        ({"features_only": True}, "take 'mixer_digits'"),
        ({"tokens": "spatal"}, "did you mean 'spatial'"),
        ({"steps": 0}, "steps: 0 is not valid"),
        ({"steps": "2"}, "steps: '2' is not valid"),
    ],
)
def test_what_a_student_cannot_be_is_told(options, message):
    with pytest.raises(UserError, match=message):
        timm.create_model("std_mixer_digits", **options)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_timms_own_token_distillation_trains_it(kind):
    torch.manual_seed(0)
    model = timm.create_model("std_mixer_digits", num_classes=5)
    teacher = timm.create_model("resnet10t", num_classes=5)
    task = TokenDistillationTask(model, teacher, nn.CrossEntropyLoss(), distill_type=kind, verbose=False)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=3e-3)
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 5
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = task.train()(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_student_that_timm_saved_comes_back(tmp_path):
    model, images = timm.create_model("std_mixer_digits", num_classes=3).eval(), torch.randn(2, 3, 8, 8)
    timm.models.save_for_hf(model, str(tmp_path / "saved"), safe_serialization=True)
    found = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    assert torch.equal(found(images), model(images))


def test_timms_device_and_dtype_reach_the_modules():
    model = timm.create_model("std_mixer_digits", device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


def test_the_features_of_a_token_are_one_tensor():
    kwargs = {"patch_size": 8, "depth": 1, "embed_dim": 12, "num_heads": 3}
    backbone = create_backbone("deit_tiny_distilled_patch16_224", 3, input_size=32, kwargs=kwargs)
    model = TimmStudent(backbone, [Placement("a", "token")]).train()
    assert model.forward_head(model.forward_features(torch.randn(2, 3, 32, 32))).shape == (2, 3)


@pytest.mark.slow
def test_another_package_may_have_names_like_a_vision_mlps():
    code = """
import timm
from timm.models import register_model
@register_model
def mixer_of_mine(pretrained=False, **kwargs): ...
import mixstill
assert not timm.is_model("std_mixer_of_mine") and timm.is_model("std_mixer_digits")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("start", [["-m", "mixstill"], ["-X", "utf8", str(Path(sys.executable).with_name("mixstill"))]])
def test_the_command_answers_without_pytorch(start):
    code = [sys.executable, "-X", "importtime", *start, "--version"]
    loaded = subprocess.run(code, check=True, capture_output=True, text=True).stderr
    assert "mixstill.cli" in loaded
    assert "torch" not in loaded


@pytest.mark.slow
def test_a_script_of_another_name_has_the_students(tmp_path):
    script = tmp_path / "mixstill.sh"
    script.write_text("import mixstill, timm; assert timm.is_model('std_mixer_digits')")
    subprocess.run([sys.executable, str(script)], check=True)


def test_importing_mixstill_is_all_that_timm_needs():
    code = "import mixstill, timm; assert timm.is_model('std_mixer_s16_224') and timm.is_model('cyclemlp_b1_224')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_name_of_timms_is_taken():
    taken = {name for name in timm.list_models() if name.startswith(PREFIX)}
    assert taken == set(default_cfgs)
