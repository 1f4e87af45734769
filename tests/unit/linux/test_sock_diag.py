"""Whose connection it is, as the kernel knows it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from supervisor.linux.sock_diag import open_diag, uid_of

CLIENT = """
import os, socket, sys
os.setresuid(*3 * (int(sys.argv[2]),))
connection = socket.create_connection((sys.argv[3], int(sys.argv[1])))
sys.stdin.read(1)
"""
LOOPBACK = ["127.0.0.1", "::1"]


@contextlib.contextmanager
def accepted(address: str, uid: int) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        port = str(listener.getsockname()[1])
        argv = [sys.executable, "-c", CLIENT, port, str(uid), address]
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as client:
            connection, _ = listener.accept()
            with connection:
                yield connection, client
            client.kill()


@pytest.mark.root
@pytest.mark.parametrize("address", LOOPBACK)
@pytest.mark.parametrize("uid", [0, 12345])
def test_it_is_the_user_of_the_other_end(address: str, uid: int) -> None:
    with accepted(address, uid) as (connection, _), open_diag() as diag:
        own, peer = connection.getsockname()[:2], connection.getpeername()[:2]
        assert uid_of(diag, own, peer) == uid


@pytest.mark.root
def test_of_one_that_closes_nobody_is_named() -> None:
    """The kernel would say 0, and that is root."""
    with accepted("127.0.0.1", 12345) as (connection, client), open_diag() as diag:
        own, peer = connection.getsockname(), connection.getpeername()
        client.kill()
        client.wait()
        assert connection.recv(1) == b""
        with pytest.raises(OSError, match="sock_diag"):
            uid_of(diag, own, peer)


def test_a_connection_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, open_diag() as diag:
        with pytest.raises(FileNotFoundError, match="sock_diag"):
            uid_of(diag, listener.getsockname(), ("127.0.0.1", 1))
        assert os.get_inheritable(diag.fileno()) is False
