"""The formulas of benchmarks/scale.py by hand, what recipes ask for, and that docs/scale.md shows what is printed."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mixstill import recipes
from mixstill.distill.sizes import size_of

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
reading = importlib.import_module("reading")
scale = importlib.import_module("scale")

MACHINE = scale.Machine(
    gpus=8,
    teraflops=800,
    mfu=0.5,
    efficiency=0.9,
    dollars=2.0,
    cores=100,
    core_rate=10,
    jpeg=100,
    disk=1,
    upload=1,
    interconnect=100,
)
WORK = scale.Work(
    recipe="made", params=10**6, macs=10**9, teacher_macs=(10**9, 3 * 10**9), side=10, batch=64, epochs=10, repeats=2
)


def test_flops_of_an_image() -> None:
    assert scale.step_flops(3.0, []) == 18  # forward 3, backward 6, two FLOPs each
    assert scale.step_flops(3.0, [5.0, 7.0]) == 42  # and the teachers' forward
    assert WORK.flops(cached=True) == 6e9
    assert WORK.flops(cached=False) == 14e9


def test_images_per_second_and_utilisation_are_inverse() -> None:
    assert scale.rate(20e9, 800, 0.5) == pytest.approx(20_000)
    assert scale.utilisation(20_000, 20e9, 800) == pytest.approx(0.5)


def test_several_gpus_are_less_than_so_many_times_one() -> None:
    assert scale.together(100, 1, 0.9) == 100
    assert scale.together(100, 8, 0.9) == pytest.approx(720)


def test_days_are_of_whole_batches() -> None:
    assert scale.days(1_000_100, 1000, 864, 10_000) == pytest.approx(1.0)  # 864 million images
    assert scale.cost(0.5, 8, 2.0) == pytest.approx(192)


@pytest.mark.parametrize(("top_k", "size"), [(None, 2 * 2000), (10, 2 * 40), (100, 2 * 400)])
def test_bytes_of_all_teachers_answers_to_a_view(top_k, size) -> None:
    assert scale.answers_of(WORK, top_k) == size


def test_bytes_of_a_cache() -> None:
    assert scale.cache_bytes(100, 32, 1000, None) == 3 * (4 + 32 * 2000)  # three whole batches
    assert scale.cache_bytes(100, 32, 1000, 10, epochs=5) == 15 * (4 + 32 * 40)
    imagenet = scale.cache_bytes(1_281_167, 1024, 1000, None, epochs=300)
    assert imagenet == pytest.approx(768.7e9, rel=1e-3)


def test_bytes_of_a_view() -> None:
    assert scale.decoded_bytes(224) == 150_528
    assert scale.file_bytes(115, 3) == pytest.approx(38_333.33, rel=1e-6)


@pytest.mark.parametrize(("gpus", "seconds"), [(2, 0.04), (8, 0.07)])
def test_an_all_reduce_sends_nearly_twice_the_gradients(gpus, seconds) -> None:
    assert scale.allreduce_seconds(10**9, gpus, 100) == pytest.approx(seconds)  # 4 GB of gradients


def test_what_each_part_would_allow() -> None:
    found = scale.limits(WORK, MACHINE, 1000.0, 50_000)
    assert found == pytest.approx(
        {
            "GPUs": 7200,
            "CPU cores": 1000,
            "disk": 1e9 / (50_000 + 50_000),
            "upload": 8e9 / (300 + 50_000),
            "interconnect": 64 / (2 * 7 / 8 * 4e6 / 100e9),
        }
    )
    assert scale.slowest(found) == "CPU cores"
    assert "interconnect" not in scale.limits(WORK, replace(MACHINE, gpus=1), 1000.0, 0)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"core_rate": 1e6}, "GPUs"),
        ({"core_rate": 1e6, "disk": 0.1}, "disk"),
        ({"core_rate": 1e6, "upload": 1e-4}, "upload"),
        ({"core_rate": 1e6, "interconnect": 0.01}, "interconnect"),
    ],
)
def test_the_bottleneck_moves(change, part) -> None:
    assert scale.slowest(scale.limits(WORK, replace(MACHINE, **change), 1000.0, 0)) == part


def test_speed_is_assumed_where_nothing_was_measured() -> None:
    (speed,) = scale.speeds([WORK], MACHINE, {}).values()
    assert speed.origin == "assumed"
    assert speed.live == pytest.approx(400e12 / 14e9)
    assert speed.cached == pytest.approx(400e12 / 6e9)


def test_what_was_measured_stays_and_gives_the_others_their_utilisation() -> None:
    other = replace(WORK, recipe="other", macs=2 * 10**9, teacher_macs=())
    found = scale.speeds([WORK, other], MACHINE, {"made": 4000.0})  # of 800e12 / 14e9: 7 %
    assert found["made"].live == 4000
    assert found["made"].cached == pytest.approx(4000 * 14 / 6)
    assert found["other"].live == pytest.approx(0.07 * 800e12 / 12e9)
    assert [speed.origin for speed in found.values()] == ["measured", "scaled"]


def test_a_recipe_in_float32_has_the_rate_of_float32() -> None:
    (speed,) = scale.speeds([replace(WORK, amp=False)], replace(MACHINE, float32=40), {}).values()
    assert speed.live == pytest.approx(20e12 / 14e9)
    assert not scale.work_of("imagenet-resmlp-s24-lamb").amp


def test_measured_speeds_come_from_a_file_of_share(tmp_path) -> None:
    file = tmp_path / "share.json"
    file.write_text(json.dumps({"rows": {"imagenet-std-mixer-s16": {"images_per_second": 5.0, "shares": {}}}}))
    assert scale.measured_in(file) == {"imagenet-std-mixer-s16": 5.0}


def test_what_a_recipe_asks_for() -> None:
    work = scale.work_of("imagenet-std-mixer-s16")
    size = size_of("std_mixer_s16_224", places=("2/3", "last"))
    assert (work.params, work.macs, work.side) == (size.params, size.macs, 224)
    assert work.teacher_macs == tuple(size_of(name).macs for name in ("resnet50d.gluon_in1k", "resnet101d.gluon_in1k"))
    assert (work.batch, work.epochs, work.repeats) == (1024, 300, 3)


def test_a_recipe_that_goes_on_at_more_pixels_has_the_wider_token_mixing() -> None:
    work = scale.work_of("imagenet-std-mixer-s16-448")
    narrow = size_of("std_mixer_s16_224", input_size=448, places=("2/3", "last")).macs
    wider = 3 * 256  # hidden units that come to the token mixing of 8 blocks and to the spatial MLP of 2 modules
    more = 8 * 512 * 2 * 784 * wider + 2 * 512 * (785 + 1) * wider
    assert work.macs - narrow == more
    assert work.side == 448


def test_a_teacher_that_speaks_twice_answers_once(monkeypatch) -> None:
    load = recipes.load
    over = {"distill": {"teachers": ["resnet50d@2/3", "resnet50d@last"]}}
    monkeypatch.setattr(recipes, "load", lambda name: load(name, over))
    assert len(scale.work_of.__wrapped__("imagenet-mixer-s16").teacher_macs) == 1


def test_no_recipe_is_left_out() -> None:
    assert {name for name in recipes.names() if name.startswith("imagenet")} == set(scale.RECIPES)


@pytest.mark.parametrize(
    ("count", "text"), [(512, "0.512 kB"), (15.37e9, "15.4 GB"), (999.6e9, "1 TB"), (185.9e12, "186 TB")]
)
def test_sizes_are_short(count, text) -> None:
    assert scale._size(count) == text


def test_the_page_shows_what_is_printed(monkeypatch) -> None:
    """Of some recipes, since counting all takes a while; the others' rows at least are there."""
    monkeypatch.setattr(scale, "RECIPES", ["imagenet-mixer-s16", "imagenet-std-mixer-s16-448", *scale.MOVES])
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").splitlines()
    for name, rows in scale.tables(scale.Machine()).items():
        assert f"<!-- table: {name} -->" in page
        assert set(scale.grid(rows).splitlines()) <= set(page)
    for name in recipes.names():
        if name.startswith("imagenet-"):
            shown = [line for line in page if line.startswith(f"| {name.removeprefix('imagenet-')} |")]
            assert len(shown) >= 2


