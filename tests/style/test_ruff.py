"""ruff finds nothing, and would change nothing."""

from __future__ import annotations

import sys

from tests.style.tree import run


def test_lint() -> None:
    problems = run(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise")
    assert not problems, problems


def test_format() -> None:
    problems = run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check")
    assert not problems, problems
