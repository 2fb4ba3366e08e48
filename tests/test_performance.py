"""The tables of docs/performance.md, drawn from made results; and that the page shows those that lie in results/."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
page = importlib.import_module("page")
performance = importlib.import_module("performance")


def spread(*values: float) -> dict[str, object]:
    return {"median": sorted(values)[len(values) // 2], "min": min(values), "max": max(values), "values": list(values)}


def contender(seconds: float, warm_up: float = 9.0, **more: object) -> dict[str, object]:
    return {
        "seconds_per_step": spread(seconds),
        "images_per_second": 64 / seconds,
        "warm_up": {"seconds": warm_up, "steps": 3},
        "profile": None,
        "shares": None,
    } | more


def write(folder: Path, race: str, precision: str, duels: dict[str, object], toy: bool = False) -> None:
    machine = {"device": "x86_64", "processor": "a processor, 2 cores"}
    found = {
        "toy": toy,
        "duels": duels,
        "machine": machine,
        "bf16": False,
        "commit": "0123456789",
        "command": "python r",
    }
    (folder / f"race-{race}-cpu-{precision}.json").write_text(json.dumps(found))


@pytest.fixture
def results(tmp_path):
    write(tmp_path, "full", "eager", {"std": duel("std", ours=contender(4.0, 12.0), std=contender(8.0))})
    profile = [{"operator": f"aten::{'m' * 99}", "calls": 7, "share": 0.42}]
    pieces = {"data": 0.1, "teachers": 0.2, "student": 0.6, "optimizer": 0.1}
    ours = contender(2.0, 50.0, profile=profile, shares=pieces)
    write(tmp_path, "full", "best", {"std": duel("std", ours=ours, std=contender(5.0)), "deit": {"failed": "no"}})
    steps = {"plain": contender(1.0), "cached": contender(1.2), "live": contender(2.0)}
    steps |= {"soft-cached": contender(1.05), "soft-live": contender(1.5)}
    write(tmp_path, "overhead", "best", {"distillation": duel(*list(steps)[1:], **steps)})
    write(tmp_path, "views", "best", {"std": duel("std", ours=contender(1.0), std=contender(9.0))}, toy=True)
    return performance.Results(tmp_path)


def duel(*others: str, **contenders: dict[str, object]) -> dict[str, object]:
    first = next(iter(contenders.values()))["seconds_per_step"]["median"]
    ratios = {name: spread(contenders[name]["seconds_per_step"]["median"] / first) for name in others}
    losses = {"agree": False, "largest_difference": 0.08, "tolerance": 0.05}
    return {"contenders": contenders, "ratios": ratios, "losses": losses, "differences": []}


def test_bars_are_met_or_not(results) -> None:
    rows = {row["what"]: row for row in performance.bars(results, "cpu")}
    std = rows["a full distillation step beside devrimcavusoglu/std, each at its best"]
    assert (std["bar"], std["measured"], std["met"]) == ("3.0x", "2.50 (2.50 to 2.50)", "no")
    cached = rows["a step with cached teachers beside one without"]
    assert (cached["bar"], cached["measured"], cached["met"]) == ("<= 1.1x", "1.20 (1.20 to 1.20)", "no")
    timm = rows["the stripped student beside timm's model"]
    assert (timm["measured"], timm["met"]) == ("not measured", "-")


@pytest.mark.parametrize(("seconds", "met"), [(2.9, "no"), (3.0, "yes")])
def test_a_lead_has_to_reach_its_bar(seconds, met, tmp_path) -> None:
    write(tmp_path, "full", "best", {"std": duel("std", ours=contender(1.0), std=contender(seconds))})
    assert next(performance.bars(performance.Results(tmp_path), "cpu"))["met"] == met


@pytest.mark.parametrize(("seconds", "met"), [(1.1, "yes"), (1.11, "no")])
def test_a_price_has_to_stay_below_its_bar(seconds, met, tmp_path) -> None:
    found = duel("cached", plain=contender(1.0), cached=contender(seconds))
    write(tmp_path, "overhead", "best", {"distillation": found})
    rows = performance.bars(performance.Results(tmp_path), "cpu")
    assert [row["met"] for row in rows if "cached" in row["what"]] == [met]


def test_races_show_both_sides_and_what_is_missing(results) -> None:
    rows = {(row["race"], row["beside"], row["precision"]): row for row in performance.races(results, "cpu")}
    full = rows["full", "std", "best"]
    assert (full["ours"], full["theirs"], full["ratio"]) == ("32.0", "12.8", "2.50 (2.50 to 2.50)")
    assert full["losses"] == "differ (8.0% of 5%)"
    missing = {("full", "deit", "best"), ("views", "std", "best"), ("full", "std", "same")}
    assert not missing & set(rows)  # failed, rehearsed, and not run
    assert not any(race == "overhead" for race, *_ in rows)
    (row,) = performance.races(results, "cuda")
    assert set(row.values()) == {"not measured"}


def test_without_bfloat16_the_uncompiled_race_is_everyones_best(results) -> None:
    (results.folder / "race-full-cpu-best.json").unlink()
    assert next(performance.bars(results, "cpu"))["measured"] == "2.00 (2.00 to 2.00)"
    path = results.folder / "race-full-cpu-eager.json"
    path.write_text(path.read_text().replace('"bf16": false', '"bf16": true'))
    assert next(performance.bars(results, "cpu"))["measured"] == "not measured"


def test_what_teachers_add(results) -> None:
    rows = [row for row in performance.overhead(results, "cpu") if row["precision"] == "best"]
    assert [(row["step"], row["ms"], row["of the plain step"]) for row in rows[:3]] == [
        ("plain", "1,000.0", "1"),
        ("cached", "1,200.0", "1.20 (1.20 to 1.20)"),
        ("live", "2,000.0", "2.00 (2.00 to 2.00)"),
    ]
    assert [row["ms"] for row in performance.overhead(results, "cuda")] == ["not measured"]


def test_modules_are_counted_and_timed(results) -> None:
    rows = {row["student"]: row for row in performance.modules(results)}
    small, large = rows["mixer_s4_32"], rows["resmlp_big_24_16_224"]
    assert small["parameters (M)"] == "17.16 -> 19.42 (+13.2%)"
    assert small["time of a step, cpu"] == "1.20 (1.20 to 1.20)"
    assert small["time of a step, cuda"] == large["time of a step, cpu"] == "not measured"
    assert large["MACs (G)"].startswith("23.02 -> 24.0")
    assert large["MACs (G)"].endswith("(+4.5%)")


def test_compilation_is_paid_back(results) -> None:
    eager, best = performance.compilation(results, "cpu")
    assert (eager["images/s"], eager["paid back after (steps)"]) == ("16.0", "-")
    assert [row["images/s"] for row in performance.compilation(results, "cuda")] == ["not measured"]
    assert best["paid back after (steps)"] == "19"  # 38 seconds more, 2 seconds less in each step


def test_compilation_that_gains_nothing_is_never_paid_back() -> None:
    assert performance._paid_back(contender(4.0), contender(4.0)) == "never"
    assert performance._paid_back(contender(3.0), contender(4.0)) == "0"


def test_where_the_time_goes(results) -> None:
    rows = {row["precision"]: row for row in performance.shares(results, "cpu")}
    assert rows["best"] == {
        "precision": "best",
        "data": "10.0%",
        "teachers": "20.0%",
        "student": "60.0%",
        "optimizer": "10.0%",
    }
    assert list(rows) == ["best"]
    assert [row["data"] for row in performance.shares(results, "cuda")] == ["not measured"]
    (row,) = performance.operators(results, "cpu")
    assert (len(row["operator"]), row["calls"], row["share"]) == (62, 7, "42.0%")
    assert [row["operator"] for row in performance.operators(results, "cuda")] == ["not measured"]


def test_sources_name_machine_and_command(results) -> None:
    rows = list(performance.sources(results, "cpu"))
    assert [row["file"] for row in rows] == [
        "`results/race-full-cpu-eager.json`",
        "`results/race-full-cpu-best.json`",
        "`results/race-overhead-cpu-best.json`",
    ]
    assert rows[0]["machine"] == "x86_64, a processor, 2 cores, no bfloat16"
    assert rows[0]["commit"] == "01234567"


def test_a_page_is_filled_and_stale_tables_are_named(tmp_path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "before\n<!-- table: a -->\n<!-- end -->\nbetween\n<!-- table: b, c -->\nold\n<!-- end -->\nafter\n"
    )
    found = {"a": "| 1 |", "b, c": "old"}
    assert page.stale(path, found) == ["a"]
    page.fill(path, found)
    assert path.read_text().split("\n")[:3] == ["before", "<!-- table: a -->", "| 1 |"]
    assert path.read_text().endswith("between\n<!-- table: b, c -->\nold\n<!-- end -->\nafter\n")
    assert page.stale(path, found) == []


def test_check_fails_on_a_stale_page(results, tmp_path, monkeypatch) -> None:
    path = tmp_path / "page.md"
    path.write_text(performance.PAGE.read_text(encoding="utf-8"))
    words = ["performance.py", "--results", str(results.folder), "--page", str(path)]
    monkeypatch.setattr(sys, "argv", [*words, "--check"])
    with pytest.raises(SystemExit, match=r"page\.md is stale: .*bars, cpu"):
        performance.main()
    monkeypatch.setattr(sys, "argv", words)
    performance.main()
    monkeypatch.setattr(sys, "argv", [*words, "--check"])
    performance.main()


def test_the_page_shows_the_results_that_are_there() -> None:
    found = performance.tables(performance.Results(performance.RESULTS))
    assert page.stale(performance.PAGE, found) == []
    text = performance.PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- table: {name} -->" in text for name in found)
