"""`mixstill demo`: teacher, plain student and STD student over seeds, and nothing trained twice."""

import json
import statistics

import pytest

from mixstill.train.run import saved_config


def test_the_demo_compares_over_seeds_and_trains_nothing_twice(mixstill, shelf, tmp_path) -> None:
    words = ("demo", "--seeds", 2, "--output", tmp_path / "demo", "--device", "cpu")
    said = mixstill(*words)
    assert said.code == 0, said
    result = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert (result["recipe"], result["seeds"]) == ("digits", [0, 1])
    where = {
        "teacher digits-teacher": "std/teachers/digits-teacher",
        "plain student": "plain",
        "STD student": "std",
    }
    assert list(result["top1"]) == list(where)
    for name, folder in where.items():
        runs = [tmp_path / "demo" / f"seed{seed}" / folder for seed in (0, 1)]
        summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
        assert all(summary["complete"] for summary in summaries)
        assert [saved_config(run).train.seed for run in runs] == [0, 1]
        values = [summary["top1"] for summary in summaries]
        about = {"mean": statistics.fmean(values), "std": statistics.stdev(values), "values": values}
        assert result["top1"][name] == about
        row = next(line for line in said.out.splitlines() if name in line)
        assert f" {about['mean']:.2f} ± {about['std']:.2f} " in row
        assert [word for word in row.split() if word[0].isdigit()] == [
            f"{value:.2f}" for value in (about["mean"], about["std"], *values)
        ]
    gains = [
        std - plain
        for std, plain in zip(
            *(result["top1"][name]["values"] for name in ("STD student", "plain student")), strict=True
        )
    ]
    assert result["gain"]["values"] == pytest.approx(gains)
    gain = f"STD student minus plain student: {statistics.fmean(gains):+.2f} ± {statistics.stdev(gains):.2f} points"
    assert gain in said.out
    assert f"The runs are in {tmp_path / 'demo'}" in said.out

    runs = {name: saved_config(tmp_path / "demo" / "seed0" / name) for name in ("std", "plain")}
    assert runs["plain"].distill.teachers == ()
    assert len(runs["std"].distill.teachers) == 1
    assert runs["plain"].data == runs["std"].data
    assert runs["plain"].train == runs["std"].train

    files = [file for file in (tmp_path / "demo").rglob("*") if file.is_file() and file.name != "demo.json"]
    before = {file: file.stat().st_mtime_ns for file in files}
    again = mixstill(*words, "--json")
    assert json.loads(again.out) == result
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_one_seed_has_no_spread(mixstill, shelf, tmp_path) -> None:
    words = ("demo", "digits", "--seeds", 1, "--output", tmp_path / "demo", "--max-steps", 1)
    result = json.loads(mixstill(*words, "--json").out)
    assert [row["std"] for row in result["top1"].values()] == [None, None, None]
    assert result["gain"]["std"] is None
    assert result["machine"]["device"]
    shown = mixstill(*words).out
    assert f"STD student minus plain student: {result['gain']['mean']:+.2f} points" in shown
    assert shown.count("±") == 1  # in the heading


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "mixer_digit"], "model: unknown value 'mixer_digit'; did you mean 'mixer_digits'?"),
        (["--teachers", "digits-teacher@9"], "distill.teachers: digits-teacher@9: the place is out of range; "),
        (["--teachers", "nowhere.pt@last"], "distill.teachers: nowhere.pt: cannot be read: No such file"),
        (["--device", "gpu"], "train.device: unknown device 'gpu'; "),
        (["--lr", "0"], "optim.lr: 0.0 is not valid; it must be positive"),
    ],
)
def test_a_demo_that_cannot_be_leaves_nothing(refused, tmp_path, words, message) -> None:
    assert refused("demo", "--output", tmp_path / "demo", *words).startswith(message)
    assert not (tmp_path / "demo").exists()
