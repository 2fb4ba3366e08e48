import pytest
import torch
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from mixstill.distill.placement import Placement
from mixstill.distill.student import Student
from mixstill.distill.timm_student import TimmStudent
from mixstill.models.create import create_backbone

PLACES = (Placement("small", "2/3"), Placement("large"))


def make_model(placements=PLACES) -> tuple[TimmStudent, Tensor]:
    torch.manual_seed(0)
    backbone = create_backbone("mixer_digits", 5, kwargs={"num_blocks": 3, "embed_dim": 16})
    nn.init.normal_(backbone.head.weight)  # zeros in timm
    return TimmStudent(Student(backbone, placements)), torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize("distilled", [None, False, True])
@pytest.mark.parametrize("training", [False, True])
def test_two_tensors_come_out_in_distilled_training_only(training, distilled):
    model, images = make_model()
    if distilled is not None:
        model.set_distilled_training(True)
        model.set_distilled_training(distilled)
    found, output = model.train(training)(images), model.student(images)
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
    assert torch.equal(model.eval()(images), model.student.backbone(images))


def test_timm_finds_what_it_asks_a_model_for():
    model, _ = make_model()
    assert model.num_classes == 5
    assert model.default_cfg is model.pretrained_cfg is model.student.backbone.pretrained_cfg
    data = resolve_model_data_config(model)
    assert (data["input_size"], data["mean"]) == ((3, 8, 8), (0.5, 0.5, 0.5))


def test_timms_optimizer_leaves_tokens_undecayed():
    model, _ = make_model()
    names = model.no_weight_decay()
    assert names == {f"student.token_modules.{m}.{token}.start" for m in range(2) for token in ("spatial", "channel")}
    optimizer = create_optimizer_v2(model, opt="adamw", lr=0.1, weight_decay=0.05)
    undecayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in undecayed} >= names
