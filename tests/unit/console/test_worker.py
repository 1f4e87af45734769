"""The process of the console: no rights, no network, and an end with its daemon."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROBE = """
import os, socket, sys
from pathlib import Path
from supervisor.console.worker import Order, confine
order = Order(uid=int(sys.argv[1]), url="", parent=int(sys.argv[2]))
with socket.create_server(("127.0.0.1", 0)) as listener:
    confine(order)
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\\t", 1) for line in lines)
    print(status["Uid"].split(), status["Groups"].split(), status["NoNewPrivs"], status["CapEff"])
    for attempt in (
        lambda: os.listdir("/proc/self/fd") and Path("/etc/shadow").read_text(),
        lambda: socket.create_connection(listener.getsockname()),
        lambda: os.setuid(0),
        lambda: os.kill(1, 0),
    ):
        try:
            attempt()
            print("done")
        except OSError as error:
            print(error.strerror)
    print([name for _, name in socket.if_nameindex()])
"""


def probe(uid: int, parent: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROBE, str(uid), str(parent)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)


@pytest.mark.root
def test_it_has_given_up_all_rights() -> None:
    done = probe(12345, os.getpid())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['12345', '12345', '12345', '12345'] [] 1 0000000000000000",
        "Permission denied",
        "Network is unreachable",
        "Operation not permitted",
        "Operation not permitted",
        "['lo']",
    ]


@pytest.mark.root
def test_it_does_not_serve_as_root_or_without_its_daemon() -> None:
    assert "PermissionError" in probe(0, os.getpid()).stderr
    assert "ProcessLookupError" in probe(12345, 1).stderr