def test_the_command_prints_tables_or_json(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(scale, "RECIPES", ["imagenet-mixer-s16"])
    monkeypatch.setattr(scale, "MOVES", ["imagenet-mixer-s16"])
    monkeypatch.setattr(sys, "argv", ["scale.py", "--gpus", "1", "--mfu", "0.2", "--json"])
    scale.main()
    found = json.loads(capsys.readouterr().out)
    given = [row["option"] for row in found["assumptions"] if row["is"] == "given"]
    assert given == ["--gpus", "--mfu"]
    assert found["compute"][0]["images/s of a GPU"] == f"{0.2 * 790e12 / (6 * 3_776_958_464):,.0f}"
    page = tmp_path / "page.md"
    page.write_text("<!-- table: cache -->\nold\n<!-- end -->\n")
    monkeypatch.setattr(sys, "argv", ["scale.py", "--page", str(page)])
    scale.main()
    printed = capsys.readouterr().out.strip().split("\n\n")
    assert len(printed) == 5
    assert page.read_text() == f"<!-- table: cache -->\n{printed[3]}\n<!-- end -->\n"


def test_reading_is_measured_on_files_as_large_as_imagenets(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reading, "PHOTOS", 3)
    photos = reading.make_photos(tmp_path)
    assert all(115_000 <= path.stat().st_size <= 125_000 for path in tmp_path.iterdir())
    assert photos.open(2)[0].size == (500, 375)
    row = reading.measure(photos, recipes.load("imagenet-std-mixer-s16"), 2, rounds=3)
    assert len(row["values"]) == 3
    assert 0 < row["min"] <= row["median"] <= row["max"]
