"""Several processes on one batch: the same run as one process, on gloo."""

import errno
import json
import os
import pickle
import shutil
import socket
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mixstill.data import load_split
from mixstill.distill.cache import Cache
from mixstill.distill.classifier import load_classifier
from mixstill.errors import UserError
from mixstill.train.build import build
from mixstill.train.evaluate import evaluate
from mixstill.train.processes import ALONE, Processes, joined
from mixstill.train.run import train


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def in_processes(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """What `work` gives in each of `count` processes, forked as torchrun would have started them."""
    port = str(free_port())
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(count):
            child = os.fork()
            if child == 0:
                try:
                    there = {
                        "MASTER_ADDR": "localhost",
                        "MASTER_PORT": port,
                        "LOCAL_RANK": str(rank),
                        "LOCAL_WORLD_SIZE": str(count),
                    }
                    os.environ.update(there | {"RANK": str(rank), "WORLD_SIZE": str(count)})
                    with joined() as processes:
                        result = work(processes)
                    Path(folder, str(rank)).write_bytes(pickle.dumps(result))
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes == [0] * count
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(count)]


def test_alone_every_operation_is_the_identity() -> None:
    values = torch.rand(3, 2)
    assert ALONE.main
    assert ALONE.sum(values) is values
    assert ALONE.gather(values, [3]) is values
    assert ALONE.largest(7) == 7
    assert ALONE.union({"b", "a"}) == ["a", "b"]
    with joined() as processes:
        assert processes == ALONE


def test_what_the_processes_have_is_summed_gathered_and_united() -> None:
    def work(processes: Processes) -> dict[str, Any]:
        rank = processes.rank
        own = torch.full((rank + 1, 2), float(rank), requires_grad=True)
        gathered = processes.gather(own, [1, 2, 3])
        (gathered * torch.arange(12.0).view(6, 2)).sum().backward()
        own_gradient = own.grad.clone()
        processes.average_gradients([own][: rank == 3])
        with joined() as again:  # a group that is there is used, and left
            assert again == processes
        processes.wait()
        return {
            "sum": processes.sum(torch.tensor([1.0, rank])).tolist(),
            "gathered": gathered.tolist(),
            "gradient": own_gradient.tolist(),
            "largest": processes.largest(10 - rank),
            "union": processes.union({"all", str(rank)}),
        }

    for rank, found in enumerate(in_processes(3, work)):
        assert found["sum"] == [3.0, 3.0]
        assert found["gathered"] == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]
        first = rank * (rank + 1) // 2
        assert found["gradient"] == torch.arange(12.0).view(6, 2)[first : first + rank + 1].tolist()
        assert found["largest"] == 10
        assert found["union"] == ["0", "1", "2", "all"]


EVERYTHING = {
    "model.drop_path": 0.3,
    "views.aa": "rand-m9-mstd0.5-inc1",
    "views.reprob": 0.5,
    "views.mixup": 0.8,
    "views.cutmix": 1.0,
    "mi.weight": 0.3,
    "mi.width": 16,
    "mi.lr": 0.01,
    "optim.lr": 3e-3,
    "optim.clip_grad": 1.0,
    "train.ema_decay": 0.9,
    "train.batch_size": 16,
    "train.epochs": 15,
    "train.max_steps": 30,
    "train.eval_interval": 5,
    "train.eval_batch_size": 50,
}


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tiny, teachers, tmp_path_factory):
    """Runs with one process, by their options."""
    known: dict[str, Path] = {}

    def run(options: dict) -> Path:
        key = json.dumps(options, sort_keys=True)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("alone") / "run"
            train(tiny(taught(teachers, options)), known[key], quiet=True)
        return known[key]

    return run


