"""`mixstill reproduce`: a table from data to page, nothing trained twice, and mistakes that leave nothing behind."""

import io
import json
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mixstill.lock import locked
from mixstill.reproduction import pool
from mixstill.reproduction.cifar100 import CIFAR100
from mixstill.reproduction.plan import Plan
from mixstill.schema import write_yaml

ROWS = {row.name: row for row in CIFAR100.rows}
SMALL, LARGE = "cifar100-micro-teacher", "cifar100-micro-large-teacher"
PICTURES = {"table.json", "table.md", "curves.svg", ".lock"}  # what is written anew each time


def png(pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def cifar100(pictures, tmp_path) -> Path:
    """CIFAR-100 in the hub's Parquet layout, with 32 images to train on and 8 to measure on."""
    folder = tmp_path / "cifar100"
    folder.mkdir()
    for split, part in (("train", pictures[:32]), ("test", pictures[32:])):
        images = pa.array([{"bytes": png(picture), "path": None} for picture in part])
        table = pa.table({"img": images, "fine_label": pa.array(range(len(part)), pa.int64())})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def words(cifar100, tmp_path) -> tuple[object, ...]:
    """A command that takes one step for each of two rows and their two teachers."""
    short = ("--epochs", 1, "--device", "cpu")  # the images are one batch
    rows = ("--scale", "micro", "--rows", "plain,std", "--jobs", 2)
    return ("reproduce", "cifar100", "--data-dir", cifar100, *rows, *short, "--output", tmp_path / "table")


@pytest.fixture
def replaced():
    """Puts other values of options into the words of a command."""

    def put(words, **options):
        changed = list(words)
        for name, value in options.items():
            changed[changed.index(f"--{name}") + 1] = value
        return changed

    return put


@pytest.fixture
def trainer(monkeypatch):
    """A program that takes the place of training: it leaves the summary of a run with a top-1 of that row."""

    def install(body: str = "") -> None:
        def command(run) -> list[str]:
            top1 = {"plain": 40.0, "std": 44.0}.get(run.path.name, 50.0)
            scores = {"top1": top1, "top5": 80.0, "loss": 2.0}
            summary = scores | {
                **{"complete": True, "epochs": 1, "seconds": 60.0, "machine": {}, "commit": None},
                **{"parameters": 190_000, "backbone_parameters": 160_000},
                "heads": {"test": dict.fromkeys(("average", "class", "distill"), scores)},
            }
            finish = "import os, pathlib, signal, sys, time\npath = pathlib.Path(sys.argv[1])\n" + body
            finish += "\npath.mkdir(parents=True)\ndraft = path / 'draft'\ndraft.write_text(sys.argv[2])"
            finish += "\ndraft.rename(path / 'summary.json')"
            return [sys.executable, "-I", "-S", "-c", finish, str(run.path), json.dumps(summary)]

        monkeypatch.setattr(pool, "command_of", command)
        monkeypatch.setattr(pool, "_POLL", 0.01)

    return install


def files(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name not in PICTURES}


@pytest.mark.slow
def test_the_table_comes_from_runs_that_are_trained_once(mixstill, words, tmp_path) -> None:
    said = mixstill(*words, "--json")
    assert said.code == 0, said
    assert said.err.splitlines()[0] == "0 of 4 runs finished before; 2 at once"
    assert [line.split()[0] for line in said.err.splitlines()[1:]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]

    output = tmp_path / "table"
    table = json.loads(said.out)
    assert table == json.loads((output / "table.json").read_text())
    assert (table["scale"], table["jobs"], table["failed"]) == ("micro", 2, {})
    given = "--data.data_dir DIR --train.epochs 1 --train.device cpu --output DIR"
    told = f"mixstill reproduce cifar100 --scale micro {given}"
    assert table["command"] == f"{told} --rows plain,std --seeds 1"
    assert table["settings"]["all"] == {"train.epochs": "1", "train.device": "cpu"}
    assert str(tmp_path) not in said.out  # nothing names a path of this machine
    assert table["rows"][1]["command"] == f"{told} --rows std --seeds 1"
    assert [entry["name"] for entry in table["teachers"]] == [SMALL, LARGE]
    assert [entry["name"] for entry in table["rows"]] == ["plain", "std", "class-head", "distill-head"]
    places = ["seed0/plain", "seed0/std", f"teachers/{SMALL}", f"teachers/{LARGE}"]
    found = [json.loads((output / place / "summary.json").read_text()) for place in places]
    assert [summary["complete"] for summary in found] == [True] * 4
    assert [entry["top1"]["values"] for entry in table["rows"][:2]] == [[summary["top1"]] for summary in found[:2]]
    assert [entry["parameters"] for entry in table["rows"][:3]] == [159_908, found[1]["parameters"], 159_908]
    assert found[1]["answers"] == {"replayed": 0, "asked": 2}
    assert list(found[1]["teachers"]) == [f"{SMALL}@2/3", f"{LARGE}@last"]
    page = (output / "table.md").read_text()
    assert f"| std | {ROWS['std'].what} | {found[1]['top1']:.2f} | " in page
    assert all(f"- {line}" in page for line in table["summary"])
    assert "<!-- std -->" in (output / "curves.svg").read_text()

    before, curves = files(output), (output / "curves.svg").read_bytes()
    again = mixstill(*words, "--json")
    assert again.err == "4 of 4 runs finished before; 2 at once\n"
    assert json.loads(again.out) == table
    assert files(output) == before
    assert (output / "curves.svg").read_bytes() == curves


def test_rows_and_their_gain_are_printed_with_what_they_say(mixstill, words, trainer, tmp_path) -> None:
    trainer()
    said = mixstill(*words, "--seeds", 2)
    assert said.code == 0, said
    lines = [line.replace("│", " ").split() for line in said.out.splitlines()]
    assert ["plain", *("40.00", "±", "0.00"), *("80.00", "±", "0.00"), "-", "2"] in lines
    assert ["std", *("44.00", "±", "0.00"), *("80.00", "±", "0.00"), *("+4.00", "±", "0.00"), "2"] in lines
    what = next(part.what for part in CIFAR100.parts if (part.with_it, part.without) == ("std", "plain"))
    assert (
        f"{what} (std - plain): +4.00 ± 0.00 points over 2 seeds, more in each; 95 % interval +4.00 to +4.00: a gain\n"
        in said.out
    )
    assert said.out.endswith(f"The table, its page and its curves are in {tmp_path / 'table'}\n")


def test_the_table_keeps_rows_and_seeds_that_this_command_does_not_ask_for(mixstill, words, trainer, replaced) -> None:
    trainer()
    mixstill(*words, "--seeds", 2)
    table = json.loads(mixstill(*replaced(words, rows="plain"), "--json").out)
    assert [entry["seeds"] for entry in table["rows"]] == [[0, 1]] * 4


def test_a_run_that_fails_is_told_and_the_table_is_written_without_it(mixstill, words, trainer, tmp_path) -> None:
    trainer("if path.name.endswith('-large-teacher'): sys.exit('mixstill: broken')")
    said = mixstill(*words, "--json")
    assert said.code == 1
    last = f"mixstill: 2 runs failed: teacher {LARGE}, std, seed 0; the table lacks them"
    assert said.err.splitlines()[-1] == last
    table = json.loads(said.out)
    assert table["failed"] == {
        f"teacher {LARGE}": "mixstill: broken",
        "std, seed 0": "a run that it needs failed",
    }
    assert [entry["name"] for entry in table["rows"]] == ["plain"]
    assert json.loads((tmp_path / "table" / "table.json").read_text()) == table


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_says_how_to_go_on(mixstill, words, trainer, tmp_path, number, code, replaced) -> None:
    trainer(f"if path.name == 'std': os.kill(os.getppid(), {int(number)}); time.sleep(15)")
    said = mixstill(*replaced(words, jobs=1))
    assert (said.code, said.out) == (code, "")
    told = "mixstill: the runs stopped with their checkpoints; give the same command again to go on"
    assert said.err.splitlines()[-1] == told
    table = json.loads((tmp_path / "table" / "table.json").read_text())  # it is written after each run
    assert [entry["name"] for entry in table["rows"]] == ["plain"]
    trainer()
    assert mixstill(*words).code == 0


# --- what is amiss ---


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "reproduce: takes one experiment (cifar100), got none"),
        (["cifar100", "cifar10"], "reproduce: takes one experiment (cifar100), got cifar100 cifar10"),
        (["cifar10"], "experiment: unknown value 'cifar10'; did you mean 'cifar100'?"),
        (["cifar100", "--scale", "micr"], "--scale: unknown value 'micr'; did you mean 'micro'?"),
        (["cifar100", "--scale", "huge"], "--scale: unknown value 'huge'; choose from full, micro"),
        (["cifar100", "--rows", "plain,stdd"], "--rows: unknown value 'stdd'; did you mean 'std'?"),
        (["cifar100", "--seeds", "0"], "--seeds: '0' is not valid; it must be a whole number, 1 or more"),
        (["cifar100", "--jobs", "0"], "--jobs: '0' is not valid; it must be a whole number, 1 or more"),
        (["cifar100", "--row", "std"], "option: unknown value '--row'; did you mean '--rows'?"),
        (["cifar100", "--seed", "3"], "train.seed: cannot be given to reproduce; its rows settle it"),
        (["cifar100", "--max-steps", "9"], "train.max_steps: cannot be given to reproduce; its rows settle it"),
        (["cifar100", "--teachers", "none"], "distill.teachers: cannot be given to reproduce; "),
        (["cifar100", "--model", "resnet18"], "model.name: cannot be given to reproduce; "),
        (["cifar100", "--init-from", "run"], "model.init_from: cannot be given to reproduce; "),
        (["cifar100", "--dataset", "cifar10"], "data.dataset: cannot be given to reproduce; "),
        (["cifar100", "--val-fraction", "0.1"], "data.val_fraction: cannot be given to reproduce; "),
        (["cifar100", "--distill.weights", "uniform"], "distill.weights: cannot be given to reproduce; "),
        (["cifar100", "--distill.tokens", "spatial"], "distill.tokens: cannot be given to reproduce; "),
        (["cifar100", "--mi.weight", "0"], "mi.weight: cannot be given to reproduce; its rows settle it"),
        (["cifar100", "--rows", ","], "--rows: names no row; leave it out for all of them"),
        (["cifar100", "--rows", ""], "--rows: '' is not valid; give a value, or leave the option out"),
        (
            ["cifar100", "--data-dir", "~nobody-here/x"],
            "data.data_dir: '~nobody-here/x' begins with a user who has no home",
        ),
        (["cifar100", "--lr", "0"], "optim.lr: 0.0 is not valid; it must be positive"),
        (["cifar100", "--opt", "adamx"], "optim.opt: unknown value 'adamx'; did you mean 'adamax'?"),
        (
            ["cifar100", "--rows", "plain"],
            "data.data_dir: None is not valid; cifar100 lies in a folder: --data-dir DIR",
        ),
        (["cifar100", "--rows", "plain", "--data-dir", "there"], "data.data_dir: 'there' is not a folder"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(refused, tmp_path, monkeypatch, wrong, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("reproduce", *wrong).startswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_leaves_nothing(refused, words, tmp_path, device, replaced) -> None:
    assert refused(*replaced(words, device=device)).startswith("train.device: ")
    assert not (tmp_path / "table").exists()


def test_a_file_in_the_place_of_the_output_is_a_mistake(refused, words, tmp_path) -> None:
    (tmp_path / "table").touch()
    assert refused(*words) == f"output: '{tmp_path / 'table'}' is not a directory"


def test_an_output_that_another_command_works_in_is_refused(mixstill, words, trainer, tmp_path) -> None:
    trainer()
    (tmp_path / "table").mkdir()
    with locked(tmp_path / "table"):
        said = mixstill(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"mixstill: output: '{tmp_path / 'table'}' is being worked in by process ")
    assert mixstill(*words).code == 0


@pytest.mark.parametrize("rows", ["plain,std", "plain"])
def test_an_output_of_other_overrides_is_refused_and_stays_as_it_is(refused, words, tmp_path, rows, replaced) -> None:
    output = tmp_path / "table"
    run = Plan(CIFAR100, "micro", output, {"train": {"epochs": 1}}).run_of(ROWS["std"], 0)
    run.path.mkdir(parents=True)
    write_yaml(run.config, run.path / "config.yaml")
    before = files(tmp_path)
    said = refused(*replaced(words, rows=rows), "--distill.alpha", "0.25")
    assert said.startswith("output: std, seed 0 was run otherwise: ")
    assert said.endswith("distill.alpha: 0.5 -> 0.25; choose another --output")
    assert files(tmp_path) == before
