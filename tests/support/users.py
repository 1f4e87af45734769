"""Be another user of a daemon: its command line, and its client in a program of one's own.

`setpriv` becomes the user, not subprocess itself: that has to fork then, and in a process with
gRPC's threads its handlers of a fork abort the child now and then (grpc/grpc issue 43055). Without,
subprocess uses vfork(2), which calls none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.support.daemon import STOCKADE, Daemon

NOBODY, NOGROUP = 65534, 65534


def become(uid: int, group: int = NOGROUP) -> list[str]:
    """Give what to put before a command that another user shall run."""
    return ["setpriv", f"--reuid={uid}", f"--regid={group}", "--clear-groups", "--"]


def run_as(
    daemon: Daemon, uid: int, *arguments: str, group: int = NOGROUP
) -> subprocess.CompletedProcess[bytes]:
    """Run `stockade ARGUMENTS` as a user; output is captured, no exit code fails."""
    return _run(daemon, [*become(uid, group), str(STOCKADE), *arguments])


def python_as(daemon: Daemon, uid: int, script: str, *arguments: str) -> bytes:
    """Run a Python program as a user, with the daemon's address and `arguments`; give what it
    says."""
    done = _run(daemon, [*become(uid), sys.executable, "-c", script, daemon.address, *arguments])
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


def _run(daemon: Daemon, command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        check=False, capture_output=True, timeout=60, cwd="/",
        env={**os.environ, "STOCKADE_ADDR": daemon.address},
    )  # fmt: skip
