"""`make test` runs two lanes: each test in one of them, one summary, one interruption for both."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lanes import COMPUTING, counted, is_one, lanes, run, worse
from tests.style.tree import ROOT

WAIT_S = 60.0
PASSES = "def test_it():\n    pass\n"
FAILS = "def test_it():\n    assert not 'the other lane'\n"
WAITS = """import pathlib, threading, pytest

@pytest.fixture
def place():
    here = pathlib.Path(__file__)
    here.with_name("begun").touch()
    yield
    here.with_name("cleaned").touch()

def test_it(place):
    threading.Event().wait()
"""


def tree(top: Path, computing: str, other: str) -> Path:
    """Make a tree with a test in a folder of each lane; give its folder of tests."""
    for folder in (*COMPUTING, "tests/system"):
        (top / folder).mkdir(parents=True)
    (top / "tests/unit/test_one.py").write_text(computing)
    (top / "tests/system/test_two.py").write_text(other)
    return top / "tests"


@pytest.mark.parametrize(
    ("computing", "other", "said", "code"),
    [
        (FAILS, PASSES, "1 failed, 1 passed", 1),
        ("", PASSES, "1 passed", 0),
    ],
)
def test_both_are_run_and_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    computing: str,
    other: str,
    said: str,
    code: int,
) -> None:
    tree(tmp_path, computing, other)
    monkeypatch.chdir(tmp_path)
    shown = io.BytesIO()
    assert run(["-rN"], lanes(), shown) == code
    lines = shown.getvalue().decode().splitlines()
    assert lines[-1].startswith(f"=== {said} in "), lines
    begins = [n for n, line in enumerate(lines) if "test session starts" in line]
    assert len(begins) == 2
    # Not mixed: nothing of the second before the first's summary.
    ends = [n for n, line in enumerate(lines) if line.startswith("=") and " in " in line]
    assert begins[0] < ends[0] < begins[1] < ends[1]


def test_an_interruption_ends_both_and_lets_them_clean_up(tmp_path: Path) -> None:
    folder = tree(tmp_path, WAITS, WAITS)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.lanes"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        _wait_for(folder, "begun", process)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2, said
    assert said.count("KeyboardInterrupt") >= 2
    assert len(list(folder.glob("*/cleaned"))) == 2


def _wait_for(folder: Path, name: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while len(list(folder.glob(f"*/{name}"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_no_test_is_in_neither_lane() -> None:
    first, second = lanes()
    folders = {f"tests/{path.relative_to(ROOT / 'tests').parts[0]}" for path in _tests()}
    assert set(first) < folders
    assert second == ["tests", *(f"--ignore={folder}" for folder in first)]


def _tests() -> list[Path]:
    return list((ROOT / "tests").glob("*/**/test_*.py"))


@pytest.mark.parametrize(
    ("codes", "code"),
    [((0, 0), 0), ((0, 5), 0), ((5, 1), 1), ((2, 1), 2), ((5, 5), 5), ((0, 137), 137)],
)
def test_the_worse_code_counts(codes: tuple[int, int], code: int) -> None:
    assert worse(codes) == code


@pytest.mark.parametrize(
    ("arguments", "one"),
    [
        ([], False),
        (["-k", "journal", "-m", "not vm", "--durations=5"], False),
        (["tests/style"], True),
        (["tests/style/test_lanes.py::test_it"], True),
        (["-k", "journal", "-x"], True),
        (["--junitxml=out.xml"], True),
    ],
)
def test_what_is_for_one_process_gets_one(
    arguments: list[str], one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert is_one(arguments) is one


@pytest.mark.parametrize(
    ("output", "counts"),
    [
        ("== 12 passed, 1 skipped in 3.20s ==", {"passed": 12, "skipped": 1}),
        ("1 failed, 2 passed, 1 error in 0.1s", {"failed": 1, "passed": 2, "error": 1}),
        ("= 3 errors in 75.00s (0:01:15) =", {"error": 3}),
        ("== 1 passed, 3 warnings in 1.00s ==", {"passed": 1}),
        ("a test says: 12 passed in 3 s\nINTERNALERROR", {}),
    ],
)
def test_counts_are_of_the_last_line(output: str, counts: dict[str, int]) -> None:
    assert counted(output) == counts