def taught(teachers, options: dict) -> dict:
    return EVERYTHING | {"distill.teachers": [f"{teachers['small']}@1/2", f"{teachers['large']}@last"]} | options


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (2, {}),
        (4, {}),
        (2, {"mi.every": "epoch"}),
        (2, {"train.device_batch_size": 4}),
        (4, {"views.aug_repeats": 3, "train.batch_size": 18}),
    ],
)
def test_several_processes_follow_the_loss_curve_of_one(tiny, teachers, alone, tmp_path, count, options) -> None:
    most = options.get("train.device_batch_size")
    one = alone(options | ({} if most is None else {"train.device_batch_size": most * count}))
    config = tiny(taught(teachers, options))
    summaries = in_processes(count, lambda _: train(config, tmp_path / "run", quiet=True))
    assert all(summary["heads"] == summaries[0]["heads"] for summary in summaries)
    assert summaries[0]["processes"] == count
    for ours, theirs in zip(lines(tmp_path / "run"), lines(one), strict=True):
        assert ours.keys() == theirs.keys()
        if "eval" not in ours:
            for name in ours.keys() - {"images_per_second"}:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), (ours["step"], name)
    of_one = json.loads((one / "summary.json").read_text())
    for head, score in summaries[0]["heads"]["test"].items():
        assert score["n"] == of_one["heads"]["test"][head]["n"] == 596
        assert score["loss"] == pytest.approx(of_one["heads"]["test"][head]["loss"], rel=1e-4)
        assert abs(score["top1"] - of_one["heads"]["test"][head]["top1"]) < 0.4


BATCH_NORM = {"model.name": "cifar_resnet8", "model.kwargs": {"width": 4}, "data.input_size": 8, "train.ema_decay": 0.9}


def test_a_student_with_batch_norm_is_measured_as_it_is_saved(tiny, tmp_path) -> None:
    config = tiny(BATCH_NORM | {"optim.lr": 0.1, "train.max_steps": 6})
    summary = in_processes(2, lambda _: train(config, tmp_path / "run", quiet=True))[1]
    data = load_split(config.data, "test", "cpu", 8)
    for found, ema in ((summary["heads"], False), (summary["ema"], True)):
        model = load_classifier(str(tmp_path / "run"), ema=ema).model
        score = evaluate(model, data, mean=data.mean, std=data.std, input_size=8, batch_size=100)["class"]
        assert found["test"]["class"]["loss"] == pytest.approx(score.loss, rel=1e-5)
        assert found["test"]["class"]["top1"] == pytest.approx(score.top1)


