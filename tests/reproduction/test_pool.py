"""The pool: order, room, needs, failures and signals, with small programs in the place of training."""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from mixstill import recipes
from mixstill.config import Config
from mixstill.errors import InterruptedRun
from mixstill.reproduction import pool
from mixstill.reproduction.plan import Run
from mixstill.reproduction.pool import command_of, finished, room, train_all

CHILD = """
import os, signal, sys, time
from pathlib import Path

path, journal = Path(sys.argv[1]), Path(sys.argv[2])

def note(word):
    with journal.open("a") as file:
        file.write(f"{path.name} {word}\\n")

def noted():
    return journal.read_text().splitlines()

def wait(until):
    last = time.monotonic() + 20
    while not until() and time.monotonic() < last:
        time.sleep(0.01)

def finish():
    note("ends")
    path.mkdir(parents=True, exist_ok=True)
    (path / "draft").write_text('{"complete": true, "top1": 50, "top5": 80, "loss": 1, "seconds": 90}')
    (path / "draft").rename(path / "summary.json")

note("begins")
"""
TRAINS = "finish()"
STOPS_IN_ITS_TIME = """
def stop(*_):
    time.sleep(0.2)
    note("stopped")
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
note("waits")
time.sleep(15)
"""


def program(body: str, path: Path, journal: Path) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", CHILD + body, str(path), str(journal)]


def wait(until: Callable[[], bool], seconds: float = 20) -> None:
    last = time.monotonic() + seconds
    while not until() and time.monotonic() < last:
        time.sleep(0.01)


@dataclass
class Bench:
    """Runs that are programs, by the names of their folders; they note in a journal what they do."""

    folder: Path
    programs: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    ended: list[dict[str, str]] = field(default_factory=list)  # what had failed when a run ended

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def notes(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def run(self, name: str, body: str = TRAINS, needs: tuple[Run, ...] = (), config: Config | None = None) -> Run:
        self.programs[name] = body
        path = self.folder / "seed0" / name
        return Run(f"run {name}", config or Config(), path, tuple(run.path.resolve() for run in needs))

    def train(self, *runs: Run, jobs: int = 1, inherited: tuple[int, ...] = ()) -> dict[str, str]:
        return train_all(
            runs, jobs, self.said.append, lambda failed: self.ended.append(dict(failed)), inherited=inherited
        )


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(pool, "_POLL", 0.01)
    monkeypatch.setattr(pool, "command_of", lambda run: program(made.programs[run.path.name], run.path, made.journal))
    return made


# --- order and room ---


def test_runs_are_trained_one_after_another_in_their_order(bench) -> None:
    runs = [bench.run(name) for name in "bca"]
    assert bench.train(*runs) == {}
    assert bench.notes == [f"{name} {word}" for name in "bca" for word in ("begins", "ends")]
    assert bench.ended == [{}, {}, {}]
    assert bench.said == [
        "0 of 3 runs finished before; 1 at once",
        *(f"[{number}/3] run {name}: top-1 50.00 after 0.0 minutes" for number, name in enumerate("bca", 1)),
    ]


def test_as_many_run_at_once_as_there_are_jobs_and_no_more(bench) -> None:
    body = "wait(lambda: sum(line.endswith('begins') for line in noted()) >= 2)\ntime.sleep(0.3)\n" + TRAINS
    assert bench.train(*(bench.run(name, body) for name in "abcde"), jobs=2) == {}
    counts, running = [], 0
    for note in bench.notes:
        running += 1 if note.endswith("begins") else -1
        counts.append(running)
    assert max(counts) == 2
    assert len(counts) == 10


def test_a_run_waits_for_what_it_needs_and_lets_others_go_first(bench) -> None:
    teacher = bench.run("teacher", "wait(lambda: 'other begins' in noted())\n" + TRAINS)
    student = bench.run("student", needs=(teacher,))
    assert bench.train(teacher, student, bench.run("other"), jobs=3) == {}
    assert bench.notes.index("other begins") < bench.notes.index("teacher ends") < bench.notes.index("student begins")


def test_what_is_finished_is_left_alone_and_what_was_begun_goes_on(bench, leave) -> None:
    runs = [bench.run(name) for name in "abc"]
    leave(runs[0].path)
    leave(runs[1].path, complete=False)
    assert [finished(run.path) for run in runs] == [True, False, False]
    assert bench.train(*runs) == {}
    assert [note for note in bench.notes if note.endswith("begins")] == ["b begins", "c begins"]
    assert bench.said[0] == "1 of 3 runs finished before; 1 at once"
    assert bench.said[-1].startswith("[2/2] run c: ")
    assert all(finished(run.path) for run in runs)
    assert bench.train(*runs) == {}
    assert bench.said[-1] == "3 of 3 runs finished before; 1 at once"
    assert len(bench.notes) == 4


@pytest.mark.parametrize(
    ("cores", "threads", "jobs"), [(8, 1, 8), (8, 3, 2), (8, 8, 1), (8, 16, 1), (8, None, 1), (1, 1, 1)]
)
def test_a_processor_has_room_for_as_many_runs_as_their_threads_have_cores(monkeypatch, cores, threads, jobs) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    assert room(torch.device("cpu"), threads, 8.0) == jobs


@pytest.mark.parametrize(("cores", "free", "jobs"), [(16, 80e9, 4), (16, 31e9, 3), (2, 80e9, 2), (16, 3e9, 1)])
def test_a_gpu_has_room_for_what_fits_its_free_memory_one_core_each_and_four_at_most(
    monkeypatch, cores, free, jobs
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free), int(90e9)))
    assert room(torch.device("cuda"), None, 8.0) == jobs


