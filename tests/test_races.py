"""The harness of benchmarks/races at its smallest size. Other people's programs race only where a checkout is named.

MIXSTILL_STD, MIXSTILL_TIMM and MIXSTILL_DEIT name them; std needs einops besides.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "races"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it stops processes and looks at them in /proc")


@pytest.fixture(scope="module")
def races() -> Iterator[SimpleNamespace]:
    """The modules of the harness, which are found as beside the script."""
    sys.path.insert(0, str(FOLDER))
    import contest
    import duels
    import material
    import race
    import task
    import verdict

    yield SimpleNamespace(contest=contest, duels=duels, material=material, race=race, task=task, verdict=verdict)
    sys.path.remove(str(FOLDER))


@pytest.fixture
def toy(races: SimpleNamespace, tmp_path: Path) -> Callable[..., Any]:
    """A task of ours, in a folder with what it starts from."""

    def make(**options: Any) -> Any:
        usual = {"program": "ours", "race": "student", "duel": "timm", "variant": "plain", "precision": "eager"}
        usual |= {"device": "cpu", "bf16": False, "batch_size": 4, "workers": 0, "toy": True, "folder": str(tmp_path)}
        return races.task.Task(**(usual | options))

    return make


def turn(seconds: float, losses: list[float] | None = None) -> dict[str, Any]:
    return {"seconds": seconds, "steps": 2, "losses": losses or []}


def test_figures_come_from_the_rounds(races):
    found = {
        "a": {"about": {"parameters": 3}, "turns": [turn(2.0), turn(4.0), turn(3.0)]},
        "b": {"about": {}, "turns": [turn(8.0), turn(4.0), turn(6.0)]},
    }
    entries = {name: races.verdict.contender(entry, images=30) for name, entry in found.items()}
    assert entries["a"]["parameters"] == 3
    assert entries["a"]["seconds_per_step"] == {"median": 1.5, "min": 1.0, "max": 2.0, "values": [1.0, 2.0, 1.5]}
    assert entries["a"]["images_per_second"] == 20.0
    assert races.verdict.ratios(entries) == {"b": {"median": 2.0, "min": 1.0, "max": 4.0, "values": [4.0, 1.0, 2.0]}}


@pytest.mark.parametrize(
    ("race", "precision", "apart", "agree"),
    [
        ("student", "same", 1e-4, True),
        ("student", "same", 1e-3, False),
        ("student", "best", 5e-3, True),
        ("full", "same", 0.14, True),  # of one round in three: a twentieth of the mean
        ("full", "same", -0.2, False),
    ],
)
def test_losses_agree_within_the_tolerance_of_the_race(races, race, precision, apart, agree):
    entries = {"a": {"losses": [4.0, 4.0, 4.0]}, "b": {"losses": [4.0, 4.0 * (1 + apart), 4.0]}}
    found = races.verdict.losses_agree(race, precision, entries)
    assert found["agree"] is agree
    assert found["largest_difference"] == pytest.approx(abs(apart) / (3 if race == "full" else 1))


def test_races_without_losses_compare_none(races):
    assert races.verdict.losses_agree("views", "same", {"a": {"losses": []}, "b": {"losses": []}}) is None
    assert races.verdict.losses_agree("overhead", "same", {"a": {"losses": [1.0]}, "b": {"losses": [9.0]}}) is None


def test_both_layouts_hold_the_same_images(races, toy):
    from torchvision.datasets import CIFAR100

    from mixstill.config import DataConfig
    from mixstill.data.cifar import load_cifar

    task = toy()
    races.material.prepare(task, 12, None, [])
    source = load_cifar(DataConfig(dataset="cifar100"), Path(task.path("parquet")), "train")

    class Unchecked(CIFAR100):
        train_list, test_list = (("train", None),), (("test", None),)
        meta = CIFAR100.meta | {"md5": None}

    pickles = Unchecked(task.path("pickles"))
    assert source.pixels.permute(0, 2, 3, 1).numpy().tolist() == pickles.data.tolist()
    assert source.labels.tolist() == pickles.targets


def test_a_contender_that_fails_is_told_with_its_last_words(races, toy):
    worker = races.contest.Worker("nobody", toy(program="nobody"))
    try:
        with pytest.raises(races.contest.RaceError, match=r"(?s)nobody ended without a report.*No such file"):
            worker.ready()
    finally:
        worker.end()


@pytest.mark.parametrize("precision", ["eager", "same", "best"])
def test_our_side_is_told_the_race(races, toy, precision):
    config = races.duels.config(toy(race="full", duel="std", variant="live", precision=precision, bf16=True))
    assert config.model.name == "mixer_micro_32"
    assert len(config.distill.teachers) == 2
    assert config.train.compile == ("never" if precision == "eager" else "always")
    assert config.train.amp is (precision == "best")
    assert config.optim.warmup_epochs == 0
    cuda = races.duels.config(replace(toy(precision=precision), device="cuda"))
    assert cuda.train.compile == ("never" if precision == "eager" else "graphs")


def test_every_duel_names_its_recipe_and_races(races):
    for duel in races.duels.DUELS.values():
        assert set(duel.races) <= set(races.task.RACES)
        for program, _ in duel.contenders.values():
            assert (FOLDER / f"{program}.py").is_file()
    assert {name for duel in races.duels.DUELS.values() for name in duel.races} == set(races.task.RACES)


@pytest.mark.slow
def test_two_of_ours_take_turns_and_leave_all_figures(races, tmp_path, monkeypatch, capsys):
    workers, states, take_turn = {}, [], races.contest.Worker.turn

    def watched(worker: Any, **order: Any) -> dict[str, Any]:
        workers[worker.name] = worker.process
        time.sleep(0.05)  # for the signals to arrive
        states.extend(
            Path(f"/proc/{each.pid}/stat").read_text().rpartition(")")[2].split()[0]
            for each in workers.values()
            if each.returncode is None  # those of an earlier start have ended
        )
        return take_turn(worker, **order)

    monkeypatch.setattr(races.contest.Worker, "turn", watched)
    plain = ("ours", "plain")
    mirror = races.duels.Duel({"one": plain, "other": plain}, "cifar100-mixer-s4", ("student",), differences=("none",))
    monkeypatch.setattr(races.race, "DUELS", {"timm": mirror})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["student", "--toy", "--precision", "eager", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmarks/races/race.py", *words])
    with pytest.raises(SystemExit) as ended:
        races.race.main()
    assert ended.value.code == 0
    assert set(states) == {"T"}  # stopped whenever a turn begins
    assert all(process.poll() is not None for process in workers.values())
    assert "times the first's seconds" in capsys.readouterr().out
    found = json.loads((tmp_path / "race-student-cpu-eager.json").read_text())
    assert {"command", "commit", "machine", "settings", "others", "packages", "bf16", "toy"} <= set(found)
    assert str(tmp_path) not in found["command"]
    duel = found["duels"]["timm"]
    assert duel["differences"] == ["none"]
    assert duel["ratios"]["other"]["median"] > 0
    assert duel["losses"]["largest_difference"] == 0
    for entry in duel["contenders"].values():
        assert len(entry["seconds_per_step"]["values"]) == 2
        assert entry["warm_up"]["steps"] == 2
        assert entry["losses"][0] == entry["losses"][1] < entry["warm_up"]["losses"][-1]  # each start begins anew
        assert entry["parameters"] == 159_908
        assert sum(row["share"] for row in entry["profile"]) <= 1
        assert sum(entry["shares"].values()) == pytest.approx(1)


def race(folder: Path, name: str, *words: str) -> dict[str, Any]:
    command = [sys.executable, str(FOLDER / "race.py"), name, "--toy", "--precision", "eager", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output", str(folder)], capture_output=True, text=True, env=environment, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / f"race-{name}-cpu-eager.json").read_text())
    return found


OTHERS = {name: os.environ.get(f"MIXSTILL_{name.upper()}") for name in ("std", "timm", "deit")}


@pytest.mark.parametrize("name", ["full", "student", "views", "teacher", "epoch"])
@pytest.mark.parametrize(
    "program",
    [pytest.param(name, marks=pytest.mark.skipif(not place, reason="no checkout")) for name, place in OTHERS.items()],
)
def test_other_peoples_programs_race(tmp_path, program, name):
    found = race(tmp_path, name, f"--{program}", str(OTHERS[program]))
    assert found["duels"]
    for duel in found["duels"].values():
        assert duel["losses"] is None or duel["losses"]["agree"]
        assert duel["contenders"][program]["shims"]
        assert duel["contenders"][program]["words"]
        assert duel["differences"]
