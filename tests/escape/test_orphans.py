"""Processes that outlive their parent do not outlive their call, nor hold it up."""

from __future__ import annotations

import os
import secrets
import signal
import time
from pathlib import Path

import pytest

from supervisor.call.outcome import Exited
from supervisor.linux import cgroup
from supervisor.sandbox.host import PARENT_CGROUP, instance_of
from tests.escape.arena import confined, on_host
from tests.support.daemon import Daemon

SLEEP_S = 600
"""How long an orphan would hold the call up."""


def _with(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if mark.encode() in command:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("way", ["double fork", "new session", "many", "stopped"])
def test_an_orphan_ends_with_its_call(daemon: Daemon, way: str) -> None:
    mark = f"stockade-orphan-{secrets.token_hex(8)}"
    began = time.monotonic()
    trial = confined(daemon, "orphans.py", mark, way, str(SLEEP_S))
    assert trial.call.outcome == Exited(code=0)
    assert any("orphan" in line for line in trial.lines), trial.lines
    assert time.monotonic() - began < SLEEP_S / 2
    assert _with(mark) == []
    parent = f"{PARENT_CGROUP}/{instance_of(daemon.state)}"
    assert cgroup.children(cgroup.detect(), parent) == set()


def test_it_works_on_the_host() -> None:
    mark = f"stockade-orphan-{secrets.token_hex(8)}"
    # Its output goes to a file: a pipe would be held open by the orphan, which is the point.
    done = on_host(
        "orphans.py", mark, "double fork", "20", inside=("sh", "-c", '"$@" > /dev/null 2>&1', "sh")
    )
    orphans = _with(mark)
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    assert done.returncode == 0
    assert len(orphans) == 1