def test_batch_norm_over_all_processes_is_for_cuda(tiny, tmp_path) -> None:
    with pytest.raises(UserError, match=r"train.sync_bn: True is not valid on cpu; PyTorch has it for CUDA only"):
        train(tiny(BATCH_NORM | {"train.sync_bn": True}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_of_two_processes_goes_on_with_one_and_with_three(tiny, teachers, alone, tmp_path) -> None:
    def config(steps: int):
        return tiny(taught(teachers, {"train.max_steps": steps}))

    in_processes(2, lambda _: train(config(9), tmp_path / "run", quiet=True))
    train(config(17), tmp_path / "run", resume=True, quiet=True)
    in_processes(3, lambda _: train(config(30), tmp_path / "run", resume=True, quiet=True))
    found = {line["step"]: line for line in lines(tmp_path / "run") if "eval" not in line}
    assert sorted(found) == list(range(1, 31))
    for line in lines(alone({})):
        if "eval" not in line:
            assert found[line["step"]]["total"] == pytest.approx(line["total"], rel=1e-4)


def test_too_small_a_batch_for_the_processes_is_refused(tiny, tmp_path) -> None:
    def refused(_: Processes) -> str:
        with pytest.raises(UserError) as caught:
            train(tiny({"train.batch_size": 4}), tmp_path / "run", quiet=True)
        return str(caught.value)

    assert set(in_processes(3, refused)) == {"train.batch_size: 4 samples are too few for 3 processes; give 2 to each"}
    assert not (tmp_path / "run").exists()


def test_several_processes_stream_the_same_images_as_one(tiny, tmp_path) -> None:
    for split, count in (("train", 12), ("test", 5)):
        for label, name in enumerate(("ant", "bee")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng([label, index]).integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels // 2 + 100 * label).save(tmp_path / "data" / split / name / f"{index}.png")
    (tmp_path / "data" / "test" / "bee" / "broken.png").write_bytes(b"no image")
    options = {"data.dataset": "folder", "data.data_dir": str(tmp_path / "data"), "data.samples_per_class": None}
    options |= {"views.crop": "rrc", "views.aug_repeats": 3, "views.mixup": 0.8, "train.batch_size": 8}
    options |= {"data.max_corrupt": 1, "train.epochs": 3}
    one = train(tiny(options | {"data.workers": 1}), tmp_path / "one", quiet=True)
    config = tiny(options | {"data.workers": 0})  # a forked process cannot have the workers of its parent
    several = in_processes(2, lambda _: train(config, tmp_path / "run", quiet=True))
    for ours, theirs in zip(lines(tmp_path / "run"), lines(tmp_path / "one"), strict=True):
        if "eval" not in ours:
            assert ours["total"] == pytest.approx(theirs["total"], rel=1e-4)
    for summary in several:
        assert (summary["n"], summary["top1"]) == (one["n"], one["top1"])
        assert summary["n"] == 10
        assert summary["corrupt"] == one["corrupt"]
        assert len(summary["corrupt"]) == 1


# --- one cache of teachers' answers ---


@pytest.fixture
def cached(tiny, teachers, tmp_path):
    """A config with two teachers and a cache, with options over it."""
    base = {"distill.cache": str(tmp_path / "cache"), "train.max_steps": 8}
    return lambda options=None: tiny(taught(teachers, base | (options or {})))


def counts(summary: dict) -> tuple[int, int]:
    return summary["answers"]["replayed"], summary["answers"]["asked"]


def test_processes_and_passes_read_and_write_the_cache_of_one(cached, tmp_path) -> None:
    config = cached({"train.device_batch_size": 4})
    several = in_processes(2, lambda _: train(config, tmp_path / "several", quiet=True))
    assert [counts(summary) for summary in several] == [(0, 16)] * 2
    assert counts(train(cached(), tmp_path / "one", quiet=True)) == (16, 0)
    replayed = in_processes(2, lambda _: train(config, tmp_path / "replayed", quiet=True))
    assert [counts(summary) for summary in replayed] == [(16, 0)] * 2
    for ours, theirs in zip(lines(tmp_path / "several"), lines(tmp_path / "replayed"), strict=True):
        if "total" in ours:
            assert ours["total"] == pytest.approx(theirs["total"], rel=1e-4)


def test_what_one_process_alone_cannot_find_is_asked_by_all(cached, tmp_path) -> None:
    train(cached(), tmp_path / "filling", quiet=True)

    def work(processes: Processes) -> tuple[int, int]:
        load = Cache.load
        if processes.rank == 1:
            Cache.load = lambda self, epoch, index, **told: None if index == 1 else load(self, epoch, index, **told)
        return counts(train(cached(), tmp_path / "run", quiet=True))

    found = in_processes(2, work)
    assert found[0] == found[1]
    assert found[0][1] == 2 * sum(step % 2 == 1 for step in range(8))  # an epoch has two steps


def test_a_full_disk_that_one_process_meets_ends_storing_in_all(cached, tmp_path) -> None:
    expected = counts(train(cached(), tmp_path / "straight", quiet=True))
    shutil.rmtree(tmp_path / "cache")

    def work(processes: Processes) -> tuple[int, int]:
        store = Cache.store

        def full(self, epoch, index, answers) -> None:
            if (epoch, index) == (1, 0):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")
            store(self, epoch, index, answers)

        Cache.store = full
        return counts(train(cached({"train.device_batch_size": 4}), tmp_path / "run", quiet=True))

    assert in_processes(2, work) == [expected] * 2
    caches = build(cached()).stepper.answers.caches
    assert [cache.there(epoch).sum() for cache in caches for epoch in range(4)] == [2, 0, 0, 0] * 2


def test_all_processes_refuse_a_cache_of_other_answers(cached, tmp_path) -> None:
    train(cached(), tmp_path / "filling", quiet=True)
    small, large = build(cached()).stepper.answers.caches
    small.store(0, 0, large.load(0, 0))

    def work(_: Processes) -> str:
        with pytest.raises(UserError) as caught:
            train(cached(), tmp_path / "run", quiet=True)
        return str(caught.value)

    first, second = in_processes(2, work)
    assert first == second
    assert "does not hold what small answers at step 1: its logits are " in first
