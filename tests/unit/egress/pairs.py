"""Pairs of connected TCP sockets on the loopback, and an event loop's worth of waiting."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from supervisor.egress.relay import prepare

WAIT_S = 20.0


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Give two ends of a connection: a test's, and a prepared one of the broker's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    theirs.setblocking(False)
    prepare(ours)
    return theirs, ours


async def until(done: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(WAIT_S):
        while not done():
            await asyncio.sleep(0.002)


async def send(end: socket.socket, data: bytes) -> None:
    async with asyncio.timeout(WAIT_S):
        await asyncio.get_running_loop().sock_sendall(end, data)


async def receive(end: socket.socket, count: int = 1 << 30) -> bytes:
    """Read so many bytes, or to the end."""
    parts: list[bytes] = []
    async with asyncio.timeout(WAIT_S):
        while count and (
            part := await asyncio.get_running_loop().sock_recv(end, min(count, 1 << 20))
        ):
            parts.append(part)
            count -= len(part)
    return b"".join(parts)
