"""What the tests of the reproduction share: the CIFAR-100 table at its micro scale, and what a run leaves behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixstill.files import write_json
from mixstill.reproduction.cifar100 import CIFAR100
from mixstill.reproduction.plan import Plan

SUMMARY = {
    "complete": True,
    "epochs": 4,
    "top1": 50.0,
    "top5": 80.0,
    "loss": 2.0,
    "parameters": 160_000,
    "backbone_parameters": 160_000,
    "seconds": 120.0,
    "machine": {"device": "made up"},
    "commit": "abc",
}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The table at its micro scale, in a folder that is not there yet."""
    return Plan(CIFAR100, "micro", tmp_path / "table", {})


@pytest.fixture(scope="session")
def leave() -> Callable[..., None]:
    """Writes the summary of a run into its place, with fields over the usual ones."""

    def write(path: Path, **fields: Any) -> None:
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "summary.json", SUMMARY | fields)

    return write
