"""`mixstill eval`: exact scores of runs and of foreign files, and one line for each thing that may be amiss."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from mixstill.data import load_split
from mixstill.distill.classifier import Facts, build_student, load_classifier, save_student
from mixstill.distill.student import Student
from mixstill.models import CifarResNet, write_weights
from mixstill.schema import from_dict
from mixstill.train.run import train
from mixstill.views import normalise, resize, to_float

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def random_resnet(shortcut, pictures, mean, std):
    """A ResNet-20 in eval mode that does not give one class to all pictures."""
    torch.manual_seed(2)
    model = CifarResNet(20, num_classes=10, shortcut=shortcut)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    nn.init.normal_(model.fc.weight)
    logits = logits_of(model.eval(), pictures, mean, std)
    spread = (logits - logits.mean(0)).std()
    model.fc.bias.data = (model.fc.bias.data - logits.mean(0)) / spread
    model.fc.weight.data /= spread
    return model.float()


def logits_of(model, pictures, mean, std):
    """float64 [N,K], each image by its own equation: (x / 255 - mean) / std."""
    x = torch.from_numpy(pictures).double().permute(0, 3, 1, 2) / 255
    shape = (1, 3, 1, 1)
    with torch.no_grad():
        return model.double()((x - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape))


def labels_of(logits):
    """The best class of all but 10 images, the third best of the next 4, the worst of the last 6."""
    order = logits.argsort(1, descending=True)
    best = len(order) - 10
    return torch.cat([order[:best, 0], order[best : best + 4, 2], order[best + 4 :, -1]])


@pytest.mark.parametrize(
    ("layout", "own", "other"), [("akamaster", IMAGENET, CIFAR10), ("chenyaofo", CIFAR10, IMAGENET)]
)
def test_a_public_file_scores_exactly_on_the_hubs_cifar10(
    mixstill, write_cifar10, pictures, tmp_path, layout, own, other
) -> None:
    if layout == "akamaster":
        model, file = random_resnet("A", pictures, *own), tmp_path / "resnet20-12fca82f.th"
        words = ["--model", "cifar_resnet20"]
        state = {f"module.{key.replace('fc.', 'linear.')}": value for key, value in model.state_dict().items()}
        torch.save({"state_dict": state, "best_prec1": 92.6}, file)
    else:
        model, file = random_resnet("B", pictures, *own), tmp_path / "cifar10_resnet20-4118986f.pt"
        words = []
        torch.save(model.state_dict(), file)
    logits = logits_of(model, pictures, *own)
    labels = labels_of(logits)
    assert len(labels[:30].unique()) > 2
    assert logits_of(model, pictures, *other).argmax(1).eq(labels).sum() < 29  # the wrong normalisation shows
    where = ("--dataset", "cifar10", "--data-dir", write_cifar10(labels.tolist()))
    said = mixstill("eval", file, *words, *where, "--json", "--device", "cpu", "--eval-batch-size", 7)
    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out) == {
        "top1": 75.0,
        "top5": 85.0,
        "loss": pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5),
        "n": 40,
        "head": "class",
        "model": file.stem,
        "split": "test",
        "dataset": "cifar10",
    }
    said = mixstill("eval", file, *words, *where)
    assert re.fullmatch(r"\* Acc@1 75\.000 Acc@5 85\.000 loss \d+\.\d{3}\n", said.out)


def test_a_run_is_evaluated_on_its_own_data_to_the_scores_of_its_summary(mixstill, finished) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    for words, head, found in (
        ([], "average", summary["heads"]["test"]),
        (["--head", "class"], "class", summary["heads"]["test"]),
        (["--head", "distill", "--split", "val"], "distill", summary["heads"]["val"]),
        (["--use-ema"], "average", summary["ema"]["test"]),
        (["--use-ema", "--split", "val"], "average", summary["ema"]["val"]),
    ):
        said = mixstill("eval", finished, "--json", "--device", "cpu", *words)
        assert said.code == 0, said
        score = json.loads(said.out)
        assert {key: score[key] for key in ("top1", "top5", "n")} == {
            key: found[head][key] for key in ("top1", "top5", "n")
        }
        assert score["loss"] == pytest.approx(found[head]["loss"], rel=1e-6)
        assert (score["head"], score["model"], score["dataset"]) == (head, "finished", "digits")
    assert summary["heads"]["test"]["average"] != summary["ema"]["test"]["average"]


def test_the_plain_output_is_one_line_as_published_tables_have_it(mixstill, finished) -> None:
    said = mixstill("eval", finished)
    assert re.fullmatch(r"\* Acc@1 \d+\.\d{3} Acc@5 \d+\.\d{3} loss \d+\.\d{3}\n", said.out)


def test_classes_in_another_order_are_matched_by_name(mixstill, tiny, tmp_path) -> None:
    draw = np.random.default_rng(0)
    folder, names = tmp_path / "photos", ("ant", "bee", "cow")
    for part in ("train", "test"):
        for name in names:
            (folder / part / name).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / part / name / f"{number}.png")
    options = {
        "data.dataset": "folder",
        "data.data_dir": str(folder),
        "data.workers": 0,
        "data.samples_per_class": None,
    }
    config = tiny(options)
    student = build_student(config, 3)
    nn.init.normal_(student.backbone.head.weight, std=3.0)
    found = {}
    for order in ((0, 1, 2), (2, 0, 1)):
        facts = Facts(3, tuple(names[k] for k in order), (0.5,) * 3, (0.5,) * 3, 8)
        moved = build_student(config, 3)
        moved.load_state_dict(student.state_dict())
        for parameter in (moved.backbone.head.weight, moved.backbone.head.bias):
            parameter.data = parameter.data[list(order)]
        save_student(tmp_path / f"{order[0]}.safetensors", moved, config, facts)
        said = mixstill("eval", tmp_path / f"{order[0]}.safetensors", "--json", "--device", "cpu")
        assert said.code == 0, said
        found[order] = {key: json.loads(said.out)[key] for key in ("top1", "loss", "n")}
    assert found[0, 1, 2] == pytest.approx(found[2, 0, 1], rel=1e-5)


def test_heads_are_averaged_in_the_space_that_is_asked_for(mixstill, finished) -> None:
    classifier = load_classifier(str(finished))
    facts = classifier.facts
    data = load_split(classifier.config.data, "test", "cpu", 8)
    with torch.no_grad():
        output = classifier.model(normalise(to_float(data.pixels[data.ids]), facts.mean, facts.std))
    both = torch.stack([output.logits, output.heads[0]]).double()
    expected = {"logit": both.mean(0).softmax(-1), "probability": both.softmax(-1).mean(0)}
    found = {}
    for space, chances in expected.items():
        found[space] = json.loads(mixstill("eval", finished, "--space", space, "--json", "--device", "cpu").out)["loss"]
        loss = F.nll_loss(chances.log(), data.labels[data.ids]).item()
        assert found[space] == pytest.approx(loss, rel=1e-5)
    assert found["logit"] != pytest.approx(found["probability"], rel=1e-5)


def test_training_samples_and_other_fields_of_the_data_may_be_asked_for(mixstill, finished) -> None:
    score = json.loads(mixstill("eval", finished, "--split", "train", "--json").out)
    assert (score["n"], score["split"]) == (40, "train")
    score = json.loads(mixstill("eval", finished, "--split", "train", "--data.samples_per_class", 2, "--json").out)
    assert score["n"] == 20
    assert mixstill("eval", finished, "--amp", "--eval-batch-size", 100).code == 0


def test_a_run_is_evaluated_at_another_resolution(mixstill, finished) -> None:
    """The score of the student that the weights are resized to."""
    for size in (8, 12, 16):
        classifier = load_classifier(str(finished), input_size=size)
        facts = classifier.facts
        assert facts.input_size == size
        data = load_split(classifier.config.data, "test", "cpu", size)
        with torch.no_grad():
            seen = normalise(resize(to_float(data.pixels[data.ids]), size), facts.mean, facts.std)
            logits = classifier.model(seen).predict()
        score = json.loads(mixstill("eval", finished, "--input-size", size, "--json", "--device", "cpu").out)
        assert score["loss"] == pytest.approx(F.cross_entropy(logits, data.labels[data.ids]).item(), rel=1e-5)
        assert score["n"] == len(data.ids)


def test_a_trained_student_is_far_better_than_chance_at_twice_the_size(mixstill, tiny, tmp_path) -> None:
    """A gMLP's gates are interpolated; the digits have ten classes."""
    options = {"model.name": "gmlp_micro_32", "model.kwargs": {"num_blocks": 2, "embed_dim": 24, "patch_size": 2}}
    options |= {"data.input_size": 8, "data.samples_per_class": None, "views.hflip": 0.0, "train.batch_size": 60}
    train(tiny(options | {"train.epochs": 4, "train.log_interval": 20}), tmp_path / "run", quiet=True)
    found = {}
    for size in (8, 12, 16):
        score = mixstill("eval", tmp_path / "run", "--input-size", size, "--json", "--device", "cpu")
        found[size] = json.loads(score.out)["top1"]
    assert found[8] > 60
    assert found[12] > 40
    assert found[16] > 30


