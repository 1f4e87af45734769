"""Accept a sandbox's connections: as many at a time as there may be, and no faster than is fair.

What is over either bound waits in the listener's backlog, and beyond that with its client: a flood
costs its own call time, and others nothing.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence

from supervisor.egress.origins import Peer

NEW_PER_S = 300.0
"""New connections of one call that are taken in a second. Each costs its broker 1 to 2 ms, and the
daemon an entry: six calls that connect as fast as they can make another one take 0.2 s, not 0.1."""

BURST = 600.0
"""Of them that may come at once."""

ACCEPT_MAX = 32
"""Taken in a row before other flows get their turn."""

SHORT_S = 0.1
"""How long nothing is accepted when the host has no descriptor or memory left."""

PASSING = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR})
"""Errors of accept(2) that are of one connection."""

SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Pace:
    """A bucket of `burst` tokens that fills at `per_s`."""

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._tokens, self._at = burst, now

    def take(self, now: float) -> float:
        """Take a token; give 0.0, or after how many seconds there will be one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._per_s


class Door:
    """The listeners of a call. `take` gets each accepted socket; `room` says whether one more may
    be taken now, and `look` is to be called when there may be again."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        take: Callable[[socket.socket, Peer], None],
        room: Callable[[], bool],
        *,
        per_s: float = NEW_PER_S,
        burst: float = BURST,
    ) -> None:
        self._listeners = list(listeners)
        self._take = take
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._pace = Pace(per_s, burst, self._loop.time())
        self._later: asyncio.TimerHandle | None = None
        self._watching = False
        self._closed = False
        for listener in self._listeners:
            listener.setblocking(False)

    def look(self) -> None:
        """Accept from now on, as far as there is room."""
        if self._closed or self._watching or self._later is not None or not self._room():
            return
        self._watching = True
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def close(self) -> None:
        """Close the listeners: whoever comes is refused by the kernel."""
        self._rest()
        self._closed = True
        if self._later is not None:
            self._later.cancel()
        for listener in self._listeners:
            listener.close()

    def _rest(self, again_in_s: float = 0.0) -> None:
        if self._watching:
            self._watching = False
            for listener in self._listeners:
                self._loop.remove_reader(listener.fileno())
        if again_in_s and self._later is None:
            self._later = self._loop.call_later(again_in_s, self._again)

    def _again(self) -> None:
        self._later = None
        self.look()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_MAX):
            if not self._watching:
                return
            if not self._room():
                self._rest()
                return
            if wait_s := self._pace.take(self._loop.time()):
                self._rest(wait_s)
                return
            try:
                client, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in PASSING:
                    continue
                if error.errno in SHORTAGE:
                    self._rest(SHORT_S)
                    return
                raise
            self._take(client, peer)
