"""mypy --strict finds nothing in the package, nor in what the tests share."""

from __future__ import annotations

import sys

from tests.style.tree import run


def test_package() -> None:
    problems = run(sys.executable, "-m", "mypy", "--no-error-summary")
    assert not problems, problems


def test_tools_of_the_tests() -> None:
    problems = run(
        sys.executable, "-m", "mypy", "--no-error-summary",
        "--cache-dir", ".mypy_cache/tests", "--explicit-package-bases",
        "--exclude", "tests/demo/(attacks|tools)/",
        "tests/support", "tests/demo", "tests/bench", "tests/fuzz",
    )  # fmt: skip
    assert not problems, problems