def test_a_plain_model_is_evaluated_at_another_resolution(mixstill, teachers) -> None:
    words = ("eval", teachers["large"], "--dataset", "digits", "--device", "cpu", "--json")
    own, other = (json.loads(mixstill(*words, *more).out) for more in ([], ["--input-size", 16]))
    model = load_classifier(teachers["large"]).model
    data = load_split(from_dict({}).data, "test", "cpu", 16)
    facts = load_classifier(teachers["large"]).facts
    with torch.no_grad():
        logits = model(normalise(resize(to_float(data.pixels[data.ids]), 16), facts.mean, facts.std))
    assert other["loss"] == pytest.approx(F.cross_entropy(logits, data.labels[data.ids]).item(), rel=1e-5)
    assert own["loss"] != other["loss"]


def test_a_size_that_the_student_cannot_have_is_one_line(refused, finished) -> None:
    said = refused("eval", finished, "--input-size", 9)
    assert said == "data.input_size: 9 pixels are not divisible by the patch of 2 of 'mixer_digits'; try 8 or 10"
    assert refused("eval", finished, "--input-size", 0) == "data.input_size: 0 is not valid; it must be positive"
    assert "data.input_size: 'big' is not valid" in refused("eval", finished, "--input-size", "big")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "tset"], "split: unknown value 'tset'; did you mean 'test'?"),
        (["--head", "clas"], "head: unknown value 'clas'; did you mean 'class'?"),
        (["--space", "probabilty"], "space: unknown value 'probabilty'; did you mean 'probability'?"),
        (["--dataset", "cifar1"], "data.dataset: unknown value 'cifar1'; did you mean 'cifar10'?"),
        (["--spilt", "test"], "option: unknown value '--spilt'; did you mean '--split'?"),
        (["--device", "gpu"], "train.device: unknown device 'gpu'; choose auto, cpu, cuda or cuda:N"),
        (["--eval-batch-size", "0"], "train.eval_batch_size: 0 is not valid; it must be positive"),
        (["--dataset", "cifar10"], "data.data_dir: None is not valid; cifar10 lies in a folder: --data-dir DIR"),
    ],
)
def test_a_mistaken_option_is_one_line(refused, finished, words, message) -> None:
    assert refused("eval", finished, *words) == message


