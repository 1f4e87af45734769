"""An end of a passage: when it is busy, and what can be sent to it at once."""

from __future__ import annotations

import asyncio
import os
import socket

from supervisor.egress.ends import End, send_now, splice_now
from supervisor.linux.fds import make_pipe
from tests.unit.egress.pairs import tcp_pair

MANY = bytes(1 << 20)


def test_an_end_is_busy_while_something_goes_first() -> None:
    near, far = tcp_pair()
    with near, far:
        end = End(near, lock=asyncio.Lock())
        assert not end.busy
        for name, value in (("senders", 1), ("owed", memoryview(b"a")), ("held", 1)):
            other = End(near, lock=asyncio.Lock())
            setattr(other, name, value)
            assert other.busy


def read_all(far: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += far.recv(1 << 20)
    return data


def test_what_can_be_sent_at_once_is_sent_and_counted() -> None:
    near, far = tcp_pair()
    with near, far:
        near.setblocking(False)
        far.setblocking(True)
        assert send_now(near, memoryview(b"abc")) == 3
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = send_now(near, memoryview(MANY * 16))
        assert 0 < sent < len(MANY) * 16
        assert len(read_all(far, 3 + sent)) == 3 + sent


def test_what_a_pipe_holds_is_spliced_and_counted() -> None:
    near, far = tcp_pair()
    pipe = make_pipe(1 << 20)
    try:
        with near, far:
            near.setblocking(False)
            far.setblocking(True)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            total = 0
            while True:
                os.set_blocking(pipe.write, False)
                try:
                    held = os.write(pipe.write, MANY)
                except BlockingIOError:
                    break
                sent = splice_now(pipe.read, near.fileno(), held)
                total += sent
                if sent < held:
                    break
            assert splice_now(pipe.read, near.fileno(), 1) == 0
            assert len(read_all(far, total)) == total > 0
    finally:
        os.close(pipe.read)
        os.close(pipe.write)
