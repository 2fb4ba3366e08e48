"""The options of the fuzz: `pytest tests/fuzz -n 0 --fuzz 2000 --fuzz-summary results/fuzz.json`."""

from pathlib import Path

import pytest
from fuzz_world import World, build_world


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz")
    group.addoption("--fuzz", type=int, default=None, help="cases to run, in one test [300, in 30]")
    group.addoption("--fuzz-seed", type=int, default=0, help="the seed of all cases")
    group.addoption("--fuzz-case", type=int, default=None, help="run this case alone")
    group.addoption("--fuzz-summary", type=Path, default=None, help="file for the summary of --fuzz")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The whole things that cases damage copies of."""
    return build_world(tmp_path_factory.mktemp("world"))
