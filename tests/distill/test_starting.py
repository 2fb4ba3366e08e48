"""Runs that start from the weights of others: their configs, and what goes on of the weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from torch import nn

from mixstill.data.images import STATISTICS, normalisation_of
from mixstill.distill.classifier import Facts, build_student, load_classifier, save_student
from mixstill.distill.starting import resumed_config, start, starting_config
from mixstill.distill.strip import strip
from mixstill.errors import UserError
from mixstill.models import write_weights
from mixstill.schema import from_dict, to_dict, write_yaml
from mixstill.stored import remember

FACTS = Facts(10, tuple("0123456789"), *STATISTICS["digits"], 8)
TEACHERS = ["small@1/2", "large@last"]


@pytest.fixture
def source(tiny, tmp_path):
    """Writes a finished run of the tiny config with options over it, and gives its path."""

    def write(options=None, name="run", facts=FACTS) -> Path:
        config = tiny({"distill.teachers": TEACHERS} | (options or {}))
        student = build_student(replace(config, model=replace(config.model, pretrained=False)), facts.num_classes)
        for parameter in student.parameters():
            nn.init.normal_(parameter)
        path = tmp_path / name
        path.mkdir()
        write_yaml(config, path / "config.yaml")
        save_student(path / "weights.safetensors", student, config, facts)
        remember(config)  # as the run that it stands for has done
        return path

    return write


def over(path: Path | str, **sections):
    sections["model"] = {"init_from": str(path), **sections.get("model", {})}
    return sections


def message_of(call, *args) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- configs ---


def test_without_a_recipe_the_config_is_that_of_the_source(tiny, source, tmp_path, monkeypatch) -> None:
    path = source({"views.mixup": 0.5, "model.pretrained": True})
    monkeypatch.chdir(tmp_path)
    config = starting_config(None, over("run", data={"input_size": "16"}, train={"seed": 3}))
    kwargs = {"num_blocks": 2, "embed_dim": 8, "mlp_ratio": [2.0, 4.0]}
    options = {"views.mixup": 0.5, "distill.teachers": TEACHERS, "data.input_size": 16, "train.seed": 3}
    assert config == tiny(options | {"model.kwargs": kwargs, "model.init_from": str(path)})
    assert starting_config(None, over(path / "weights.safetensors")) == tiny(
        {"views.mixup": 0.5, "distill.teachers": TEACHERS, "model.init_from": str(path / "weights.safetensors")}
    )


@pytest.mark.parametrize(
    ("own", "named", "size", "expected"),
    [
        (None, None, 24, [4.5, 4.0]),
        ([0.25, 2], None, 16, [1.0, 2.0]),
        (2, None, 16, [8.0, 2.0]),
        (None, [0.5, 4], 16, [0.5, 4]),
        ([0.25, 2], None, 12, [0.25, 2]),
        (None, None, 12, None),
        (None, None, 4, None),
        (None, None, 8, None),
    ],
)
def test_a_mixer_gets_wider_for_whole_factors_unless_its_ratio_is_named(source, own, named, size, expected) -> None:
    kwargs = {"num_blocks": 2, "embed_dim": 8} | ({} if own is None else {"mlp_ratio": own})
    path = source({"model.kwargs": kwargs})
    model = {} if named is None else {"model": {"kwargs": {"mlp_ratio": named}}}
    config = starting_config(None, over(path, data={"input_size": size}, **model))
    assert config.model.kwargs.get("mlp_ratio") == expected
    assert start(build_student(config, 10), config, replace(FACTS, input_size=size))


def test_a_recipe_is_started_from_a_run(tiny, source, tiny_recipe, tmp_path) -> None:
    path = source()
    recipe = tiny_recipe({"data.input_size": 16, "train.seed": 9})
    config = starting_config(recipe, over(path))
    kwargs = {"num_blocks": 2, "embed_dim": 8, "mlp_ratio": [2.0, 4.0]}
    options = {"data.input_size": 16, "train.seed": 9, "model.kwargs": kwargs, "model.init_from": str(path)}
    assert config == tiny(options)
    write_yaml(config, tmp_path / "again.yaml")
    assert starting_config(str(tmp_path / "again.yaml"), {}) == config  # it is wide enough already


@pytest.mark.parametrize(("size", "expected"), [(32, [8.0, 4.0]), (16, [2.0, 4.0]), (8, [2.0, 4.0]), (24, [2.0, 4.0])])
def test_a_recipe_keeps_the_width_of_a_source_that_was_enlarged_before(source, tiny_recipe, size, expected) -> None:
    kwargs = {"num_blocks": 2, "embed_dim": 8, "mlp_ratio": [2.0, 4.0]}
    path = source({"model.kwargs": kwargs, "data.input_size": 16}, facts=replace(FACTS, input_size=16))
    config = starting_config(tiny_recipe(), over(path, data={"input_size": size}))
    assert config.model.kwargs.get("mlp_ratio") == expected
    start(build_student(config, 10), config, replace(FACTS, input_size=size))


def test_modules_go_on_by_the_teachers_name_and_the_block(source, tiny_recipe) -> None:
    path = source({"distill.teachers": ["runs/small@1/2", "a/large@last"]})
    there = {"distill.teachers": ["elsewhere/small@0", "large@1"], "model.init_from": str(path)}
    config = starting_config(tiny_recipe(there), {})
    student = build_student(config, 10)
    assert start(student, config, FACTS) == ["starts from the weights of run"]
    known = load_classifier(str(path)).model.state_dict()
    assert all(torch.equal(value, known[name]) for name, value in student.state_dict().items())


def test_a_recipe_may_name_the_source_itself(source, tiny_recipe, tmp_path, monkeypatch) -> None:
    path = source()
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe({"model.init_from": "run", "data.input_size": 16})
    config = starting_config(recipe, {})
    assert (config.model.init_from, config.model.kwargs["mlp_ratio"]) == (str(path), [2.0, 4.0])
    assert starting_config(recipe, {"model": {"init_from": None}}).model.init_from is None


def test_a_recipe_without_a_source_is_as_it_is(tiny, tiny_recipe) -> None:
    assert starting_config(tiny_recipe(), {"train": {"seed": 2}}) == tiny({"train.seed": 2})


def test_a_size_among_the_arguments_of_the_source_gives_way(source) -> None:
    path = source(
        {"model.kwargs": {"num_blocks": 2, "embed_dim": 8, "img_size": 12}}, facts=replace(FACTS, input_size=12)
    )
    config = starting_config(None, over(path, data={"input_size": 8}))
    assert (config.model.kwargs, config.data.input_size) == ({"num_blocks": 2, "embed_dim": 8}, 8)
    assert starting_config(None, over(path)).model.kwargs["img_size"] == 12


def test_pretrained_weights_and_those_of_a_run_exclude_each_other(source, tiny_recipe) -> None:
    path = source()
    expected = "model.pretrained: True is not valid; it must be false where model.init_from is given"
    assert message_of(starting_config, None, over(path, model={"pretrained": True})) == expected
    config = starting_config(tiny_recipe({"model.pretrained": True}), over(path))
    assert not config.model.pretrained


def test_weights_that_do_not_tell_their_config_need_a_recipe(teachers, tiny_recipe) -> None:
    said = message_of(starting_config, None, over(teachers["large"]))
    assert said == "model.init_from: 'large' does not tell its config; name a recipe before it"
    options = {"model.name": "cifar_resnet8", "model.kwargs": {"width": 6}, "data.input_size": 8}
    config = starting_config(tiny_recipe(options), over(teachers["large"]))
    student = build_student(config, 10)
    assert start(student, config, FACTS) == ["starts from the weights of large, resized from 32 to 8 pixels"]
    assert torch.equal(
        student.backbone.layer3[0].conv1.weight, load_classifier(teachers["large"]).model.layer3[0].conv1.weight
    )


def test_weights_that_cannot_be_had_are_told(source, tmp_path) -> None:
    said = message_of(starting_config, None, over(tmp_path / "none"))
    assert said.startswith(
        f"model.init_from: there is no '{tmp_path / 'none'}'; name a run directory, a weights file or"
    )
    path = source()
    (path / "weights.safetensors").unlink()
    said = message_of(starting_config, None, over(path))
    assert said.startswith(f"model.init_from: source: the run '{path}' is not finished; mixstill train --resume ")
    (path / "config.yaml").unlink()
    assert "is not a run directory: it holds no config.yaml" in message_of(starting_config, None, over(path))


def test_a_run_is_gone_on_with_by_the_same_words_without_its_source(source, tiny_recipe, tmp_path, monkeypatch) -> None:
    path = source({"model.pretrained": True})
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe({"data.input_size": 16, "model.pretrained": True})
    for words in ((None, over("run", data={"input_size": 16})), (recipe, over("run"))):
        saved = starting_config(*words)
        path.rename(tmp_path / "gone")
        assert resumed_config(*words, saved) == saved
        assert resumed_config(None, {}, saved) == saved
        (tmp_path / "gone").rename(path)
    relative = replace(saved, model=replace(saved.model, init_from="run"))
    assert resumed_config(None, {}, relative) == relative
    changed = resumed_config(recipe, over("run", model={"kwargs": {"mlp_ratio": [0.5, 4]}}), saved)
    assert changed.model.kwargs["mlp_ratio"] == [0.5, 4]  # and not what the run has, which is told then


# --- weights ---


def weights(config, facts=FACTS):
    student = build_student(config, facts.num_classes)
    return student, start(student, config, facts)


def test_all_goes_on_where_nothing_changes(source) -> None:
    path = source()
    student, lines = weights(starting_config(None, over(path)))
    assert lines == ["starts from the weights of run"]
    before = load_classifier(str(path)).model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_what_begins_anew_is_told_in_a_line_each(source) -> None:
    facts = Facts(3, ("ant", "bee", "cat"), FACTS.mean, FACTS.std, 16)
    config = starting_config(
        None, over(source(), data={"input_size": 16}, distill={"teachers": ["large@last", "large@1/2"]})
    )
    student, lines = weights(config, facts)
    assert lines == [
        "starts from the weights of run, resized from 8 to 16 pixels",
        "heads begin anew: 3 classes in the place of 10 others",
        "token modules begin anew: large@1/2",
    ]
    assert student.backbone.head.weight.shape == (3, 8)


@pytest.mark.parametrize(
    ("classes", "anew"), [(tuple("abcdefghij"), False), (None, False), (tuple("9876543210"), False)]
)
def test_as_many_classes_by_number_keep_the_heads(source, classes, anew) -> None:
    _, lines = weights(starting_config(None, over(source())), replace(FACTS, classes=classes))
    assert len(lines) == 1 + anew


def test_as_many_classes_of_other_names_do_not(source) -> None:
    path = source(facts=replace(FACTS, classes=tuple("abcdefghij")))
    config = starting_config(None, over(path))
    _, lines = weights(config, replace(FACTS, classes=tuple("abcdefghik")))
    assert lines[1] == "heads begin anew: 10 classes in the place of 10 others"


def test_weights_of_another_model_are_told_with_the_first_parameter(source, tiny_recipe) -> None:
    path = source()
    config = starting_config(tiny_recipe({"model.kwargs": {"num_blocks": 2, "embed_dim": 16}}), over(path))
    said = message_of(weights, config)
    assert said.startswith(f"model.init_from: {path}: does not fit Student: ")
    assert "of another shape (first 'backbone.stem.proj.weight': [8, 3, 2, 2] for [16, 3, 2, 2])" in said
    config = starting_config(tiny_recipe({"model.kwargs": {"num_blocks": 3, "embed_dim": 8}}), over(path))
    assert "missing (first 'backbone.blocks.2.norm1.weight')" in message_of(weights, config)


def test_a_student_that_starts_from_nothing_stays_as_it_is(tiny) -> None:
    config = tiny()
    student, lines = weights(config)
    assert lines == []
    begun = build_student(config, 10).state_dict()
    assert all(torch.equal(value, begun[name]) for name, value in student.state_dict().items())
    assert to_dict(config)["model"]["init_from"] is None


# --- how the weights see images ---

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PLANTS = ("fern", "moss")


@pytest.fixture
def lite0(tmp_path) -> Path:
    """EfficientNet-Lite0 with random weights for two classes, in timm's layout: its mean and deviation are 0.5."""
    torch.manual_seed(2)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=2)
    nn.init.normal_(model.classifier.weight, std=0.1)
    told = {"pretrained_cfg": {"label_names": PLANTS}, "num_classes": 2, "label_names": list(PLANTS)}
    save_for_hf(model, str(tmp_path / "lite0"), model_config=told, safe_serialization=True)
    return tmp_path / "lite0"


