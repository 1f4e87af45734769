"""Both ends of a passage: what waits at each of them, and sending what can be sent at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass, field

from supervisor.egress.actions import Action
from supervisor.egress.relay import SPLICE_FLAGS
from supervisor.linux.fds import Pipe

READ_BYTES = 64 * 1024
"""Taken at once to be looked at."""

FAREWELL_S = 2.0
FAREWELL_BYTES = 1 << 20
"""What a client may still send when it has been told no: it is read, so that the answer arrives."""


@dataclass(slots=True, eq=False)
class End:
    """One of both sockets: what may be spliced from it, who sends to it, and who waits for it.

    `lock` is for who sends to it, of whom there are `senders`; `owed`, or what `pipe` still holds,
    goes before all that they send. What was read from it while its task waited has left `undone`,
    or it has `ended`. What could not be sent to it, because it has gone, is `lost`.
    """

    socket: socket.socket
    lock: asyncio.Lock
    senders: int = 0
    owed: memoryview = field(default_factory=lambda: memoryview(b""))
    pipe: Pipe | None = None
    held: int = 0
    undone: list[Action] = field(default_factory=list)
    ended: bool = False
    lost: OSError | None = None
    spliced: int = 0
    muted: bool = False
    reads: asyncio.Future[None] | None = None
    writes: asyncio.Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Say whether nothing can be sent to it before something else."""
        return bool(self.senders or self.owed or self.held)


def send_now(sink: End, data: memoryview, *, last: bool = False) -> int:
    """Send until all is sent or the kernel has said that it takes no more: only then it tells when
    it does. What is `last` counts as sent where nobody is there to hear it."""
    sent = 0
    try:
        with contextlib.suppress(BlockingIOError):
            while sent < len(data):
                sent += sink.socket.send(data[sent:])
    except OSError as error:
        if last and isinstance(error, (BrokenPipeError, ConnectionResetError)):
            return len(data)
        sink.lost = error
        raise
    return sent


def splice_now(source: int, sink: int, count: int) -> int:
    """The same with what a pipe holds."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < count:
            sent += os.splice(source, sink, count - sent, flags=SPLICE_FLAGS)
    return sent


async def hear_out(client: End) -> None:
    """Let a client that was told no read why: a reset would outrun the answer."""
    left = FAREWELL_BYTES
    with contextlib.suppress(OSError, TimeoutError):
        client.socket.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(FAREWELL_S):
            while left > 0 and (
                data := await asyncio.get_running_loop().sock_recv(client.socket, READ_BYTES)
            ):
                left -= len(data)


def wake(waits: asyncio.Future[None]) -> None:
    """Let who waits go on."""
    if not waits.done():
        waits.set_result(None)
