"""Which commit runs: what git says of the checkout, and nothing where there is none."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixstill.train import source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A folder with a `.git` that the module lies in, as it would in a checkout."""
    (tmp_path / ".git").mkdir()
    monkeypatch.delenv("MIXSTILL_COMMIT", raising=False)
    monkeypatch.setattr(source, "__file__", str(tmp_path / "src" / "mixstill" / "train" / "source.py"))
    return tmp_path


@pytest.fixture
def git(monkeypatch) -> list[list[str]]:
    """A git that always gives one commit; what it was called with."""
    calls = []

    def run(words, **_):
        calls.append(words)
        return SimpleNamespace(stdout=f"{COMMIT}-dirty\n")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_it_is_what_git_says_of_the_checkout(checkout, git) -> None:
    assert source.commit.__wrapped__() == f"{COMMIT}-dirty"
    ((*words,),) = git
    assert words[:4] == ["git", "-C", str(checkout), "describe"]
    assert {"--always", "--dirty", "--abbrev=40"} <= set(words)


def test_a_copy_without_history_is_told_its_commit(checkout, git, monkeypatch) -> None:
    monkeypatch.setenv("MIXSTILL_COMMIT", "told")
    assert source.commit.__wrapped__() == "told"
    assert git == []


def test_outside_a_checkout_there_is_none_and_git_is_not_asked(checkout, git) -> None:
    (checkout / ".git").rmdir()
    assert source.commit.__wrapped__() is None
    assert git == []


def test_a_checkout_that_git_cannot_read_has_none(checkout, monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=""))
    assert source.commit.__wrapped__() is None


def test_without_git_there_is_none(checkout, monkeypatch) -> None:
    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert source.commit.__wrapped__() is None


def test_here_it_is_a_whole_commit_or_none(monkeypatch) -> None:
    monkeypatch.delenv("MIXSTILL_COMMIT", raising=False)
    found = source.commit.__wrapped__()
    assert found is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found)
