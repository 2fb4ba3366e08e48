"""`mixstill predict`: the likeliest classes of image files, by name."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from mixstill.distill.classifier import Facts, build_student, load_classifier, save_student
from mixstill.models import read_weights, write_weights

FACTS = Facts(3, ("ant", "bee", "cat"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 8)


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> list[str]:
    """Two digits as files of 8 x 8 pixels."""
    folder = tmp_path_factory.mktemp("images")
    files = []
    for index, values in enumerate(load_digits().images[:2]):
        file = folder / f"{index}.png"
        Image.fromarray((values * 255 / 16).round().astype("uint8")).save(file)
        files.append(str(file))
    return files


@pytest.fixture
def insects(tiny, tmp_path) -> str:
    """A student's file whose classes have names."""
    file, config = tmp_path / "insects.safetensors", tiny()
    student = build_student(config, 3)
    nn.init.normal_(student.backbone.head.weight)
    save_student(file, student, config, FACTS)
    return str(file)


def expected(source, index, *, ema=False) -> torch.Tensor:
    """[K] probabilities of a digit, written from the equations."""
    classifier = load_classifier(source, ema=ema)
    x = torch.from_numpy((load_digits().images[index] * 255 / 16).round() / 255).float().expand(1, 3, 8, 8)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (classifier.facts.mean, classifier.facts.std))
    with torch.no_grad():
        output = classifier.model((x - mean) / std)
    both = [output.logits, *output.heads.mean(0, keepdim=True)] if len(output.heads) else [output.logits]
    return torch.stack(both).mean(0).softmax(-1)[0]


def test_images_are_seen_at_the_resolution_that_is_asked_for(mixstill, insects, images) -> None:
    found = json.loads(mixstill("predict", insects, images[0], "--input-size", 16, "--json").out)
    assert found["image"] == images[0]
    assert sum(found["probabilities"]) == pytest.approx(1)
    chances = json.loads(mixstill("predict", insects, images[0], "--json").out)["probabilities"]
    assert found["probabilities"] != pytest.approx(chances)


def test_class_names_are_shown_with_their_probabilities(mixstill, insects, images) -> None:
    said = mixstill("predict", insects, *images)
    assert (said.code, said.err) == (0, "")
    for index, line in enumerate(said.out.splitlines()):
        chances, order = expected(insects, index).sort(descending=True)
        shown = "  ".join(f"{FACTS.classes[k]} {p:.3f}" for p, k in zip(chances, order, strict=True))
        assert line == f"{images[index]}: {shown}"
    assert index == 1


def test_a_run_predicts_by_the_average_of_its_heads(mixstill, finished, images) -> None:
    found = {}
    for flag in ([], ["--use-ema"]):
        said = mixstill("predict", finished, *images, "--top", 3, "--json", "--device", "cpu", *flag)
        assert (said.code, said.err) == (0, "")
        answers = [json.loads(line) for line in said.out.splitlines()]
        assert [answer["image"] for answer in answers] == images
        for index, answer in enumerate(answers):
            best = expected(str(finished), index, ema=bool(flag)).topk(3)
            assert answer["classes"] == [str(k) for k in best.indices.tolist()]
            assert answer["probabilities"] == pytest.approx(best.values.tolist(), abs=1e-5)
        found[bool(flag)] = answers
    assert found[True] != found[False]
    shown = mixstill("predict", finished, images[0]).out
    assert re.fullmatch(rf"{re.escape(images[0])}:( +\d 0\.\d{{3}}){{5}}\n", shown)


def test_there_are_no_more_classes_to_show_than_there_are(mixstill, insects, images) -> None:
    answer = json.loads(mixstill("predict", insects, images[0], "--top", 9, "--json").out)
    assert sorted(answer["classes"]) == ["ant", "bee", "cat"]
    assert sum(answer["probabilities"]) == pytest.approx(1)


def test_a_foreign_file_without_class_names_gives_numbers(mixstill, teachers, images) -> None:
    said = mixstill("predict", teachers["large"], images[0], "--model", "cifar_resnet8", "--top", 1, "--json")
    assert json.loads(said.out)["classes"][0] in [str(k) for k in range(10)]


