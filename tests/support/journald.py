"""A real systemd-journald of a test's own, with a /run of its own, too. Needs root."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = Path("/lib/systemd/systemd-journald")
START_S, READ_S, POLL_S = 30.0, 30.0, 0.02
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

SCRIPT = """
set -eu
mount -t tmpfs none /run
mkdir -p /run/systemd/journald.conf.d /run/log/journal
cat > /run/systemd/journald.conf.d/test.conf <<END
[Journal]
Storage=volatile
ReadKMsg=no
Audit=no
ForwardToSyslog=no
RateLimitIntervalSec=0
RuntimeMaxUse=2G
RuntimeKeepFree=1M
END
exec "$1"
"""


class Journald:
    """One that runs: `socket` is where it listens."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._run = Path(f"/proc/{pid}/root/run")
        self.socket = self._run / "systemd/journal/socket"

    def entries(self, count: int) -> list[dict[str, Any]]:
        """Give the entries of Stockade's, once there are so many."""
        until = time.monotonic() + READ_S
        while True:
            found = self._read()
            if len(found) >= count:
                return found
            assert time.monotonic() < until, found
            time.sleep(POLL_S)

    def _read(self) -> list[dict[str, Any]]:
        answer = subprocess.run(
            ["journalctl", "-D", self._run / "log/journal", "-o", "json", "--all",
             "SYSLOG_IDENTIFIER=stockade"],
            check=True, capture_output=True, env=ENVIRONMENT,
        )  # fmt: skip
        return [json.loads(line) for line in answer.stdout.splitlines()]


@contextlib.contextmanager
def journald() -> Iterator[Journald]:
    """Have one that takes what it is sent and reads nothing of the kernel's."""
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", PROGRAM],
        env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    made = Journald(process.pid)
    try:
        until = time.monotonic() + START_S
        own = Path("/run").stat().st_dev
        while made._run.stat().st_dev == own or not made.socket.exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(POLL_S)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
