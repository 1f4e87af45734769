"""Orders that are none are answered, and the zygote goes on; without a daemon it ends.

What it forks: tests/unit/egress/test_client.py."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.egress import zygote
from supervisor.egress.confine import Confinement
from supervisor.egress.control import Failed, decode
from supervisor.linux.fds import make_pipe
from supervisor.linux.seccomp import Filter


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[socket.socket]:
    """Give the daemon's end of a zygote that runs in a thread."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=zygote.serve, args=(theirs, tmp_path))
    thread.start()
    ours.settimeout(20)
    yield ours
    ours.close()
    thread.join(20)
    assert not thread.is_alive()
    theirs.close()


@pytest.mark.parametrize(
    "order",
    [
        b"nonsense", b"[]", b"{}", b'{"uid": 0, "fds": 0}', b'{"uid": -5, "fds": 0}',
        b'{"uid": "x", "fds": 0}', b'{"uid": 5, "fds": 1}', b'{"uid": 5, "fds": 0, "flows_max": 0}',
        b'{"uid": 5, "fds": 0, "flows_max": 10000000}',
    ],
)  # fmt: skip
def test_an_order_that_is_none_is_answered(daemon: socket.socket, order: bytes) -> None:
    for _ in range(2):
        daemon.send(order)
        assert "error" in json.loads(daemon.recv(4096))


def test_descriptors_of_a_bad_order_are_closed(daemon: socket.socket) -> None:
    pipe = make_pipe()
    socket.send_fds(daemon, [b'{"uid": 0, "fds": 1}'], [pipe.write])
    os.close(pipe.write)
    assert "error" in json.loads(daemon.recv(4096))
    assert os.read(pipe.read, 1) == b""
    os.close(pipe.read)


def test_it_ends_with_the_daemon(daemon: socket.socket) -> None:
    daemon.shutdown(socket.SHUT_RDWR)


def test_a_child_that_cannot_be_confined_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(_: list[int]) -> None:
        raise OSError("no such wall")

    monkeypatch.setattr(zygote, "keep", broken)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    to = Confinement(uid=5, files=10, root=tmp_path, filter=Filter({}), parent=1)
    pid = os.fork()
    if pid == 0:
        zygote._child(to, [theirs.fileno()])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == zygote.NOTHING_LEFT
    ours.settimeout(20)
    assert decode(ours.recv(4096)) == Failed(reason="OSError: no such wall")
    ours.close()
    theirs.close()