def test_the_source_is_one_word(refused, tmp_path, finished) -> None:
    assert refused("eval") == "eval: takes one SOURCE, got none"
    assert refused("eval", "a", "b") == "eval: takes one SOURCE, got a b"
    assert (
        refused("eval", "resnet18x")
        == "source: 'resnet18x' is no run directory, weights file, timm name or hub id; did you mean 'resnet18'?"
    )
    assert "cannot be read: No such file" in refused("eval", tmp_path / "none.pt")
    assert "is not a run directory: it holds no config.yaml" in refused("eval", tmp_path)


def test_a_split_or_an_average_that_the_run_does_not_have_is_told(refused, tiny, teachers, tmp_path) -> None:
    student, path = teachers["small"], tmp_path / "run"
    path.mkdir()
    (path / "config.yaml").touch()
    assert refused("eval", student, "--split", "val").startswith("data.val_fraction: 0.0 leaves no validation split")
    assert refused("eval", student, "--head", "average") == "head: unknown value 'average'; choose from class"
    assert f"is not finished; mixstill train --resume --output {path} goes on" in refused("eval", path)
    assert "keeps no moving average (train.ema_decay)" in refused("eval", path, "--use-ema")


def test_a_data_set_with_another_number_of_classes_is_told_with_both(refused, finished, tmp_path) -> None:
    for split in ("train", "test"):
        for name in ("ant", "bee", "cat"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / "set" / split / name / "a.png")
    said = refused("eval", finished, "--dataset", "folder", "--data-dir", tmp_path / "set")
    assert said.startswith("eval: finished has 10 classes, but folder has 3; name the data of its classes by --dataset")


def test_a_file_without_a_config_needs_the_name_of_the_data(refused, teachers) -> None:
    assert refused("eval", teachers["large"]) == "eval: 'large' does not tell its data set; name it with --dataset"


