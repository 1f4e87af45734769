"""A skip in continuous integration fails the run, unless its reason is on the list."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.style.tree import ROOT

ALLOWED = "the kernel has only cgroup v2: nothing to compare"
CASES = [
    ("1", "pytest.skip('no time today')", 1),
    ("1", f"pytest.skip({ALLOWED!r})", 0),
    ("1", "pytest.xfail('later')", 1),
    ("1", "pass", 0),
    ("0", "pytest.skip('no time today')", 0),
]


@pytest.mark.parametrize(("no_skip", "body", "code"), CASES)
def test_exit_code(tmp_path: Path, no_skip: str, body: str, code: int) -> None:
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(f"import pytest\n\n\ndef test_it():\n    {body}\n")
    done = _pytest(tmp_path, no_skip)
    assert done.returncode == code, done.stdout
    assert ("skipped, and may not be" in done.stdout) == bool(code)


def test_a_module_that_skips_itself(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    module = "import pytest\n\npytest.importorskip('no_such_module')\n"
    (tmp_path / "test_it.py").write_text(module)
    (tmp_path / "test_other.py").write_text("def test_it():\n    pass\n")
    assert _pytest(tmp_path, "1").returncode == 1


def _pytest(folder: Path, no_skip: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", folder],
        check=False, capture_output=True, text=True, cwd=folder,
        env={**environment, "STOCKADE_NO_SKIP": no_skip, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
