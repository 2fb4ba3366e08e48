"""Teachers as their students use them; B batch, K classes, T teachers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixstill.distill import teachers as module
from mixstill.distill.classifier import Classifier, Facts, build_student, save_student
from mixstill.distill.placement import Placement
from mixstill.distill.teachers import Teacher, Teachers, load_teacher, teacher_names
from mixstill.errors import UserError
from mixstill.models import CifarResNet, write_weights
from mixstill.schema import from_dict

STUDENT = Facts(3, None, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 8)
OWN = replace(STUDENT, mean=(0.1, 0.2, 0.3), std=(0.6, 0.5, 0.4))


class Camera(nn.Module):
    """Gives the images that it is shown, flattened, with dropout and a batch norm that tell if it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(3, eps=0)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return self.norm(self.drop(self.scale * images)).flatten(1)


def camera(facts: Facts = OWN, name: str = "camera") -> Classifier:
    return Classifier(Camera(), facts, name)


def make_images(size: int = 8) -> Tensor:
    """A batch in [0, 1] under the student's normalisation."""
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (STUDENT.mean, STUDENT.std))
    return (pixels - mean) / std


def save_run(path, seed=0, teachers="big@1/2 big", num_classes=3):
    """A small student's file, as a run leaves it."""
    config = from_dict(
        {
            "model": {"name": "mixer_digits", "kwargs": {"num_blocks": 2, "embed_dim": 8}},
            "distill": {"teachers": teachers},
        }
    )
    torch.manual_seed(seed)
    student = build_student(config, num_classes)
    for parameter in student.parameters():
        nn.init.normal_(parameter)
    save_student(path, student, config, replace(OWN, num_classes=num_classes))
    return student.eval()


# --- what a teacher sees ---


def test_images_are_renormalised_to_the_teachers_own_statistics():
    teacher, images = Teacher(camera(), STUDENT), make_images()
    teacher(images)
    for c in range(3):
        pixels = images[:, c].double().numpy() * STUDENT.std[c] + STUDENT.mean[c]
        expected = (pixels - OWN.mean[c]) / OWN.std[c]
        np.testing.assert_allclose(teacher.model.seen[:, c].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [5, 12])
def test_images_are_resized_to_the_teachers_own_resolution(size):
    teacher, images = Teacher(camera(replace(OWN, input_size=size)), STUDENT), make_images()
    teacher(images)
    seen = teacher.model.seen
    assert seen.shape == (2, 3, size, size)
    for c in range(3):
        pixels = images[:, [c]].double() * STUDENT.std[c] + STUDENT.mean[c]
        scaled = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        expected = (scaled[:, 0] - OWN.mean[c]) / OWN.std[c]
        torch.testing.assert_close(seen[:, c].double(), expected, atol=1e-5, rtol=0)


def test_a_student_as_a_teacher_gives_its_average_head(tmp_path):
    student, images = save_run(tmp_path / "run.safetensors", seed=1), make_images()
    own = [(images[:, c] * STUDENT.std[c] + STUDENT.mean[c] - OWN.mean[c]) / OWN.std[c] for c in range(3)]
    output = student(torch.stack(own, dim=1))
    logits = Teachers([Placement(str(tmp_path / "run.safetensors"))], STUDENT)(images)
    torch.testing.assert_close(logits[0], (output.logits + output.heads.mean(dim=0)) / 2)
    assert not torch.allclose(logits[0], output.logits)


# --- made ready ---


def test_weights_that_are_rounded_before_give_what_autocast_gives(tmp_path):
    save_run(tmp_path / "student.safetensors")
    torch.manual_seed(3)
    write_weights(tmp_path / "net.safetensors", CifarResNet(8, num_classes=3, width=4).state_dict())
    placements = [Placement(str(tmp_path / name)) for name in ("student.safetensors", "net.safetensors")]
    teachers, images = Teachers(placements, replace(STUDENT, input_size=8)), make_images()
    with torch.autocast("cpu", torch.bfloat16):
        before = teachers(images)
        teachers.round_weights()
        assert torch.equal(teachers(images), before)
    rounded = {name for name, weight in teachers.named_parameters() if weight.dtype == torch.bfloat16}
    assert any("conv1" in name for name in rounded)
    assert not any("token_modules" in name or "norm" in name or "bn" in name for name in rounded)


def test_convolutions_lie_channels_last():
    teacher = Teacher(Classifier(CifarResNet(8, num_classes=3, width=4), OWN, "net"), STUDENT)
    assert teacher.model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_images_that_are_normalised_alike_stay_the_very_same():
    teacher = Teacher(camera(STUDENT), STUDENT)
    images = make_images(STUDENT.input_size)
    teacher(images)
    assert teacher.model.seen is images


# --- frozen ---


def test_a_teacher_never_trains(tmp_path):
    save_run(tmp_path / "run.safetensors")
    teachers = Teachers([Placement(str(tmp_path / "run.safetensors"))], STUDENT)
    teachers.members.append(Teacher(Classifier(Camera().train(), OWN, "camera"), STUDENT))
    student = nn.ModuleDict({"student": nn.Linear(1, 1), "teachers": teachers})
    for mode in (True, False, True):
        student.train(mode)
        assert student["student"].training is mode
        for teacher in teachers.members:
            assert not any(part.training for part in teacher.modules())
            assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_no_gradient_reaches_a_teacher_whatever_is_asked_of_it():
    teacher, images = Teacher(camera(), STUDENT), make_images().requires_grad_()
    state = {key: value.clone() for key, value in teacher.state_dict().items()}
    first = teacher(images)
    teacher.train().requires_grad_(True)
    logits = teacher.train()(images)
    assert not logits.requires_grad
    assert torch.equal(logits, first)
    assert all(torch.equal(value, state[key]) for key, value in teacher.state_dict().items())


