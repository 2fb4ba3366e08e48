"""Hostile inputs of seven kinds, by seed: each ends as documented, in time, in one line, and touches nothing else.

One of them alone: `pytest tests/fuzz -n 0 --fuzz-case NUMBER`.
"""

import json
import shutil
from pathlib import Path

import pytest
from fuzz_runner import Outcome, run_case, summary
from fuzz_world import World

from mixstill.files import write_json
from mixstill.train.device import machine, pick_device
from mixstill.train.source import commit

BATCHES, EACH = 30, 10


def run_cases(numbers: range, seed: int, world: World, folder: Path) -> list[Outcome]:
    outcomes = []
    for number in numbers:
        place = folder / f"case{number}"
        place.mkdir()
        outcomes.append(run_case(seed, number, world, place))
        shutil.rmtree(place)
    return outcomes


def option(config: pytest.Config, name: str) -> object:
    return config.getoption(name, default=None)  # there is none where the whole suite is run


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_hostile_input_ends_as_documented(batch: int, world: World, tmp_path: Path, pytestconfig) -> None:
    if option(pytestconfig, "--fuzz") is not None or option(pytestconfig, "--fuzz-case") is not None:
        pytest.skip("cases are asked for by number")
    seed = int(option(pytestconfig, "--fuzz-seed") or 0)
    outcomes = run_cases(range(batch * EACH, (batch + 1) * EACH), seed, world, tmp_path)
    faults = [str(outcome) for outcome in outcomes if outcome.fault]
    assert not faults, f"seed {seed}, " + "\n".join(faults)


def test_by_hand(world: World, tmp_path: Path, pytestconfig) -> None:
    count, alone = (option(pytestconfig, name) for name in ("--fuzz", "--fuzz-case"))
    if count is None and alone is None:
        pytest.skip("no --fuzz COUNT and no --fuzz-case NUMBER")
    seed = int(option(pytestconfig, "--fuzz-seed") or 0)
    numbers = range(int(count)) if alone is None else range(int(alone), int(alone) + 1)
    outcomes = run_cases(numbers, seed, world, tmp_path)
    found = {"seed": seed, **summary(outcomes), "machine": machine(pick_device("cpu")), "commit": commit()}
    if path := option(pytestconfig, "--fuzz-summary"):
        write_json(Path(str(path)).resolve(), found)
    for outcome in outcomes if alone is not None else []:
        print(f"{outcome}\n")
    faults = [str(outcome) for outcome in outcomes if outcome.fault]
    assert not faults, "\n".join([json.dumps(found["exit_codes"]), *faults])
