"""Classifiers from every kind of source; nothing here reaches a network."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from mixstill.config import Config
from mixstill.distill.classifier import (
    EMA_FILE,
    WEIGHTS_FILE,
    Facts,
    build_student,
    load_classifier,
    save_student,
    sketch_student,
)
from mixstill.distill.student import Student
from mixstill.errors import UserError
from mixstill.models import CifarResNet, read_weights, write_weights
from mixstill.models.create import pixels
from mixstill.schema import from_dict, to_dict, write_yaml

FACTS = Facts(3, ("ant", "bee", "cat"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 12)


def make_config(**distill) -> Config:
    return from_dict(
        {
            "model": {"name": "mixer_digits", "kwargs": {"num_blocks": 3, "embed_dim": 8}, "drop_path": 0.1},
            "data": {"input_size": 12},
            "distill": {"teachers": "small@1/3 large@2/3 small@last", **distill},
            "train": {"seed": 3},
        }
    )


def make_student(config: Config) -> Student:
    """A student as after training: no weight is where it started."""
    student = build_student(config, FACTS.num_classes)
    for parameter in student.parameters():
        nn.init.normal_(parameter)
    return student.eval()


def save(path: Path, **distill) -> tuple[Student, Config]:
    config = make_config(**distill)
    student = make_student(config)
    save_student(path, student, config, FACTS)
    return student, config


def message_of(source: object, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load_classifier(str(source), **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_same_outputs(found: nn.Module, expected: nn.Module, size: int = 12) -> None:
    images = torch.randn(2, 3, size, size)
    found, expected = found(images), expected(images)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.heads, expected.heads)


# --- students ---


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_a_students_first_weights_depend_on_the_seed_alone(seed):
    config = replace(make_config(), train=replace(make_config().train, seed=seed))
    first = build_student(config, 3).state_dict()
    torch.randn(3)
    second, other = build_student(config, 3).state_dict(), build_student(make_config(), 3).state_dict()
    assert all(torch.equal(second[key], value) for key, value in first.items())
    assert not torch.equal(other["backbone.stem.proj.weight"], first["backbone.stem.proj.weight"])


def test_weights_of_an_earlier_version_load(tmp_path) -> None:
    config = make_config()
    old = to_dict(config)
    old["data"]["skip_corrupt"] = old["train"]["micro_batches"] = 1
    student = build_student(config, 3)
    about = {"config": old, "facts": asdict(FACTS)}
    write_weights(tmp_path / "old.safetensors", student.state_dict(), {"mixstill": json.dumps(about)})
    assert load_classifier(str(tmp_path / "old.safetensors")).config == config


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("drop_path_rate", 0.1, "give it as --drop-path"),
        ("num_classes", 7, "the data set tells it"),
        ("pretrained", True, "give it as --pretrained"),
        ("checkpoint_path", "x.pt", "start from a file by --init-from FILE"),
        ("pretrained_cfg", {}, "the model's own is taken"),
    ],
)
def test_what_something_else_decides_is_no_argument_of_the_backbone(name, value, hint) -> None:
    with pytest.raises(UserError) as error:
        from_dict({"model": {"kwargs": {name: value}}})
    assert str(error.value).startswith(f"model.kwargs.{name}: {value!r} is not taken here; {hint}")


def test_a_student_is_as_its_config_says():
    student = build_student(make_config(tokens="spatial", steps=2, propagate=True), 4)
    assert [(p.teacher, p.place) for p in student.placements] == [("small", "1/3"), ("large", "2/3"), ("small", "last")]
    assert student.earlier == (None, None, 0)
    assert [len(module.spatial.steps) for module in student.token_modules.values()] == [2, 2, 2]
    assert all(module.channel is None for module in student.token_modules.values())
    backbone = student.backbone
    assert (len(backbone.blocks), backbone.embed_dim, backbone.num_classes, pixels(backbone)) == (3, 8, 4, 12)
    assert backbone.blocks[-1].drop_path.rate == 0.1


@pytest.mark.parametrize(
    "distill",
    [{}, {"tokens": "spatial", "steps": 2}, {"tokens": "none"}, {"propagate": True}, {"teachers": ()}],
    ids=["default", "tokens and steps", "none", "propagate", "plain"],
)
def test_a_saved_student_comes_back_whole(tmp_path, distill):
    path = tmp_path / "student.safetensors"
    student, config = save(path, **distill)
    torch.manual_seed(99)
    found = load_classifier(str(path))
    assert (found.name, found.facts, found.config) == ("student", FACTS, config)
    assert not any(module.training for module in found.model.modules())
    assert found.model.placements == student.placements
    assert_same_outputs(found.model, student)


def test_classes_may_be_unknown(tmp_path):
    config, facts = make_config(), replace(FACTS, classes=None)
    save_student(tmp_path / "student.safetensors", make_student(config), config, facts)
    assert load_classifier(str(tmp_path / "student.safetensors")).facts == facts


def test_a_saved_students_backbone_is_not_fetched_again(tmp_path, monkeypatch):
    config = make_config()
    student = make_student(config)
    config = replace(config, model=replace(config.model, pretrained=True))
    save_student(tmp_path / "student.safetensors", student, config, FACTS)
    create = timm.create_model

    def offline(name, pretrained=False, **kwargs):
        assert not pretrained
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    found = load_classifier(str(tmp_path / "student.safetensors"))
    assert found.config == config
    assert_same_outputs(found.model, student)


def test_a_run_directory_gives_its_weights_or_their_average(tmp_path, monkeypatch):
    run = tmp_path / "my.run"
    run.mkdir()
    weights, config = save(run / WEIGHTS_FILE)
    write_yaml(config, run / "config.yaml")
    average = make_student(config)
    save_student(run / EMA_FILE, average, config, FACTS)
    monkeypatch.chdir(run)
    for source in (run, "."):
        found = load_classifier(str(source))
        assert (found.name, found.facts, found.config) == ("my.run", FACTS, config)
        assert_same_outputs(found.model, weights)
    assert_same_outputs(load_classifier(str(run), ema=True).model, average)
    (run / EMA_FILE).unlink()
    assert (
        message_of(run, ema=True)
        == f"source: the run '{run}' keeps no moving average (train.ema_decay); leave --use-ema out"
    )


def test_a_run_directory_is_found_under_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / WEIGHTS_FILE)
    assert load_classifier("~").name == tmp_path.name


# --- a user's mistakes ---


def test_a_student_that_cannot_be_built_is_told_before_it_is():
    sketch_student(make_config())
    pretrained = make_config()
    sketch_student(replace(pretrained, model=replace(pretrained.model, pretrained=True)))
    with pytest.raises(UserError, match=r"^distill.teachers: small@9: the place is out of range"):
        sketch_student(make_config(teachers="small@9"))


def test_an_unfinished_run_is_a_users_mistake(tmp_path):
    write_yaml(make_config(), tmp_path / "config.yaml")
    expected = f"source: the run '{tmp_path}' is not finished; mixstill train --resume --output {tmp_path} goes on"
    assert message_of(tmp_path) == expected


def test_a_folder_that_is_no_run_is_a_users_mistake(tmp_path):
    expected = f"source: '{tmp_path}' is not a run directory: it holds no config.yaml"
    assert message_of(tmp_path) == expected
    assert message_of(tmp_path, ema=True) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", "source: {path!r} is no run directory, weights file, timm name or hub id"),
        ("none.pt", "{path}: cannot be read: No such file or directory"),
        ("none.safetensors", "{path}: cannot be read: No such file or directory"),
    ],
)
def test_a_missing_path_is_a_users_mistake(tmp_path, name, expected):
    path = str(tmp_path / name)
    assert message_of(path) == expected.format(path=path)


@pytest.mark.parametrize(("name", "nearest"), [("resnet_50", "resnet50"), ("mixer_digit", "mixer_digits")])
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    expected = f"source: {name!r} is no run directory, weights file, timm name or hub id; did you mean {nearest!r}?"
    assert message_of(name) == expected


DAMAGED = {
    "not JSON": lambda about: "{",
    "a list": lambda about: json.dumps([1]),
    "null": lambda about: "null",
    "no facts": lambda about: json.dumps({"config": about["config"]}),
    "no config": lambda about: json.dumps({"facts": about["facts"]}),
    "facts are text": lambda about: json.dumps(about | {"facts": "?"}),
    "config is a list": lambda about: json.dumps(about | {"config": []}),
    "a fact is missing": lambda about: json.dumps(about | {"facts": {"num_classes": 3}}),
    "a fact too many": lambda about: json.dumps(about | {"facts": about["facts"] | {"colour": 1}}),
    "an unknown field": lambda about: json.dumps(about | {"config": {"model": {"nome": "x"}}}),
    **{
        f"{name} of {value!r:.20}": lambda about, name=name, value=value: json.dumps(
            about | {"facts": about["facts"] | {name: value}}
        )
        for name, values in {
            "mean": [[float("nan"), 0, 0], [0, float("inf"), 0], [10**400, 0, 0], [True, 0, 0], ["0", 0, 0], 0.5, None],
            "std": [[0, 1, 1], [1, -1, 1], [1, 1, float("nan")], [1, 1, float("inf")], [1e-50, 1, 1], [1, 1], {}],
            "classes": [[1, 2, 3], [None] * 3, ["a", ["b"], "c"], ["a", "b"], "abc", {"a": 1, "b": 2, "c": 3}, 3],
            "num_classes": [True, 3.0, 0, -3, 10**9, "3", None],
            "input_size": [True, 12.0, 0, -12, 10**9, "12", None, [12]],
        }.items()
        for value in values
    },
    "a value out of range": lambda about: json.dumps(about | {"config": {"distill": {"alpha": 7}}}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_metadata_is_told_in_one_line(tmp_path, damage):
    path = tmp_path / "student.safetensors"
    save(path)
    weights = read_weights(path)
    about = json.loads(weights.metadata["mixstill"])
    write_weights(path, weights.state, {"mixstill": DAMAGED[damage](about)})
    assert message_of(path).startswith(f"{path}: its metadata is damaged: ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_told_with_the_first_tensor(tmp_path, value):
    path, plain = tmp_path / "student.safetensors", tmp_path / "plain.pt"
    save(path)
    weights, name = read_weights(path), "backbone.blocks.1.mlp_tokens.fc1.bias"
    weights.state[name][2] = value
    write_weights(path, weights.state, weights.metadata)
    expected = f"its weights are not finite (first {name!r}); name a file that is whole"
    assert message_of(path) == f"{path}: {expected}"
    state = timm.create_model("cifar_resnet8", num_classes=10, width=4).state_dict()
    state["layer1.0.bn1.running_var"][0] = value
    torch.save(state, plain)
    assert message_of(plain).startswith(f"{plain}: its weights are not finite (first 'layer1.0.bn1.running_var')")


def test_weights_that_are_not_finite_in_the_models_type_are_refused(tmp_path):
    state = timm.create_model("cifar_resnet8", num_classes=10, width=4).double().state_dict()
    state["fc.bias"][0] = 1e300
    torch.save(state, tmp_path / "plain.pt")
    assert "(first 'fc.bias')" in message_of(tmp_path / "plain.pt")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"mean": [float("nan")] * 3}, "NaN is not finite"),
        ({"mean": 0.5}, "mean 0.5 is not three numbers"),
        ({"std": [0.0] * 3}, "std (0.0, 0.0, 0.0) is not positive"),
        ({"crop_pct": float("nan")}, "NaN is not finite"),
        ({"crop_pct": 0}, "crop_pct 0, which is no share"),
        ({"crop_pct": 1e9}, "crop_pct 1000000000.0, which is no share"),
        ({"crop_pct": "all"}, "crop_pct 'all', which is no share"),
        ({"label_names": [1, 2, 3]}, "class names are not a list of texts: (1, 2, 3)"),
        ({"label_names": "abc"}, "class names are not a list of texts: 'abc'"),
        ({"label_names": ["a", "b"]}, "2 class names for 3 classes"),
        ({"label_names": ["a", "b", "\x1b[2J"]}, "holds a control character"),
        ({"label_names": {"a": 1}}, "is no classifier of RGB images"),
        ({"label_names": {"2": "c", "10": "k", "0": "a"}}, None),
    ],
)
def test_a_folder_of_timms_that_tells_nonsense_is_refused(tmp_path, told, words):
    model = timm.create_model("mixer_digits", num_classes=3, num_blocks=2, embed_dim=8)
    cfg = {"num_classes": 3, "input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    save_for_hf(model, tmp_path / "folder", model_args={"num_blocks": 2, "embed_dim": 8}, safe_serialization=True)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    config |= {"num_classes": 3, "pretrained_cfg": config["pretrained_cfg"] | cfg | told}
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    if words is None:
        assert load_classifier(str(tmp_path / "folder")).facts.classes == ("a", "c", "k")
    else:
        assert words in message_of(tmp_path / "folder")


def test_a_folder_of_timms_with_weights_that_are_not_finite_is_refused(tmp_path):
    model = timm.create_model("mixer_digits", num_classes=3, num_blocks=2, embed_dim=8)
    nn.init.constant_(model.head.bias, float("nan"))
    save_for_hf(model, tmp_path / "folder", model_args={"num_blocks": 2, "embed_dim": 8}, safe_serialization=True)
    assert "its weights are not finite (first 'head.bias')" in message_of(tmp_path / "folder")


def test_weights_that_do_not_fit_their_config_are_told_in_one_line(tmp_path):
    path = tmp_path / "student.safetensors"
    student, config = save(path)
    save_student(path, student.backbone, config, FACTS)
    assert message_of(path).startswith(f"{path}: does not fit Student: ")
    save_student(path, student, config, replace(FACTS, num_classes=4, classes=tuple("abcd")))
    assert "of another shape (first 'backbone.head.weight': [3, 8] for [4, 8])" in message_of(path)


# --- files of others ---


@pytest.mark.parametrize("model", [None, "cifar_resnet8"])
def test_a_public_cifar_resnet_is_recognised_with_its_normalisation(tmp_path, model):
    torch.manual_seed(0)
    source = CifarResNet(8, num_classes=10, shortcut="A").eval()
    state = {f"module.{key.replace('fc.', 'linear.')}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.2}, tmp_path / "resnet8-1.th")
    found = load_classifier(str(tmp_path / "resnet8-1.th"), model=model)
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert found.facts == Facts(10, None, *imagenet, 32)
    assert (found.name, found.config) == ("resnet8-1", None)
    assert not found.model.training
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.model(images), source(images))


@pytest.mark.parametrize("name", ["resnet10t", "std_mixer_digits"])
def test_a_checkpoint_of_timms_script_tells_its_model(tmp_path, name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4).eval()
    path, images = tmp_path / "last.pth.tar", torch.randn(2, 3, 8, 8)
    args = argparse.Namespace(lr=0.1)
    torch.save({"state_dict": model.state_dict(), "arch": name, "args": args, "optimizer": {}}, path)
    found = load_classifier(str(path))
    assert torch.equal(found.model(images), model(images))
    assert found.facts.num_classes == 4


def test_grey_images_are_told_in_one_line(tmp_path):
    save_for_hf(timm.create_model("cifar_resnet8", in_chans=1), str(tmp_path / "grey"), safe_serialization=True)
    with pytest.raises(UserError, match="'cifar_resnet8' is no classifier of RGB images"):
        load_classifier(str(tmp_path / "grey"))


def test_an_architecture_that_timm_does_not_know_is_told_apart_by_keys(tmp_path):
    model = timm.create_model("cifar_resnet20")
    torch.save({"state_dict": model.state_dict(), "arch": "resnet20"}, tmp_path / "a.pth.tar")
    assert isinstance(load_classifier(str(tmp_path / "a.pth.tar")).model, CifarResNet)


def test_a_student_by_name_is_no_backbone():
    with pytest.raises(UserError, match=r"model.name: 'std_mixer_digits' has modules already; .* 'mixer_digits'"):
        build_student(from_dict({"model": {"name": "std_mixer_digits"}}), 3)


def test_a_file_of_any_timm_model_needs_its_name(tmp_path):
    path = tmp_path / "net.pt"
    torch.manual_seed(0)
    source = timm.create_model("mixer_digits", num_classes=7).eval()
    nn.init.normal_(source.head.weight)
    torch.save(source.state_dict(), path)
    assert message_of(path) == (
        f"{path}: its architecture cannot be told from its keys; name it: --model NAME, as a teacher NAME={path}@PLACE"
    )
    assert message_of(path, model="mixer_digit").startswith("model: unknown value 'mixer_digit'; did you mean")
    assert message_of(path, model="mixer_micro_32").startswith(f"{path}: does not fit MlpMixer: ")
    found = load_classifier(str(path), model="mixer_digits")
    assert found.facts == Facts(7, None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 8)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(found.model(images), source(images))


# --- timm names and hub ids ---


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (OSError, "the weights of {!r} cannot be fetched"),
        (RuntimeError, "the weights of {!r} cannot be fetched"),
        (ValueError, "{!r} cannot be built with {{}}"),
    ],
)
@pytest.mark.parametrize("source", ["resnet10t", "resnet10t.c3_in1k", "hf-hub:timm/resnet10t.c3_in1k"])
def test_weights_that_cannot_be_had_are_told_in_one_line(monkeypatch, source, error, what):
    def offline(*_, **__):
        raise error("no route\nto the hub " + 1000 * "x")

    monkeypatch.setattr(timm, "create_model", offline)
    message = message_of(source)
    assert message.startswith(f"model: {what.format(source)}: no route to the hub xx")
    assert len(message) < 400


@pytest.mark.parametrize("source", ["mixer_digits", "resnet10t.none"])
def test_a_name_without_weights_is_told_in_one_line(source):
    assert message_of(source).startswith(f"model: the weights of {source!r} cannot be fetched: ")


@pytest.mark.parametrize(
    ("num_classes", "labels", "first"), [(1000, None, "tench"), (4, None, None), (3, ["a", "b", "c"], "a")]
)
def test_the_facts_of_a_timm_name_are_its_own(monkeypatch, num_classes, labels, first):
    backbone = timm.create_model("mixer_digits", num_classes=num_classes, embed_dim=8).train()
    backbone.pretrained_cfg = backbone.pretrained_cfg | {"label_names": labels}
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **kwargs: asked.append((name, kwargs)) or backbone)
    found = load_classifier("mixer_digits.tag")
    assert [(name, kwargs["pretrained"], "num_classes" in kwargs) for name, kwargs in asked] == [
        ("mixer_digits.tag", True, False)
    ]
    assert (found.name, found.model, found.config) == ("mixer_digits.tag", backbone, None)
    assert not backbone.training
    classes = found.facts.classes
    assert found.facts == Facts(num_classes, classes, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 8)
    if first is None:
        assert classes is None
    else:
        assert (classes[0].split(",")[0], len(classes)) == (first, num_classes)


def test_a_folder_that_timm_saved_is_read(tmp_path):
    source = timm.create_model("mixer_digits", num_classes=3, num_blocks=2, embed_dim=8).eval()
    nn.init.normal_(source.head.weight)
    save_for_hf(source, tmp_path, model_config={"label_names": list(FACTS.classes)}, safe_serialization=True)
    found = load_classifier(f"local-dir:{tmp_path}")
    assert found.facts == Facts(3, FACTS.classes, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 8)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(found.model(images), source(images))
    assert message_of("local-dir:none/of/these").startswith("model: the weights of 'local-dir:none/of/these' cannot ")


# --- at another resolution ---


def test_classifiers_of_every_source_are_read_at_another_resolution(tmp_path):
    """Mixers twice as large per side answer tiled images as they did the small ones."""
    student, _ = save(tmp_path / "student.safetensors")
    plain = timm.create_model("mixer_digits", num_classes=3).eval()
    folder = timm.create_model("mixer_digits", num_classes=3, num_blocks=2, embed_dim=8, img_size=12).eval()
    for model in (plain, folder):
        nn.init.normal_(model.head.weight)
    write_weights(tmp_path / "plain.safetensors", plain.state_dict())
    save_for_hf(folder, tmp_path / "folder", model_args={"img_size": 12, "num_blocks": 2, "embed_dim": 8})
    for source, model, size, about in (
        (str(tmp_path / "student.safetensors"), student, 12, {}),
        (str(tmp_path / "plain.safetensors"), plain, 8, {"model": "mixer_digits"}),
        (f"local-dir:{tmp_path / 'folder'}", folder, 12, {}),
    ):
        found = load_classifier(source, input_size=2 * size, **about)
        assert (found.facts.input_size, found.model.training) == (2 * size, False)
        assert replace(found.facts, input_size=size) == load_classifier(source, **about).facts
        images = torch.randn(2, 3, size, size)
        logits, expected = found.model(images.repeat(1, 1, 2, 2)), model(images)
        if found.config is not None:
            assert found.config.data.input_size == 2 * size
            torch.testing.assert_close(logits.heads, expected.heads, rtol=1e-4, atol=1e-3)
            logits, expected = logits.logits, expected.logits
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        own = load_classifier(source, input_size=size, **about)
        assert own.config == load_classifier(source, **about).config


@pytest.mark.parametrize("field", ["num_classes", "input_size"])
@pytest.mark.parametrize("value", [10**12, 2**63, 10**9, 0, -1, 1.5, "x", None])
def test_absurd_sizes_in_a_files_metadata_build_nothing(teachers, tmp_path, field, value) -> None:
    weights = read_weights(Path(teachers["small"]))
    about = json.loads(weights.metadata["mixstill"])
    about["facts"] |= {field: value, "classes": None}
    path = tmp_path / "odd.safetensors"
    write_weights(path, weights.state, {"mixstill": json.dumps(about)})
    with pytest.raises(UserError, match=f"odd.safetensors: its metadata is damaged: {field} "):
        load_classifier(str(path))


def test_a_stored_config_of_a_giant_allocates_nothing(teachers, tmp_path) -> None:
    weights = read_weights(Path(teachers["small"]))
    about = json.loads(weights.metadata["mixstill"])
    about["config"]["model"]["kwargs"] = {"width": 200_000}
    path = tmp_path / "giant.safetensors"
    write_weights(path, weights.state, {"mixstill": json.dumps(about)})
    with pytest.raises(UserError, match=r"giant\.safetensors: does not fit"):
        load_classifier(str(path))
