import json
import shutil

import pytest
import timm
import torch

from mixstill import cli
from mixstill.distill.classifier import load_classifier
from mixstill.models import read_weights


@pytest.mark.parametrize("ema", [False, True])
def test_a_run_becomes_a_checkpoint_of_timm(finished, tmp_path, capsys, ema):
    out = tmp_path / "plain"
    assert cli.main(["strip", str(finished), str(out), "--json", *["--use-ema"] * ema]) == 0
    told = json.loads(capsys.readouterr().out)
    student, images = load_classifier(str(finished), ema=ema).model, torch.randn(3, 3, 8, 8)
    plain = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert torch.equal(plain(images), student(images).logits)
    assert told["params"] == sum(parameter.numel() for parameter in plain.parameters()) < told["student_params"]
    assert (told["path"], told["architecture"], told["stock"]) == (str(out), "mixer_digits", False)


def test_the_result_is_told_with_the_line_that_loads_it(finished, tmp_path, capsys):
    out = tmp_path / "plain.safetensors"
    assert cli.main(["strip", str(finished), str(out)]) == 0
    first, load = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{out}: mixer_digits, ")
    namespace: dict = {"timm": timm}
    exec(load.replace("timm.create_model", "model = timm.create_model"), namespace)
    assert set(namespace["model"].state_dict()) == set(read_weights(out).state)


def test_weights_that_timms_script_trained_are_stripped_by_name(tmp_path, capsys):
    torch.manual_seed(0)
    model = timm.create_model("std_mixer_digits", num_classes=4).eval()
    torch.save({"state_dict": model.state_dict(), "arch": "std_mixer_digits"}, tmp_path / "last.pth.tar")
    shutil.move(tmp_path / "last.pth.tar", tmp_path / "last.pth")
    out = tmp_path / "plain"
    assert cli.main(["strip", str(tmp_path / "last.pth"), str(out), "--model", "std_mixer_digits"]) == 0
    plain, images = timm.create_model(f"local-dir:{out}", pretrained=True).eval(), torch.randn(3, 3, 8, 8)
    assert torch.equal(plain(images), model.backbone(images))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "strip: takes RUN and OUT, got none"),
        (["one"], "strip: takes RUN and OUT, got one"),
        (["a", "b", "--lr", "1"], "strip: takes RUN and OUT"),
        (["nothing-here", "out"], "'nothing-here' is no run directory"),
    ],
)
def test_mistakes_are_told_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["strip", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_is_there(capsys):
    assert cli.main(["strip", "--help"]) == 0
    assert "usage: mixstill strip RUN OUT" in capsys.readouterr().out
