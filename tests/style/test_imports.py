"""Rooms only look down: the contracts in pyproject.toml."""

from __future__ import annotations

from tests.style.tree import SCRIPTS, run


def test_contracts() -> None:
    problems = run(SCRIPTS / "lint-imports", "--no-cache")
    assert not problems, problems
