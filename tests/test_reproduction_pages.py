"""README and docs/reproduction.md show the tables that lie in results/."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
page = importlib.import_module("page")
reproduction = importlib.import_module("reproduction")


@pytest.mark.parametrize("path", reproduction.PAGES, ids=lambda path: path.name)
def test_the_pages_show_the_results(path) -> None:
    assert page.stale(path, reproduction.tables(ROOT / "results")) == []


def test_what_was_not_run_is_said(tmp_path) -> None:
    assert set(reproduction.tables(tmp_path).values()) == {"Not measured."}
