"""A run from stored answers against the live one: the same curve; killed, damaged, split otherwise, or filled ahead."""

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mixstill.distill.cache import Cache
from mixstill.distill.teachers import Teachers
from mixstill.errors import RunError, UserError
from mixstill.train import answers as module
from mixstill.train.answers import Answers, _Record
from mixstill.train.batch import Batches
from mixstill.train.run import train
from mixstill.train.state import State
from mixstill.train.step import Stepper

STEPS = 8


@pytest.fixture
def given(teachers, tmp_path):
    """Options of a run with two teachers and a cache, with others over them."""
    base = {
        "distill.teachers": [f"{teachers['small']}@1/2", f"{teachers['large']}@last"],
        "distill.cache": str(tmp_path / "cache"),
        "views.mixup": 0.8,
        "views.reprob": 0.5,
        "model.drop_path": 0.2,
    }
    return lambda options=None: base | (options or {})


@dataclass
class Run:
    """What a run came to: the lines of its metrics without the speed, its weights, and steps replayed and asked."""

    lines: list[dict]
    weights: dict[str, torch.Tensor]
    counts: tuple[int, int]

    def __eq__(self, other: object) -> bool:
        """To the bit."""
        same = all(torch.equal(value, other.weights[name]) for name, value in self.weights.items())
        return same and self.lines == other.lines

    def close_to(self, other: "Run", **tolerance: float) -> bool:
        """Whether all terms of all steps are."""
        return all(
            ours[name] == pytest.approx(theirs[name], **tolerance)
            for ours, theirs in zip(self.lines, other.lines, strict=True)
            for name in ours.keys() - {"eval"}
        )


@pytest.fixture
def run(build, given, tmp_path):
    """Trains a run of these options in a folder of that name, from its checkpoint where there is one."""

    def make(name: str = "run", options: dict | None = None) -> Run:
        built, folder = build(given(options)), tmp_path / name
        folder.mkdir(exist_ok=True)
        if (folder / "last.pt").exists():
            built.state.restore(folder / "last.pt")
        lines = built.fit(folder)
        plain = [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]
        answers = built.stepper.answers
        return Run(plain, built.state.student.state_dict(), (answers.replayed, answers.asked))

    return make


@pytest.fixture
def answers(build, given):
    """The answers and the batches of a run, before it begins."""

    def make(options: dict | None = None) -> tuple[Answers, Batches]:
        built = build(given(options))
        return built.stepper.answers, built.batches

    return make


