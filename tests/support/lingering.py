"""Sockets whose last close takes a minute."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator

LINGER_S = 60


@contextlib.contextmanager
def lingering() -> Iterator[tuple[int, Callable[[], None]]]:
    """Give a socket of TCP with more in it than its peer takes, and what lets go of our copy of it:
    whoever has the last one then waits. In the end the peer goes, and with it every such wait."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    fd = sender.detach()
    closed = False

    def let_go() -> None:
        nonlocal closed
        closed = True
        os.close(fd)

    try:
        with socket.socket(fileno=os.dup(fd)) as end:
            end.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while end.send(bytes(1 << 16)):
                    pass
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
        yield fd, let_go
    finally:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # A reset.
        if not closed:
            os.close(fd)
