"""The search for what a daemon leaves behind finds something: else it would prove nothing."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.linux import cgroup
from tests.support.daemon import running_daemon
from tests.support.following import is_started, until
from tests.support.leftovers import Footprint, namespaces

PARENT = "stockade-leftovers-test"


@pytest.fixture
def footprint(tmp_path: Path) -> Footprint:
    return Footprint(folders=(tmp_path,), cgroup=PARENT)


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that says when it is ready, and kill it in the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def test_nothing_is_left_of_nothing(footprint: Footprint) -> None:
    assert footprint.leftovers() == []


def test_a_process_that_names_a_folder(footprint: Footprint, tmp_path: Path) -> None:
    with running("sh", "-c", "echo ready; read line", tmp_path) as process:
        assert any(f"process {process.pid}" in found for found in footprint.leftovers())
    assert footprint.leftovers() == []


def test_a_mount_in_another_namespace(footprint: Footprint, tmp_path: Path) -> None:
    script = f"mount -t tmpfs none {tmp_path} && exec sh -c 'echo ready; read line'"
    with running("unshare", "--mount", "sh", "-c", script):
        assert any(found.startswith("mount") for found in footprint.leftovers())
    assert footprint.leftovers() == []


def test_a_process_in_a_namespace_of_the_daemon(tmp_path: Path) -> None:
    footprint = Footprint(folders=(), cgroup=PARENT)
    with running("unshare", "--net", "sh", "-c", "echo ready; read line") as process:
        theirs = namespaces(process.pid)
        assert {name.split(":")[0] for name in theirs} == {"net"}
        found = footprint.with_namespaces(theirs).leftovers()
        assert any(f"process {process.pid}" in line for line in found)
    assert footprint.with_namespaces(theirs).leftovers() == []


def test_a_cgroup(footprint: Footprint) -> None:
    top = cgroup.detect().unified / PARENT
    (top / "call").mkdir(parents=True)
    try:
        assert footprint.leftovers() == [f"cgroup {top}", f"cgroup {top / 'call'}"]
    finally:
        (top / "call").rmdir()
        top.rmdir()
    assert footprint.leftovers() == []


def test_a_test_that_fails_over_a_killed_daemon_leaves_nothing() -> None:
    """Sandboxes, cgroups, and the file system with the pins, which outlive their daemon."""
    with contextlib.suppress(ZeroDivisionError), running_daemon() as daemon:
        # A runtime that is still at work goes on without its daemon, and makes cgroups later on.
        until(daemon.client.execute(["sleep", "600"], profile="base"), is_started)
        daemon.kill()
        left = "\n".join(daemon.leftovers())
        assert "cgroup" in left
        assert "mount" in left
        raise ZeroDivisionError
    assert daemon.leftovers() == []
    assert not daemon.runtime.exists()
