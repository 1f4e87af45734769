"""Prometheus's own tool, which `.ci/setup` unpacks: it checks names of metrics, and runs tests of
rules. No server runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

PROGRAM = Path("/usr/local/lib/stockade-tests/prometheus/promtool")


def promtool(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run it with `text` as its standard input."""
    return subprocess.run(
        [PROGRAM, *arguments],
        input=text, check=False, capture_output=True, text=True, timeout=120,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
