"""Watch sockets edge-triggered, through one epoll of our own that the event loop watches.

What is stuck costs no system call, and a reset is seen although nothing is read. Whoever is told
that a socket can be read, and cannot take it now, mutes it: else every packet would wake the loop.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

EVENTS_MAX = 64
"""Taken from epoll at once."""

MUTED = select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
EVENTS = MUTED | select.EPOLLIN
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP
WRITABLE = select.EPOLLOUT | select.EPOLLHUP
URGENT = select.EPOLLPRI
"""TCP's urgent data: splice(2) stops in front of it, and recv(2) leaves it out."""
URGENT_REASON = "urgent data, which is not carried"


class Watch:
    """Sockets by descriptor; each has who is told of its events."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[int], None]] = {}
        self._loop.add_reader(self._epoll.fileno(), self._poll)

    def add(self, fd: int, told: Callable[[int], None]) -> None:
        """Watch a descriptor: what it can do now is told at once."""
        self._epoll.register(fd, EVENTS)
        self._told[fd] = told

    def mute(self, fd: int) -> None:
        """Tell no more that there is something to read."""
        self._epoll.modify(fd, MUTED)

    def unmute(self, fd: int) -> None:
        """Tell it again, and at once where there is."""
        self._epoll.modify(fd, EVENTS)

    def drop(self, fd: int) -> None:
        """Watch a descriptor no more, where it was watched; it is still open."""
        if self._told.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Watch nothing any more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._told.clear()

    def _poll(self) -> None:
        for fd, events in self._epoll.poll(0, EVENTS_MAX):
            # What was told before in this batch may have ended it, and closed it.
            if (told := self._told.get(fd)) is not None:
                told(events)