def test_a_missing_and_an_empty_folder_are_named(refused, teachers, tmp_path) -> None:
    words = ("eval", teachers["large"], "--dataset", "cifar10", "--data-dir")
    assert refused(*words, tmp_path / "none") == f"data.data_dir: '{tmp_path / 'none'}' is not a folder"
    (tmp_path / "empty").mkdir()
    assert refused(*words, tmp_path / "empty") == f"data.data_dir: '{tmp_path / 'empty'}' is empty"


def test_a_corrupt_image_is_named_and_left_out_only_when_asked_for(mixstill, refused, tiny, tmp_path) -> None:
    facts = Facts(2, ("ant", "bee"), *IMAGENET, 8)
    config = tiny()
    save_student(tmp_path / "two.safetensors", build_student(config, 2), config, facts)
    for name in facts.classes:
        for split in ("train", "val"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / split / name / "good.png")
    bad = tmp_path / "set" / "val" / "bee" / "bad.png"
    bad.write_bytes((bad.parent / "good.png").read_bytes()[:60])
    words = ("eval", tmp_path / "two.safetensors", "--dataset", "folder", "--data-dir", tmp_path / "set")
    said = mixstill(*words, "--workers", "0")
    assert said.code == 1
    assert said.err.startswith(f"mixstill: data: 1 corrupt image, more than data.max_corrupt 0; the first: {bad}: ")
    said = mixstill(*words, "--data.max_corrupt", "1", "--json")
    assert (said.code, json.loads(said.out)["n"]) == (0, 2)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "damaged, or not a safetensors file: "),
        ("truncated.pt", "damaged, or not a PyTorch file: "),
        ("foreign", "damaged, or not a safetensors file: "),
        ("empty", "the file is empty"),
        ("malicious", "refused: it holds more than tensors; save its state dict alone"),
    ],
)
def test_a_bad_file_is_one_line_and_nothing_in_it_runs(refused, bad_file, tmp_path, kind, reason) -> None:
    file = bad_file(kind)
    assert refused("eval", file, "--dataset", "digits").startswith(f"{file}: {reason}")
    assert not (tmp_path / "mark").exists()


def test_options_that_would_be_ignored_are_refused(refused, finished, teachers) -> None:
    said = refused("eval", finished, "--model", "resnet18")
    assert said == f"--model: 'resnet18' is not taken: {finished} holds a mixer_digits; leave it out"
    said = refused("eval", teachers["small"], "--use-ema")
    assert said.startswith(f"--use-ema: {teachers['small']!r} is no run directory")
    assert refused("eval", finished, "--data-dir", "x") == "data.data_dir: 'x' has no effect with the data set digits"
    assert refused("eval", finished, "--json", "--json") == "--json: it is given a second time; give it once"
    said = refused("train", "digits", "--data-dir", "x")
    assert said == "data.data_dir: 'x' has no effect with the data set digits"


def test_a_file_of_another_model_than_the_one_named_is_told(refused, teachers, tmp_path) -> None:
    words = ("--dataset", "digits", "--model")
    said = refused("eval", teachers["large"], *words, "cifar_resnet20")
    assert said == f"{teachers['large']}: holds a cifar_resnet8, not the cifar_resnet20 that was named"
    said = refused("eval", teachers["large"], *words, "cifar_resnet200")
    assert said == "model: unknown value 'cifar_resnet200'; did you mean 'cifar_resnet20'?"
    said = refused("eval", teachers["small"], *words, "mixer_digits")
    assert said == f"--model: 'mixer_digits' is not taken: {teachers['small']} holds a cifar_resnet8; leave it out"
    write_weights(tmp_path / "other.safetensors", {"head.weight": torch.zeros(10, 8)})
    assert "its architecture cannot be told from its keys" in refused("eval", tmp_path / "other.safetensors")


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_loss_that_is_not_finite_is_no_score(mixstill, finished, monkeypatch, words) -> None:
    forward = Student.forward

    def broken(self, images):
        found = forward(self, images)
        return replace(found, logits=found.logits * float("inf"))

    monkeypatch.setattr(Student, "forward", broken)
    said = mixstill("eval", finished, *words)
    assert (said.code, said.out) == (1, "")
    assert said.err == "mixstill: evaluation: the loss of the average head is nan\n"


def test_what_has_no_effect_on_a_split_is_refused(refused, finished) -> None:
    said = refused("eval", finished, "--split", "test", "--val-fraction", "0.3")
    assert said == "data.val_fraction: 0.3 has no effect on the split test"
    said = refused("eval", finished, "--split", "val", "--data.samples_per_class", "3")
    assert said == "data.samples_per_class: 3 has no effect on the split val"
    assert refused("eval", finished, "--workers", "3") == "data.workers: 3 has no effect with the data set digits"