@pytest.fixture
def leaf(tmp_path) -> Path:
    file = tmp_path / "leaf.png"
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (300, 260, 3)).astype("uint8")).save(file)
    return file


def timms_own(folder: Path, file: Path) -> list[float]:
    """The probabilities that timm's pipeline gives."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        return model(transform(Image.open(file))[None]).softmax(-1)[0].tolist()


def test_weights_keep_their_normalisation_from_timms_folder_to_the_stripped_file(
    lite0, leaf, tiny_recipe, tmp_path, mixstill
) -> None:
    recipe = tiny_recipe({"model.name": "tf_efficientnet_lite0", "model.kwargs": {}, "data.dataset": "folder"})
    config = starting_config(recipe, over(lite0))
    assert (config.data.mean, config.data.std, config.data.crop_pct) == (*HALF, None)  # its 0.875 is the default
    assert resumed_config(recipe, over(lite0), from_dict(to_dict(config))) == config

    facts = Facts(2, PLANTS, *normalisation_of(config.data), 224)
    student = build_student(config, 2)
    start(student, config, facts)
    save_student(tmp_path / "run.safetensors", student, config, facts)
    for out in ("plain", "plain.safetensors"):
        strip(load_classifier(str(tmp_path / "run.safetensors")), tmp_path / out)
    expected = timms_own(lite0, leaf)
    assert timms_own(tmp_path / "plain", leaf) == pytest.approx(expected, abs=1e-5)
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["pretrained_cfg"]["mean"] == [0.5] * 3
    for source in (lite0, "run.safetensors", "plain", "plain.safetensors"):
        known = load_classifier(str(tmp_path / source))
        assert (known.facts.mean, known.facts.std, known.facts.classes, known.crop_pct) == (*HALF, PLANTS, 0.875)
        answer = json.loads(mixstill("predict", tmp_path / source, leaf, "--json").out)
        found = dict(zip(answer["classes"], answer["probabilities"], strict=True))
        assert [found[name] for name in PLANTS] == pytest.approx(expected, abs=1e-4)
    words = ["--mean", 0.485, 0.456, 0.406, "--std", 0.229, 0.224, 0.225]
    other = json.loads(mixstill("predict", lite0, leaf, "--json", *words).out)
    assert dict(zip(other["classes"], other["probabilities"], strict=True))["fern"] != pytest.approx(
        expected[0], abs=1e-4
    )
    assert "data.std" in mixstill("predict", lite0, leaf, "--std", 0, 0, 0).err


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (*HALF, None)),
        ({"mean": [0.1, 0.2, 0.3]}, ((0.1, 0.2, 0.3), HALF[1], None)),
        ({"crop_pct": 0.9}, (*HALF, 0.9)),
        ({"input_size": 64}, (*HALF, None)),
    ],
)
def test_pretrained_weights_of_timm_are_shown_images_as_they_are_used_to(tiny_recipe, fields, expected) -> None:
    recipe = tiny_recipe({"model.name": "tf_efficientnet_lite0", "model.kwargs": {}, "data.dataset": "folder"})
    config = starting_config(recipe, {"model": {"pretrained": True}, "data": fields})
    assert (config.data.mean, config.data.std, config.data.crop_pct) == expected
    assert config.data.input_size == fields.get("input_size")
    assert resumed_config(recipe, {"model": {"pretrained": True}, "data": fields}, config) == config


def test_a_run_starts_at_the_size_and_the_share_of_its_weights_unless_others_are_named(source, tiny_recipe) -> None:
    own = {"data.dataset": "folder", "data.input_size": 16, "data.crop_pct": 0.7}
    path = source(own, facts=Facts(10, None, *HALF, 16))
    recipe = tiny_recipe({"data.dataset": "folder"})
    config = starting_config(recipe, over(path))
    assert (config.data.input_size, config.data.crop_pct, config.data.mean) == (16, 0.7, HALF[0])
    config = starting_config(recipe, over(path, data={"input_size": 8, "crop_pct": 0.8, "std": [0.2, 0.2, 0.2]}))
    assert (config.data.input_size, config.data.crop_pct) == (8, 0.8)
    assert (config.data.mean, config.data.std) == (HALF[0], (0.2, 0.2, 0.2))


def test_the_metadata_of_a_stripped_file_gives_what_is_seen_and_nothing_else(lite0, tmp_path) -> None:
    state = load_classifier(str(lite0)).model.state_dict()
    cfg = {"mean": [0.1, 0.2, 0.3], "url": "pipe:x", "crop_pct": 0.5}
    for name, text in (
        ("odd", json.dumps(cfg)),
        ("broken", "{"),
        ("list", "[]"),
        ("crop", '{"crop_pct": NaN}'),
        ("few", '{"mean": [1]}'),
    ):
        file = tmp_path / f"{name}.safetensors"
        write_weights(file, state, {"arch": "tf_efficientnet_lite0", "pretrained_cfg": text})
        if name == "odd":
            known = load_classifier(str(file))
            assert (known.facts.mean, known.facts.std, known.crop_pct) == ((0.1, 0.2, 0.3), HALF[1], 0.5)
            assert known.model.pretrained_cfg.get("url") != "pipe:x"
        else:
            assert message_of(load_classifier, str(file))