def test_an_image_that_cannot_be_read_is_named(refused, insects, images, tmp_path) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(Path(images[0]).read_bytes()[:50])
    for name in ("none.png", "text.png", "cut.png"):
        said = refused("predict", insects, tmp_path / name)
        assert said.startswith(f"image '{tmp_path / name}' cannot be read: ")
    (tmp_path / "empty").mkdir()
    assert refused("predict", insects, tmp_path / "empty") == f"predict: '{tmp_path / 'empty'}' stands for no image"
    assert refused("predict", insects, f"{tmp_path}/*.jpg") == f"predict: '{tmp_path}/*.jpg' stands for no image"
    assert refused("predict", insects, images[0], "--device", "gpu").startswith("train.device: unknown device 'gpu'")


def answered(said) -> list[str]:
    return [json.loads(line)["image"] for line in said.out.splitlines()]


def test_a_folder_a_pattern_and_standard_input_stand_for_images_in_order(
    mixstill, insects, images, tmp_path, monkeypatch
) -> None:
    content = Path(images[0]).read_bytes()
    names = ("b.png", "a/2.PNG", "a/10.jpg", ".hidden/x.png", "a/.y.png", "notes.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    said = mixstill("predict", insects, tmp_path / "b.png", tmp_path, "--json")
    assert (said.code, said.err) == (0, "")
    assert answered(said) == [f"{tmp_path}/{name}" for name in ("b.png", "a/10.jpg", "a/2.PNG", "b.png")]
    assert answered(mixstill("predict", insects, f"{tmp_path}/a/*", "--json")) == [
        f"{tmp_path}/a/10.jpg",
        f"{tmp_path}/a/2.PNG",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{images[1]}\n\n{images[0]}\n"))
    assert answered(mixstill("predict", insects, "-", tmp_path / "b.png", "--json")) == [
        images[1],
        images[0],
        str(tmp_path / "b.png"),
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert mixstill("predict", insects, "-").err.endswith("'-' stands for no image on standard input\n")


def test_a_bad_image_among_others_is_told_and_they_are_answered(mixstill, insects, images, tmp_path) -> None:
    (tmp_path / "text.png").write_text("no image")
    said = mixstill("predict", insects, images[0], tmp_path / "text.png", images[1], "--json")
    assert said.code == 2
    assert answered(said) == images
    first, last = said.err.splitlines()
    assert first.startswith(f"mixstill: image '{tmp_path / 'text.png'}' cannot be read: ")
    assert last == "mixstill: predict: 1 of 3 images cannot be read"


@pytest.mark.parametrize("kind", ["truncated", "foreign", "malicious"])
def test_a_bad_file_is_one_line_and_nothing_in_it_runs(refused, bad_file, images, tmp_path, kind) -> None:
    file = bad_file(kind)
    assert refused("predict", file, images[0]).startswith(f"{file}: ")
    assert not (tmp_path / "mark").exists()


def test_an_answer_that_is_not_finite_is_none(mixstill, insects, images, monkeypatch) -> None:
    monkeypatch.setattr("mixstill.distill.student.prediction", lambda output: output.logits * float("nan"))
    said = mixstill("predict", insects, images[0], "--json")
    line = f"mixstill: {images[0]}: what insects answers is not finite\n"
    assert (said.code, said.out, said.err) == (1, "", line)


def test_weights_that_are_not_finite_are_refused(refused, insects, images) -> None:
    weights = read_weights(Path(insects))
    weights.state["backbone.head.bias"][0] = float("nan")
    write_weights(Path(insects), weights.state, weights.metadata)
    assert refused("predict", insects, images[0]).startswith(f"{insects}: its weights are not finite")
    assert refused("eval", insects, "--dataset", "digits").startswith(f"{insects}: its weights are not finite")


def test_a_closed_standard_input_is_told(refused, finished, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert refused("predict", finished, "-") == "predict: '-' takes paths on standard input, which is closed"
