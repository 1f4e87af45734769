"""The interfaces of a network namespace, and the listeners that are put there."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.linux.netns import (
    CONGESTION_CONTROL,
    UNPACED,
    Listeners,
    interfaces,
    open_listeners,
)


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


@contextlib.contextmanager
def opened(pid: int) -> Iterator[Listeners]:
    listeners = open_listeners(pid, door_port=1, dns_port=53, backlog=16)
    try:
        yield listeners
    finally:
        listeners.close()


@pytest.fixture
def up() -> Iterator[int]:
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            yield process.pid
        finally:
            process.kill()


@pytest.mark.root
def test_tcp_is_not_paced_in_there_and_nothing_else_changes(up: int) -> None:
    def theirs() -> str:
        command = ["nsenter", f"--net=/proc/{up}/ns/net", "cat", CONGESTION_CONTROL]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout

    ours = CONGESTION_CONTROL.read_text()
    assert theirs() == ours
    with opened(up):
        assert theirs() == f"{UNPACED}\n"
    assert CONGESTION_CONTROL.read_text() == ours


SQUAT = """
import socket, sys
sock = socket.socket(int(sys.argv[1]), int(sys.argv[2]))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind((sys.argv[3], int(sys.argv[4])))
if int(sys.argv[2]) == socket.SOCK_STREAM:
    sock.listen()
"""


@pytest.mark.root
def test_listeners_are_in_there_and_nobody_else_gets_their_ports(up: int) -> None:
    def squat(one: socket.socket) -> int:
        address, port = one.getsockname()[:2]
        command = ["nsenter", f"--net=/proc/{up}/ns/net", sys.executable, "-c", SQUAT]
        arguments = [str(int(one.family)), str(int(one.type)), address, str(port)]
        return subprocess.run([*command, *arguments], stderr=subprocess.DEVNULL).returncode

    with opened(up) as listeners:
        names = sorted((one.getsockname()[:2], int(one.type)) for one in listeners.all())
        assert names == [
            ((address, port), kind)
            for address in ("127.0.0.1", "::1")
            for port, kind in ((1, 1), (53, 1), (53, 2))
        ]
        assert [squat(one) for one in listeners.all()] == [1] * 6
        here = Path("/proc/thread-self/ns/net").readlink()
        assert here == Path("/proc/self/ns/net").readlink()
        with pytest.raises(OSError, match="in use"), opened(up):
            pass
        control = socket.socket()
    with control:
        control.bind(("127.0.0.1", 0))
        assert squat(control) == 0  # the number is free in there


@pytest.mark.root
def test_no_listeners_where_the_namespace_is_gone(up: int) -> None:
    with pytest.raises(FileNotFoundError):
        open_listeners(2**22 - 1, door_port=1, dns_port=53, backlog=16)