def records(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.bin"))}


def flip(file: Path, place: int) -> None:
    """Damage one bit of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


# --- the same run ---


@pytest.mark.parametrize("options", [{"distill.kind": "soft", "distill.tau": 2.0}, {}, {"train.amp": True}])
def test_a_replayed_run_has_the_curve_of_the_live_one_and_is_the_filling_one_to_the_bit(run, options) -> None:
    live, filling = run("live", options | {"distill.cache": None}), run("filling", options)
    replayed = run("replayed", options)
    assert (live.counts, filling.counts, replayed.counts) == ((0, 0), (0, 2 * STEPS), (2 * STEPS, 0))
    assert replayed == filling
    assert replayed.close_to(live, abs=2e-3)


def test_a_replayed_run_asks_no_teacher(run, monkeypatch) -> None:
    run("filling")
    monkeypatch.setattr(Answers, "_check", lambda *_: None)
    monkeypatch.setattr(Teachers, "forward", None)
    assert run("replayed").counts == (2 * STEPS, 0)


def test_hard_decisions_are_those_of_the_teachers(answers) -> None:
    for top_k in (None, 2):
        found, batches = answers({"distill.cache_top_k": top_k})
        (part,) = batches.get(0, 0)
        assert torch.equal(found(part, 0, 0, 0).argmax(-1), found.teachers(part.images).argmax(-1))


def test_top_k_stays_close_to_the_live_run_and_is_replayed_to_the_bit(run) -> None:
    options = {"distill.cache_top_k": 4, "distill.kind": "soft", "distill.weights": "uniform"}
    live, filling, replayed = run("live", options | {"distill.cache": None}), run("a", options), run("b", options)
    assert replayed.counts == (2 * STEPS, 0)
    assert replayed == filling
    assert replayed.close_to(live, abs=0.05)
    assert not replayed.close_to(live, abs=1e-4)


def test_another_student_takes_the_same_answers(run) -> None:
    run("filling")
    other = {"model.kwargs": {"num_blocks": 1, "embed_dim": 4}, "optim.lr": 1e-3, "distill.kind": "soft"}
    assert run("other", other).counts == (2 * STEPS, 0)


def test_a_teacher_that_joins_is_asked_alone(run, teachers) -> None:
    run("filling", {"distill.teachers": [f"{teachers['large']}@last"]})
    joined = run("joined")
    assert joined.counts == (STEPS, STEPS)
    assert run("again") == joined


def test_longer_and_shorter_runs_take_what_there_is(run, tmp_path) -> None:
    assert run("short", {"train.epochs": 1}).counts == (0, STEPS)
    assert run("long").counts == (STEPS, STEPS)
    before = records(tmp_path / "cache")
    assert run("stopped", {"train.epochs": 9, "train.max_steps": 3}).counts == (6, 0)
    assert records(tmp_path / "cache") == before


def test_passes_read_and_write_the_same_cache(run, tmp_path) -> None:
    passes = {"train.device_batch_size": 4}  # of 4, 2 and 4 samples
    run("one")
    before = records(tmp_path / "cache")
    assert run("three", passes).counts == (2 * STEPS, 0)
    shutil.rmtree(tmp_path / "cache")
    filling = run("filling", passes)
    assert filling.counts == (0, 2 * STEPS)
    for name, content in records(tmp_path / "cache").items():
        found, expected = (np.frombuffer(one, np.uint8)[4 * 4 :].copy() for one in (content, before[name]))
        np.testing.assert_allclose(found.view(np.float16), expected.view(np.float16), atol=2e-2)
    assert run("again", passes) == filling


# --- interrupted, damaged, shared ---


def test_a_run_that_is_killed_within_an_epoch_goes_on(run, tmp_path, monkeypatch) -> None:
    straight = run("straight")
    shutil.rmtree(tmp_path / "cache")
    step = Stepper.step

    def dies(self, state, *args, **options):
        if state.step == 7:
            raise KeyboardInterrupt
        return step(self, state, *args, **options)

    monkeypatch.setattr(Stepper, "step", dies)
    options = {"train.checkpoint_interval": 3}
    with pytest.raises(KeyboardInterrupt):
        run("run", options)
    monkeypatch.undo()
    found = run("run", options)
    assert found.counts == (2, 2)  # the seventh step was stored after the last checkpoint, the eighth was not
    assert found == straight
    assert run("replayed") == straight


def test_what_was_asked_lies_in_the_cache_once_it_was_flushed(answers) -> None:
    found, batches = answers()
    found.begin(0, STEPS, lambda _: None)
    (part,) = batches.get(0, 1)
    found(part, 0, 1, 0)
    found.flush()
    assert [found.there(t, 0, STEPS) for t in (0, 1)] == [[1], [1]]
    assert found.there(0, 2, STEPS) == found.there(0, 0, 1) == []


def test_a_checkpoint_waits_for_the_records_before_it(run, monkeypatch) -> None:
    order: list[str] = []
    for owner, name in ((Answers, "flush"), (State, "save")):
        original = getattr(owner, name)

        def noted(self, *of, name=name, original=original, **by):
            order.append(name)
            return original(self, *of, **by)

        monkeypatch.setattr(owner, name, noted)
    run()
    assert order == ["flush", "save"] * 2


def test_a_few_records_may_be_underway_and_no_more(answers, monkeypatch) -> None:
    """As on a GPU, where the newest have not arrived yet."""
    found, batches = answers()
    found.begin(0, STEPS, lambda _: None)
    monkeypatch.setattr(_Record, "arrived", False)
    for step, (part,) in enumerate(batches.run(0, STEPS)):
        found(part, *divmod(step, batches.per_epoch), 0)
        assert len(found.there(1, 0, STEPS)) == max(0, step + 1 - 4)
    found.flush()
    assert len(found.there(1, 0, STEPS)) == STEPS


def test_without_beginning_nothing_is_kept(answers, tmp_path) -> None:
    found, batches = answers()
    (part,) = batches.get(0, 1)
    assert found(part, 0, 1, 0).shape == (2, 10, 10)
    found.flush()
    assert not (tmp_path / "cache").exists()


def test_a_damaged_record_is_told_and_asked_again(run, answers, tmp_path) -> None:
    filling = run("filling")
    before = records(tmp_path / "cache")
    flip(tmp_path / "cache" / "large" / "epoch-0002.bin", 300)
    found, batches = answers()
    said: list[str] = []
    found.begin(0, STEPS, said.append)
    (part,) = batches.get(1, 1)
    found(part, 1, 1, 0)
    assert said[2:] == ["teachers' answers: large's to step 6 are damaged in the cache; asked again"]
    assert (found.replayed, found.asked) == (1, 1)
    assert records(tmp_path / "cache") == before
    flip(tmp_path / "cache" / "large" / "epoch-0002.bin", 300)
    again = run("again")
    assert again.counts == (2 * STEPS - 1, 1)
    assert again == filling


def test_a_disk_that_is_full_is_told_once_and_the_run_goes_on(run, answers, tmp_path, monkeypatch) -> None:
    straight = run("straight")
    shutil.rmtree(tmp_path / "cache")
    write, said = os.pwrite, []

    def full(file: int, content: bytes, place: int) -> int:
        if len(said) == 2 * 5:  # two writes to a record
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        said.append(place)
        return write(file, content, place)

    monkeypatch.setattr(os, "pwrite", full)
    assert run("run") == straight
    assert [answers()[0].there(t, 0, STEPS) for t in (0, 1)] == [[0, 1, 2], [0, 1]]


def test_what_a_full_disk_makes_of_it_is_one_line(answers, tmp_path, monkeypatch) -> None:
    found, batches = answers()
    said: list[str] = []
    found.begin(0, STEPS, said.append)
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    for step, (part,) in enumerate(batches.run(0, 3)):
        found(part, 0, step, 0)
    found.flush()
    file = tmp_path / "cache" / "small" / "epoch-0001.bin"
    assert said[2:] == [f"teachers' answers: {file}: No space left on device; no more of them are stored"]
    assert (found.replayed, found.asked) == (0, 6)
    found.begin(0, STEPS, said.append, strict=True)
    (part,) = batches.get(0, 0)
    with pytest.raises(OSError, match="No space left on device"):
        found(part, 0, 0, 0)


def test_a_cache_that_cannot_be_written_to_is_read_and_the_rest_asked(run, monkeypatch) -> None:
    run("short", {"train.epochs": 1})
    monkeypatch.setattr(Cache, "writable", False)
    monkeypatch.setattr(Cache, "store", None)
    assert run("long").counts == (STEPS, STEPS)
    assert run("again", {"train.epochs": 1}).counts == (STEPS, 0)


def test_what_is_there_is_told(run, answers, tmp_path, monkeypatch) -> None:
    run("short", {"train.epochs": 1})
    said: list[str] = []
    found, _ = answers()
    found.begin(0, STEPS, said.append)
    found.begin(2, STEPS, said.append)
    monkeypatch.setattr(Cache, "writable", False)
    found.begin(0, STEPS, said.append)
    found.begin(0, 4, said.append)
    counted = ["4 of 8", "2 of 6", "4 of 8", "4 of 4"]
    lost = ["", "", ", which cannot be written to", ""]
    assert said[1::2] == [
        f"teachers' answers: {count} steps of large are in {tmp_path / 'cache'}{end}"
        for count, end in zip(counted, lost, strict=True)
    ]


def test_a_run_tells_it_and_counts_in_its_summary(tiny, given, tmp_path, capsys) -> None:
    summary = train(tiny(given()), tmp_path / "run")
    assert summary["answers"] == {"replayed": 0, "asked": 2 * STEPS}
    where = tmp_path / "cache"
    assert f"run: teachers' answers: 0 of 8 steps of small are in {where}\n" in capsys.readouterr().err
    assert train(tiny(given({"distill.teachers": []})), tmp_path / "plain", quiet=True)["answers"] is None


def test_a_teacher_that_answers_nothing_finite_ends_the_run_before_it_is_stored(answers, tmp_path, monkeypatch) -> None:
    found, batches = answers()
    found.begin(0, STEPS, lambda _: None)
    monkeypatch.setattr(found, "ask", lambda images, which: found.teachers(images, which) / 0)
    (part,) = batches.get(1, 2)
    with pytest.raises(RunError, match=r"small: its answers to step 7 are not all finite"):
        found(part, 1, 2, 0)
    assert not (tmp_path / "cache").exists()


def test_what_is_fetched_is_waited_for_on_the_stream_that_computed_it(monkeypatch) -> None:
    class Event:
        def record(self, stream: object = None) -> None:
            recorded.append(stream)

    class Answer:
        is_cuda, shape, dtype, device = True, (2, 4), torch.uint8, "cuda:3"

    recorded: list[object] = []
    cuda = SimpleNamespace(Event=Event, current_stream=lambda device=None: f"the stream of {device}")
    held = SimpleNamespace(copy_=lambda answers, non_blocking: "held")
    monkeypatch.setattr(module, "torch", SimpleNamespace(cuda=cuda, empty=lambda *_, **options: held))
    record = _Record(None, 0, 0)
    record.add(torch.arange(2), Answer())
    assert recorded == ["the stream of cuda:3"]
    assert record.answers == ["held"]


# --- the spot check ---


def swap(caches: Sequence[Cache]) -> None:
    """Put the teachers' answers in each other's places, as if they had been stored so."""
    for step in range(STEPS):
        place = divmod(step, caches[0].steps)
        held = [cache.load(*place) for cache in caches]
        for cache, other in zip(caches, reversed(held), strict=True):
            cache.store(*place, other)


@pytest.mark.parametrize("top_k", [None, 1, 4])
def test_answers_of_another_teacher_are_found_out_though_the_key_fits(run, answers, tmp_path, top_k) -> None:
    options = {"distill.cache_top_k": top_k}
    run("filling", options)
    swap(answers(options)[0].caches)
    with pytest.raises(UserError) as caught:
        run("run", options)
    where = str(tmp_path / "cache")
    assert str(caught.value).startswith(
        f"distill.cache: {where!r} does not hold what small answers at step 1: its logits"
    )
    assert str(caught.value).endswith(" % off; give another folder")


@pytest.mark.parametrize("step", [0, 4, 7])
def test_answers_to_other_views_are_found_out_at_the_first_the_middle_and_the_last_step(run, answers, step) -> None:
    run("filling")
    found, batches = answers()
    place = divmod(step, batches.per_epoch)
    (part,) = batches.get(*place)
    for cache, logits in zip(found.caches, found.teachers(part.images.flip(0)), strict=True):
        cache.store(*place, cache.form.encode(logits).numpy())
    with pytest.raises(UserError, match=rf"what \w+ answers at step {step + 1}: its logits are \d+ % off"):
        run("run")


@pytest.fixture
def checked(monkeypatch):
    """Takes note of what is checked, in the place of checking it."""
    calls: list[tuple[int, list[int]]] = []
    monkeypatch.setattr(Answers, "_check", lambda self, step, which: calls.append((step, which)) or True)
    return calls


def test_the_check_is_of_the_first_the_last_and_one_in_the_middle_of_the_steps_to_come(run, answers, checked) -> None:
    run("filling")
    for first, expected in ((0, [0, 4, 7]), (5, [5, 6, 7]), (7, [7])):
        checked.clear()
        answers()[0].begin(first, STEPS, lambda _: None)
        assert checked == [(step, [0, 1]) for step in expected]


def test_the_check_is_of_records_that_are_whole(run, answers, checked, tmp_path) -> None:
    run("filling")
    for file, places in (("small/epoch-0001", (16, 216)), ("small/epoch-0002", (16, 616))):
        for place in places:
            flip(tmp_path / "cache" / f"{file}.bin", place)
    answers()[0].begin(0, STEPS, lambda _: None)
    assert checked == [(0, [1]), (2, [0]), (4, [1]), (5, [0]), (6, [0]), (7, [1])]


def test_where_no_record_can_be_compared_it_is_told(run, answers, checked, tmp_path, monkeypatch) -> None:
    run("filling")
    for file in (tmp_path / "cache" / "large").glob("*.bin"):
        for step in range(4):
            flip(file, 16 + 200 * step)
    expected = "teachers' answers: no record of {} could be compared with what it answers now"
    said: list[str] = []
    answers()[0].begin(0, STEPS, said.append)
    assert said[2:] == [expected.format("large")]
    monkeypatch.setattr(Answers, "_check", lambda *_: False)  # as where another process does not find them
    said.clear()
    answers()[0].begin(0, STEPS, said.append)
    assert said[2:] == [expected.format("small"), expected.format("large")]


def test_the_check_leaves_everything_as_it_is(run, answers) -> None:
    run("filling")
    found, _ = answers()
    drawn = torch.get_rng_state()
    found.begin(0, STEPS, lambda _: None)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (found.replayed, found.asked) == (0, 0)


def test_the_check_passes_over_rounding_and_damage(run, answers, tmp_path, monkeypatch) -> None:
    run("filling")
    flip(tmp_path / "cache" / "small" / "epoch-0001.bin", 20)
    found, _ = answers()
    forward = Teachers.forward
    monkeypatch.setattr(Teachers, "forward", lambda self, *of: forward(self, *of).bfloat16())
    found.begin(0, STEPS, lambda _: None)
