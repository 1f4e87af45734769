"""Messages on their way to the daemon, in order, without ever waiting for it."""

from __future__ import annotations

import asyncio
import collections
import socket
from collections.abc import Callable

from supervisor.egress.control import Failed, Message, encode

WAITING_MAX = 16_384
"""Messages that a daemon which does not read may leave; beyond, the broker gives up."""

WAITING_MUCH = 1024
"""From here on nothing new is accepted: what is under way tells little."""


class OutboxFull(Exception):
    """The daemon has not read for long."""


class Outbox:
    """Writes to the control socket. `drained` is called when much waited, and no longer does."""

    def __init__(self, control: socket.socket, drained: Callable[[], None]) -> None:
        self._control = control
        self._drained = drained
        self._waiting: collections.deque[bytes] = collections.deque()
        self._loop = asyncio.get_running_loop()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def much(self) -> bool:
        """Say whether so much waits that nothing new should be begun."""
        return len(self._waiting) >= WAITING_MUCH

    def send(self, message: Message) -> None:
        """Send a message now, or as soon as the daemon reads.

        Raises:
            OutboxFull, OSError: it does not, or has gone: the broker must end.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise OutboxFull(f"{WAITING_MAX} messages wait for the daemon")
        self._waiting.append(encode(message))
        if len(self._waiting) == 1:
            self._write()

    async def empty(self) -> None:
        """Wait until all is sent."""
        await self._empty.wait()

    def last_word(self, reason: str) -> None:
        """Say why the broker ends, where that can be said at once.

        Raises:
            OSError: it cannot.
        """
        self._control.send(encode(Failed(reason=reason)))

    def _write(self) -> None:
        much = self.much
        while self._waiting:
            try:
                self._control.send(self._waiting[0])
            except BlockingIOError:
                if self._empty.is_set():
                    self._empty.clear()
                    self._loop.add_writer(self._control.fileno(), self._write)
                break
            self._waiting.popleft()
        if not self._waiting and not self._empty.is_set():
            self._loop.remove_writer(self._control.fileno())
            self._empty.set()
        if much and not self.much:
            self._drained()
