"""The last two checkpoints: what is damaged is told, and the run goes on from the one before it, to the same bits."""

import json
import shutil
import zipfile

import pytest
import safetensors.torch
import torch

from mixstill.errors import UserError
from mixstill.train.checkpoints import Checkpoints
from mixstill.train.run import train


def damage(path) -> None:
    """Flip a bit in the largest tensor: what pads the archive is nobody's."""
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda info: "/data/" in info.filename and info.file_size)
    content = bytearray(path.read_bytes())
    content[record.header_offset + 200] ^= 1  # its header has 30 bytes, its name and up to 64 of padding
    path.write_bytes(content)


def step_of(path) -> int:
    return torch.load(path, weights_only=True)["step"]


@pytest.fixture
def kept(build, tmp_path):
    """A state after its second step, and its checkpoints: of the first step and of this one."""
    built, checkpoints = build(), Checkpoints(tmp_path)
    for _ in range(2):
        built.steps(1)
        checkpoints.save(built.state)
    return built, checkpoints


def test_the_one_before_the_last_is_kept(kept) -> None:
    built, checkpoints = kept
    assert (step_of(checkpoints.previous), step_of(checkpoints.last)) == (1, 2)
    built.steps(1)
    checkpoints.save(built.state)
    assert (step_of(checkpoints.previous), step_of(checkpoints.last)) == (2, 3)


def test_a_damaged_one_is_told_and_never_takes_the_place_of_a_whole_one(kept, build) -> None:
    _, checkpoints = kept
    damage(checkpoints.last)
    again, fresh, said = build(), Checkpoints(checkpoints.last.parent), []
    fresh.restore(again.state, said.append)
    assert again.state.step == 1
    (line,) = said
    assert line.startswith(f"warning: checkpoint {checkpoints.last}: cannot be resumed from: its record 'archive/data/")
    assert line.endswith(f" does not fit its checksum; the run goes on from the one before it, {checkpoints.previous}")
    again.steps(2)
    fresh.save(again.state)
    assert (step_of(checkpoints.previous), step_of(checkpoints.last)) == (1, 3)


@pytest.mark.parametrize("names", [["last"], ["last", "previous"]])
def test_without_a_whole_one_it_is_told_what_to_do(kept, build, names) -> None:
    _, checkpoints = kept
    for name in names:
        damage(getattr(checkpoints, name))
    if names == ["last"]:
        checkpoints.previous.unlink()
    with pytest.raises(UserError) as error:
        Checkpoints(checkpoints.last.parent).restore(build().state, lambda _: None)
    assert str(error.value).count("does not fit its checksum") == len(names)
    assert str(error.value).endswith("; put a copy in its place, or begin anew with another --output")


def test_a_kill_between_the_two_renamings_leaves_the_previous_one(kept, build) -> None:
    _, checkpoints = kept
    checkpoints.last.replace(checkpoints.previous)
    again = build()
    assert checkpoints.there
    Checkpoints(checkpoints.last.parent).restore(again.state, lambda _: None)
    assert again.state.step == 2


def test_one_of_another_run_is_refused_though_the_previous_one_is_of_this(kept, build) -> None:
    built, checkpoints = kept
    build({"train.seed": 5}).state.save(checkpoints.last)
    with pytest.raises(UserError, match=r"last.pt: belongs to a run of another seed"):
        checkpoints.restore(built.state, lambda _: None)


@pytest.mark.parametrize("step", [-1, 9, 1.5, True])
def test_a_step_that_is_not_the_runs_is_damage(build, tmp_path, step) -> None:
    state = build().state
    state.total = 8
    state.step = step
    state.save(tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"its step, .*, is not among those of the run, 0 to 8"):
        state.restore(tmp_path / "last.pt")


@pytest.mark.parametrize("part", ["optimizer", "ema", "student"])
def test_a_part_that_is_not_there_is_damage(build, tmp_path, part) -> None:
    state = build({"train.ema_decay": 0.9}).state
    torch.save({name: value for name, value in state.content().items() if name != part}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=rf"it lacks {part}, and has nothing that does not belong"):
        state.restore(tmp_path / "last.pt")


def test_the_run_ends_with_the_same_bits_from_the_older_one_and_warns_though_it_is_quiet(
    tiny, teachers, tmp_path, capsys
) -> None:
    options = {"distill.teachers": [f"{teachers['small']}@last"], "train.ema_decay": 0.9, "views.mixup": 0.8}
    config = tiny(options | {"train.checkpoint_interval": 1})
    train(config, tmp_path / "straight", quiet=True)
    train(tiny(options | {"train.checkpoint_interval": 1, "train.max_steps": 6}), tmp_path / "run", quiet=True)
    damage(tmp_path / "run" / "checkpoints" / "last.pt")
    capsys.readouterr()
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert capsys.readouterr().err.startswith("run: warning: checkpoint ")
    runs = tmp_path / "run", tmp_path / "straight"
    for name in ("weights.safetensors", "ema.safetensors"):
        one, other = (safetensors.torch.load_file(run / name) for run in runs)
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    one, other = ([{**line, "images_per_second": 0} for line in each] for each in lines)
    # the limit has a run evaluated once more
    assert [line for line in one if line["step"] != 6 or "eval" not in line] == other


def test_metrics_without_a_checkpoint_are_told_and_nothing_is_wiped(tiny, tmp_path) -> None:
    run = tmp_path / "run"
    train(tiny({"train.max_steps": 2}), run, quiet=True)
    shutil.rmtree(run / "checkpoints")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(
        UserError, match=r"holds metrics.jsonl, but no checkpoint \(checkpoints/last.pt\) to go on from"
    ):
        train(tiny(), run, resume=True, quiet=True)
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "ema.safetensors", "summary.json", "metrics.jsonl", "config.yaml", "checkpoints"]
)
def test_any_file_of_a_run_keeps_a_new_one_away(tiny, tmp_path, name) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"^output: .* already holds "):
        train(tiny(), tmp_path / "run", quiet=True)


def test_a_config_with_another_bit_is_told_and_one_without_its_checksum_is_read(tiny, tmp_path) -> None:
    run = tmp_path / "run"
    train(tiny({"train.max_steps": 2}), run, quiet=True)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("lr: 0.01", "lr: 0.03"))
    with pytest.raises(UserError, match=r"damaged, or edited by hand: .* delete that line"):
        train(tiny(), run, resume=True, quiet=True)
    (run / "config.yaml").write_text(text.replace("lr: 0.01", "lr: 0.03").split("\n", 1)[1])
    with pytest.raises(UserError, match=r"last.pt: belongs to a run of another config"):
        train(tiny({"optim.lr": 0.03}), run, resume=True, quiet=True)
    (run / "config.yaml").write_text(text.split("\n", 1)[1])
    assert train(tiny(), run, resume=True, quiet=True)["complete"]
