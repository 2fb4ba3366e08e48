"""What many tests need: a config that trains in a blink, two teachers on disk, the command line in process."""

import json
import logging
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from mixstill import cli
from mixstill.config import Config
from mixstill.data import load_split
from mixstill.distill.classifier import Facts, build_student, save_student
from mixstill.distill.objective import Objective
from mixstill.distill.teachers import Teachers
from mixstill.models import write_weights
from mixstill.schema import from_dict, merge, write_yaml
from mixstill.train.answers import Answers
from mixstill.train.batch import Batches
from mixstill.train.build import student_pixels
from mixstill.train.checkpoints import Checkpoints
from mixstill.train.evaluate import Score
from mixstill.train.journal import Journal
from mixstill.train.keys import open_caches
from mixstill.train.loop import fit
from mixstill.train.progress import Display
from mixstill.train.state import State
from mixstill.train.step import Stepper

TINY = {
    "model.name": "mixer_digits",
    "model.kwargs": {"num_blocks": 2, "embed_dim": 8},
    "data.samples_per_class": 4,
    "views.pad": 1,
    "optim.lr": 1e-2,
    "optim.warmup_epochs": 0.0,
    "train.epochs": 2,
    "train.batch_size": 10,
    "train.device": "cpu",
    "train.log_interval": 1,
    "train.compile": "never",
}


BUDGET = 10.0  # seconds of processor time, its ended children's included: what others do on the machine does not count


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that takes more than its budget is to be marked slow, so that the ordinary tests stay quick."""
    before = sum(os.times()[:4])
    result = yield
    spent = sum(os.times()[:4]) - before
    by_hand = item.config.getoption("fuzz", default=None) is not None
    if spent > BUDGET and item.get_closest_marker("slow") is None and not by_hand:
        pytest.fail(f"{spent:.0f} s of processor time, more than {BUDGET:.0f}: mark it slow, or make it less")
    return result


def nested(options: dict[str, Any]) -> dict[str, Any]:
    """`{"train.seed": 1}` -> `{"train": {"seed": 1}}`."""
    raw: dict[str, Any] = {}
    for dotted, value in options.items():
        section, name = dotted.split(".")
        raw.setdefault(section, {})[name] = value
    return raw


def make_tiny(options: dict[str, Any] | None = None) -> Config:
    return from_dict(merge(nested(TINY | (options or {})), {}))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a user has typed is remembered for these tests alone; the processes that they start inherit the place."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Config]:
    """A config of 4 samples per class in 4 steps per epoch and 2 epochs, with options by their dotted names over it."""
    return make_tiny


@dataclass(frozen=True)
class Built:
    """What `mixstill.train.run.train` makes of a config before its first step."""

    state: State
    batches: Batches
    stepper: Stepper

    def steps(self, count: int) -> list[dict[str, torch.Tensor]]:
        """Train `count` steps at the rate of the config; the terms of each."""
        terms, rate = [], self.stepper.config.optim.lr
        for parts in self.batches.run(self.state.step, self.state.step + count):
            epoch, index = divmod(self.state.step, self.batches.per_epoch)
            passes = self.batches.passes
            terms.append(self.stepper.step(self.state, parts, passes, epoch=epoch, index=index, rate=rate))
        return terms

    def fit(self, folder: Path) -> list[dict[str, Any]]:
        """Train to the end in `folder`, with one made-up score for every evaluation; the lines of metrics.jsonl."""
        score = {"class": Score(50.0, 100.0, 1.0, 4)}
        journal, quiet = Journal(folder / "metrics.jsonl", self.state.step), Display("run", quiet=True)
        self.stepper.answers.begin(self.state.step, self.batches.last, quiet.say)
        fit(self.state, self.batches, self.stepper, lambda: score, journal, Checkpoints(folder), quiet)
        return [json.loads(line) for line in journal.path.read_text().splitlines()]


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compiled code from other tests, and none left for them; what Dynamo counts starts from zero."""
    from torch._dynamo.utils import counters  # slow to import

    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # pytest's handler would have it all
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="session")
def build() -> Callable[..., Built]:
    """Builds the state, the batches and the stepper of the tiny config with options over it."""

    load, teach = cache(load_split), cache(Teachers)

    def make(options: dict[str, Any] | None = None) -> Built:
        config = make_tiny(options)
        size = student_pixels(config)
        data = load(config.data, "train", "cpu", size)
        facts = Facts.of(data, size)
        student = build_student(config, facts.num_classes).train()
        teachers = teach(student.placements, facts)
        objective = Objective(
            config.distill, config.train.smoothing, teachers.module_names, teachers.module_teacher, teachers.names
        )
        batches = Batches(data, config, size)
        answers = Answers(teachers, batches, open_caches(config, teachers, batches, facts))
        return Built(State.start(config, student), batches, Stepper(config, teachers, objective, answers=answers))

    return make


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Callable[..., str]:
    """The path of a recipe file of the tiny config."""

    def write(options: dict[str, Any] | None = None) -> str:
        path = tmp_path / "tiny.yaml"
        write_yaml(make_tiny(options), path)
        return str(path)

    return write


class Malicious:
    """A pickle of this makes the folder `mark` when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="session")
def malicious() -> Callable[[Path], object]:
    """Makes what makes the folder that it is given when a pickle of it is loaded."""
    return Malicious


@pytest.fixture(scope="session")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two CIFAR ResNets for ten classes that were never trained: a student's file at 8 pixels, and a foreign one."""
    folder = tmp_path_factory.mktemp("teachers")
    files = {name: folder / f"{name}.safetensors" for name in ("small", "large")}
    options = {"model.name": "cifar_resnet8", "model.kwargs": {"width": 4}, "data.input_size": 8, "train.seed": 4}
    config = make_tiny(options)
    facts = Facts(10, tuple("0123456789"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 8)
    save_student(files["small"], build_student(config, 10), config, facts)
    torch.manual_seed(6)
    write_weights(files["large"], timm.create_model("cifar_resnet8", num_classes=10, width=6).state_dict())
    return {name: str(file) for name, file in files.items()}


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def mixstill(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command in this process."""

    def run(*argv: object) -> Said:
        capsys.readouterr()
        code = cli.main([str(word) for word in argv])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(mixstill: Callable[..., Said]) -> Callable[..., str]:
    """Runs a command that must end as a user's mistake, and gives its one line."""

    def run(*argv: object) -> str:
        said = mixstill(*argv)
        assert said.code == 2, said
        assert said.out == ""
        assert said.err.startswith("mixstill: ")
        assert said.err.count("\n") == 1
        assert said.err.endswith("\n")
        return said.err.removeprefix("mixstill: ").rstrip("\n")

    return run
