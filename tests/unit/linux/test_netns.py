"""The interfaces of a network namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.linux.netns import interfaces


@pytest.fixture
def alone() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["unshare", "--net", "sleep", "600"]) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_apart(process: subprocess.Popen[bytes]) -> None:
    theirs, ours = Path(f"/proc/{process.pid}/ns/net"), Path("/proc/self/ns/net")
    while theirs.readlink() == ours.readlink():
        assert process.poll() is None


@pytest.mark.root
def test_only_loopback(alone: subprocess.Popen[bytes]) -> None:
    wait_until_apart(alone)
    assert interfaces(alone.pid) == ["lo"]


def test_own_interfaces() -> None:
    assert "lo" in interfaces(os.getpid())
