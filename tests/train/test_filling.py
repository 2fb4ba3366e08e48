"""Caches that are filled ahead hold what a run would have put there, whatever was there before."""

import pytest

from mixstill.distill.cache import Cache
from mixstill.errors import InterruptedRun, UserError
from mixstill.train.answers import _Record
from mixstill.train.batch import Batches
from mixstill.train.build import build
from mixstill.train.filling import _stretches, fill
from mixstill.train.progress import Display
from mixstill.train.run import train
from mixstill.train.signals import StopSignal

QUIET = Display("cache", quiet=True)


@pytest.fixture
def config(tiny, teachers, tmp_path):
    def make(options=None):
        base = {"distill.teachers": [f"{teachers['small']}@1/2", f"{teachers['large']}@last"], "views.mixup": 0.8}
        return tiny(base | {"distill.cache": str(tmp_path / "cache")} | (options or {}))

    return make


def contents(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")}


def test_filling_ahead_is_what_a_run_puts_there(config, tmp_path) -> None:
    passes = {"train.device_batch_size": 4}
    train(config(passes | {"distill.cache": str(tmp_path / "by-run")}), tmp_path / "run", quiet=True)
    job = build(config(passes))
    before = {name: value.clone() for name, value in job.state.student.state_dict().items()}
    assert fill(job, QUIET) == 8
    assert contents(tmp_path / "cache") == contents(tmp_path / "by-run")
    assert all(value.equal(before[name]) for name, value in job.state.student.state_dict().items())
    assert train(config(passes), tmp_path / "replayed", quiet=True)["answers"] == {"replayed": 16, "asked": 0}


def test_only_what_is_lacking_or_damaged_is_asked(config, tmp_path, monkeypatch) -> None:
    fill(build(config()), QUIET)
    whole = contents(tmp_path / "cache")
    assert fill(build(config()), QUIET) == 0
    file = tmp_path / "cache" / "large" / "epoch-0001.bin"
    content = bytearray(file.read_bytes())
    content[4 * 4 + 5] ^= 1  # behind the checksums of four steps
    content[2 * 4 : 3 * 4] = bytes(4)
    file.write_bytes(content)
    stretches = []
    run = Batches.run
    monkeypatch.setattr(
        Batches, "run", lambda self, first, last: stretches.append((first, last)) or run(self, first, last)
    )
    job = build(config())
    monkeypatch.setattr(type(job.stepper.answers), "_check", lambda *_: None)
    assert fill(job, QUIET) == 2
    assert stretches == [(0, 1), (2, 3)]
    assert (job.stepper.answers.replayed, job.stepper.answers.asked) == (2, 2)
    assert contents(tmp_path / "cache") == whole


def test_only_the_steps_of_the_run_are_asked(config) -> None:
    assert fill(build(config({"train.max_steps": 3})), QUIET) == 3
    assert fill(build(config()), QUIET) == 5


@pytest.mark.parametrize(
    ("steps", "expected"),
    [([], []), ([3], [(3, 4)]), ([0, 1, 2], [(0, 3)]), ([0, 2, 3, 7], [(0, 1), (2, 4), (7, 8)])],
)
def test_stretches(steps, expected) -> None:
    assert list(_stretches(steps)) == expected


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_ends_it_after_a_step_and_nothing_is_lost(config, monkeypatch, number) -> None:
    job = build(config())
    asked = []
    ask = job.stepper.answers.ask

    def interrupted(*of):
        asked.append(of)
        signals[0].number = number if len(asked) == 3 else None
        return ask(*of)

    signals = []
    enter = StopSignal.__enter__
    monkeypatch.setattr(StopSignal, "__enter__", lambda self: signals.append(self) or enter(self))
    monkeypatch.setattr(_Record, "arrived", False)  # as on a GPU: they are underway for a while
    job.stepper.answers.ask = interrupted
    with pytest.raises(InterruptedRun, match="stopped after 3 of 8 steps") as caught:
        fill(job, QUIET)
    assert caught.value.signal == number
    assert fill(build(config()), QUIET) == 5


def test_where_nothing_can_be_written_it_is_refused_unless_all_is_there(config, monkeypatch) -> None:
    fill(build(config({"train.epochs": 1})), QUIET)
    whole, longer = build(config({"train.epochs": 1})), build(config())
    monkeypatch.setattr(Cache, "writable", False)
    assert fill(whole, QUIET) == 0
    with pytest.raises(UserError, match=r"distill.cache: '.*small' cannot be written to"):
        fill(longer, QUIET)


def test_a_cache_that_lacks_nothing_need_not_be_written_to(config, monkeypatch, teachers) -> None:
    fill(build(config({"distill.teachers": [f"{teachers['small']}@last"]})), QUIET)
    job = build(config())
    monkeypatch.setattr(Cache, "writable", property(lambda cache: cache.name != "small"))
    assert fill(job, QUIET) == 8
    assert (job.stepper.answers.replayed, job.stepper.answers.asked) == (8, 8)
    monkeypatch.setattr(Cache, "writable", property(lambda cache: cache.name != "large"))
    with pytest.raises(UserError, match=r"distill.cache: '.*large' cannot be written to"):
        fill(build(config({"train.epochs": 3})), QUIET)


def test_how_it_goes_is_told(config, capsys) -> None:
    fill(build(config({"train.log_interval": 3})), Display("cache"))
    said = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in said[2:]] == ["cache: step 3/8", "cache: step 6/8", "cache: step 8/8"]
    assert all(line.split("  ")[1].endswith(" answers/s") and line.endswith(" min left") for line in said[2:])
