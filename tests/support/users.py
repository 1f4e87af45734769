"""Be another user of a daemon: its command line, and its client in a program of one's own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.support.daemon import STOCKADE, Daemon

NOBODY, NOGROUP = 65534, 65534


def run_as(daemon: Daemon, uid: int, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run `stockade ARGUMENTS` as a user; output is captured, no exit code fails."""
    return _run(daemon, uid, [str(STOCKADE), *arguments])


def python_as(daemon: Daemon, uid: int, script: str, *arguments: str) -> bytes:
    """Run a Python program as a user, with the daemon's address and `arguments`; give what it
    says."""
    done = _run(daemon, uid, [sys.executable, "-c", script, daemon.address, *arguments])
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def callers(**little: Any) -> dict[str, Any]:
    """Give a configuration with an owner, root, and a `little` caller, nobody."""
    return {
        "callers": [
            {"name": "owner", "uid": 0, "profiles": ["*"], "calls": "all", "audit": "all"},
            {"name": "little", "uid": NOBODY, "profiles": ["base"], **little},
        ],
        "socket": {"group": "nogroup", "mode": "0660"},
    }


def _run(daemon: Daemon, uid: int, command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        check=False, capture_output=True, timeout=60, user=uid, group=NOGROUP, extra_groups=[],
        env={**os.environ, "STOCKADE_ADDR": daemon.address}, cwd="/",
    )  # fmt: skip