# --- how a run is started ---


def test_a_run_is_trained_by_a_command_that_goes_on_where_it_stands(bench, tiny) -> None:
    run = bench.run("a", config=tiny({"optim.lr": 0.125}))
    bench.train(run)
    recipe = f"{run.path}.yaml"
    words = ["train", recipe, "--output", str(run.path), "--resume", "--quiet"]
    assert command_of(run) == [sys.executable, "-m", "mixstill", *words]
    assert recipes.load(recipe) == run.config


@pytest.mark.parametrize(("threads", "told"), [(3, "3"), (None, "7")])
def test_a_run_has_its_threads_from_the_start(bench, tiny, monkeypatch, threads, told) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    bench.train(bench.run("a", "note(os.environ['OMP_NUM_THREADS'])", config=tiny({"train.threads": threads})))
    assert bench.notes == ["a begins", f"a {told}"]


def test_a_run_has_a_session_of_its_own_so_that_the_terminal_does_not_signal_it_too(bench) -> None:
    bench.train(bench.run("a", "note(os.getsid(0) == os.getpid())"))
    assert bench.notes == ["a begins", "a True"]


def test_a_run_keeps_open_what_it_is_to_inherit(bench) -> None:
    reader, writer = os.pipe()
    bench.train(bench.run("a", f"os.write({writer}, b'held')"), inherited=(writer,))
    assert os.read(reader, 9) == b"held"
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_the_time_of_every_attempt_counts(bench) -> None:
    run = bench.run("a", "time.sleep(0.3); sys.exit(1)")
    bench.train(run)
    bench.train(bench.run("a"))
    first, _ = map(float, run.path.with_suffix(".seconds").read_text().split())
    assert first >= 0.3


# --- failures ---


def test_what_a_failed_run_was_needed_for_is_not_started_and_told_and_others_go_on(bench) -> None:
    teacher = bench.run("teacher", "print('one line', file=sys.stderr)\nprint('mixstill: broken ')\nsys.exit(2)")
    student = bench.run("student", needs=(teacher,))
    pupil = bench.run("pupil", needs=(student,))
    told = "a run that it needs failed"
    failed = bench.train(teacher, student, pupil, bench.run("other"))
    assert failed == {"run teacher": "mixstill: broken", "run student": told, "run pupil": told}
    assert bench.notes == ["teacher begins", "other begins", "other ends"]
    assert bench.ended == [{"run teacher": "mixstill: broken"}, failed]
    assert "run teacher failed: mixstill: broken" in bench.said[1]
    assert "run other: top-1 50.00" in bench.said[2]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit(3)", "it ended with 3"),
        ("pass", "it ended with 0"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "it ended with -9"),
        ("print('first'); print('  last'); sys.exit(1)", "last"),
        ("sys.stdout.buffer.write(b'no \\xff text'); sys.exit(1)", "no \ufffd text"),
    ],
)
def test_a_failed_run_is_told_by_its_last_words_or_by_its_end(bench, body, words) -> None:
    assert bench.train(bench.run("a", body)) == {"run a": words}


def test_words_of_an_earlier_attempt_are_not_those_of_this_one(bench) -> None:
    assert bench.train(bench.run("a", "print('stopped at step 3'); sys.exit(143)")) == {"run a": "stopped at step 3"}
    assert bench.train(bench.run("a", "os.kill(os.getpid(), signal.SIGKILL)")) == {"run a": "it ended with -9"}


def test_a_run_that_failed_is_tried_again_by_the_next_call(bench) -> None:
    assert bench.train(bench.run("a", "sys.exit(1)")) != {}
    assert bench.train(bench.run("a")) == {}


# --- signals ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_run_and_is_raised_when_all_have_ended(bench, number) -> None:
    def interrupt() -> None:
        wait(lambda: {"a waits", "b waits"} <= set(bench.notes))
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises(InterruptedRun, match="give the same command again") as error:
        bench.train(bench.run("a", STOPS_IN_ITS_TIME), bench.run("b", STOPS_IN_ITS_TIME), bench.run("c"), jobs=2)
    notes = bench.notes
    sender.join()
    assert error.value.signal == number
    assert {"a stopped", "b stopped"} <= set(notes)
    assert "c begins" not in notes
    assert bench.ended == [{}]  # once more at the end, for those that came to theirs on the way


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_a_killed_parent_takes_its_runs_along(bench) -> None:
    run = bench.run("a", STOPS_IN_ITS_TIME)
    with warnings.catch_warnings(action="ignore"):  # of threads, which the parent does without
        parent = os.fork()
    if parent == 0:
        try:
            bench.train(run)
        finally:
            os._exit(1)
    wait(lambda: "a waits" in bench.notes)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    wait(lambda: "a stopped" in bench.notes, 10)
    assert bench.notes == ["a begins", "a waits", "a stopped"]