# --- several ---


def test_logits_come_in_the_order_of_first_mention(tmp_path):
    a, b = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    save_run(tmp_path / "a.safetensors", seed=0)
    save_run(tmp_path / "b.safetensors", seed=1, teachers=())
    teachers = Teachers([Placement(b, "2/3"), Placement(a), Placement(b)], STUDENT)
    images = make_images()
    logits = teachers(images)
    assert logits.shape == (2, 2, 3)
    for found, path in zip(logits, (b, a), strict=True):
        assert torch.equal(found, Teacher(load_teacher(path), STUDENT)(images))
    assert not torch.equal(logits[0], logits[1])
    assert teachers.names == ["b", "a"]
    assert teachers.module_teacher == [0, 1, 0]
    assert teachers.module_names == ["b@2/3", "a@last", "b@last"]


def test_a_teacher_at_two_places_is_loaded_once(monkeypatch):
    loaded = []
    monkeypatch.setattr(module, "load_classifier", lambda source, **_: loaded.append(source) or camera(name=source))
    teachers = Teachers([Placement("net", "2/3"), Placement("other"), Placement("net")], STUDENT)
    assert loaded == ["net", "other"]
    assert len(teachers.members) == 2
    assert teachers(make_images()).shape == (2, 2, 3 * 8 * 8)


def test_a_teacher_keeps_the_facts_of_its_classifier():
    facts = replace(OWN, classes=("bee", "cat", "dog"), input_size=12)
    assert Teacher(camera(facts), STUDENT).facts == facts


def test_without_teachers_there_are_no_logits():
    teachers = Teachers([], STUDENT)
    assert teachers(make_images()) is None
    assert (teachers.names, teachers.module_teacher, teachers.module_names) == ([], [], [])


def test_a_teacher_of_other_classes_is_a_users_mistake(tmp_path):
    path = tmp_path / "ten.safetensors"
    save_run(path, num_classes=10)
    with pytest.raises(UserError) as caught:
        Teachers([Placement(str(path))], STUDENT)
    assert str(caught.value).startswith("distill.teachers: ten has 10 classes, but the data have 3; train it on these ")


# --- names and sources ---


def test_classes_in_another_order_are_matched_by_name():
    names = ("cat", "Sea_Lion", "eel")
    student = replace(STUDENT, classes=("eel", "cat", "sea lion"))
    teacher = Teacher(Classifier(nn.Flatten(), replace(STUDENT, classes=names), "fish"), student)
    images = torch.arange(3.0).view(1, 3, 1, 1).expand(1, 3, 8, 8)[..., :1, :1]  # logits 0, 1, 2 of cat, sea lion, eel
    teacher.input_size = 1
    assert teacher(images).tolist() == [[2.0, 0.0, 1.0]]
    assert teacher.names_told == "its classes are matched by name, since they come in another order"
    same = Teacher(Classifier(nn.Flatten(), replace(STUDENT, classes=names), "fish"), replace(STUDENT, classes=names))
    assert (same.order, same.names_told) == (None, None)


def test_other_names_of_a_foreign_teacher_are_told():
    own, student = replace(OWN, classes=("cat", "dog", "eel")), replace(STUDENT, classes=("cat", "wolf", "eel"))
    teacher = Teacher(camera(own), student)
    assert teacher.order is None
    assert teacher.names_told == "it names its classes otherwise: class 1 is 'dog' and 'wolf' in the data"


def test_model_is_file_names_the_architecture_of_a_file(tmp_path):
    torch.manual_seed(0)
    source = CifarResNet(8, num_classes=3).eval()
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    torch.save(source.state_dict(), folder / "net.pt")
    images = torch.randn(2, 3, 32, 32)
    for text in (f"cifar_resnet8={folder / 'net.pt'}", str(folder / "net.pt")):
        assert torch.equal(load_teacher(text).model(images), source(images))
    with pytest.raises(
        UserError, match=r"^distill.teachers: .*: holds a cifar_resnet8, not the resnet18.a1_in1k that was named"
    ):
        load_teacher(f"resnet18.a1_in1k={folder / 'net.pt'}")


def test_a_teacher_that_cannot_be_had_is_a_users_mistake():
    with pytest.raises(
        UserError, match=r"^distill.teachers: source: 'resnet_50' is no run .*; did you mean 'resnet50'"
    ):
        Teachers([Placement("resnet_50")], STUDENT)


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ([], []),
        (["resnet50", "runs/small"], ["resnet50", "small"]),
        (["runs/small/", "weights/net.safetensors"], ["small", "net"]),
        (["cifar_resnet20=weights/net.th", "hf-hub:timm/resnet50"], ["net", "resnet50"]),
        (["."], ["."]),
        (["a/net.pt", "b/net.pt"], ["a/net.pt", "b/net.pt"]),
        (["net.a", "net.b", "runs/net.a.pt"], ["net.a", "net.b", "runs/net.a.pt"]),
        (["cifar_resnet8=net.pt", "resnet18=net.pt"], ["cifar_resnet8=net.pt", "resnet18=net.pt"]),
    ],
)
def test_teachers_have_short_names_that_differ(sources, names):
    assert teacher_names(sources) == names
