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


@dataclass(slots=True, eq=False)
class End:
    """One of both sockets: what may be spliced from it, who sends to it, and who waits for it.

    `lock` is for who sends to it, of whom there are `senders`; `owed`, or what `pipe` still holds,
    goes before all that they send. What was read from it while its task waited has left `undone`,
    or it has `ended`.
    """

    socket: socket.socket
    lock: asyncio.Lock
    senders: int = 0
    owed: memoryview = field(default_factory=lambda: memoryview(b""))
    pipe: Pipe | None = None
    held: int = 0
    undone: list[Action] = field(default_factory=list)
    ended: bool = False
    spliced: int = 0
    muted: bool = False
    reads: asyncio.Future[None] | None = None
    writes: asyncio.Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Say whether nothing can be sent to it before something else."""
        return bool(self.senders or self.owed or self.held)


def send_now(sink: socket.socket, data: memoryview) -> int:
    """Send until all is sent or the kernel has said that it takes no more: only then it tells when
    it does."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(data):
            sent += sink.send(data[sent:])
    return sent


def splice_now(source: int, sink: int, count: int) -> int:
    """The same with what a pipe holds."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < count:
            sent += os.splice(source, sink, count - sent, flags=SPLICE_FLAGS)
    return sent
