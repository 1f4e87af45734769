"""`make demo` and `make bench` do what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.style.tree import ROOT

DEMO_TIMEOUT_S = 240
BENCH_TIMEOUT_S = 600


def run(*arguments: str, timeout_s: float) -> Any:
    """Run a module of the tests that prints one JSON object."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--json"],
        check=False, stdin=subprocess.DEVNULL, capture_output=True, cwd=ROOT, timeout=timeout_s,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-8000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_demo() -> None:
    report = run("tests.demo", timeout_s=DEMO_TIMEOUT_S)
    assert report["ok"], report
    assert len(report["work"]) >= 5
    assert len(report["attacks"]) >= 18
    assert all(attack["held"] and attack["record"] for attack in report["attacks"])
    assert report["proof"]["noticed"]


@pytest.mark.slow
@pytest.mark.timeout(BENCH_TIMEOUT_S)
def test_bench() -> None:
    """Every figure of the issue is there; whether a goal is met depends on the machine."""
    figures = run("tests.bench", "--quick", timeout_s=BENCH_TIMEOUT_S)["figures"]
    names = " ".join(figure["name"] for figure in figures)
    for wanted in ("p50", "p99", "concurrency 1 ", "concurrency 2 ", "concurrency 8 ",
                   "concurrency 32 ", "recorded output", "idle", "grown", "loading all probes",
                   "the fence, a call", "the fence, a connect", "host's system call"):  # fmt: skip
        assert wanted in names + " ", wanted
    # What has no peer may be a difference of two measurements, or a goal of 0: only rates are some.
    compared = [figure for figure in figures if figure["bare"] is not None]
    assert all(figure["ours"] > 0 and figure["bare"] > 0 for figure in compared)
    assert all(figure["ours"] > 0 for figure in figures if figure["unit"] in ("MB/s", "1/s"))
    peers = " ".join(figure["name"] for figure in compared)
    for wanted in ("cold call, p50", "concurrency 1 ", "concurrency 32", "connect",
                   "host's system call", "download, tls"):  # fmt: skip
        assert wanted in peers, wanted
