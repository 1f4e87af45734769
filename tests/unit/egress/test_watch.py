"""Sockets are watched edge-triggered: what is there is told once, and nothing while it is muted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from select import EPOLLERR, EPOLLIN, EPOLLRDHUP

import pytest

from supervisor.egress.watch import READABLE, WRITABLE, Watch
from tests.unit.egress.pairs import tcp_pair, until

TURNS = 20
"""Of the event loop, in which what is told is told."""


def watched(scenario: Callable[[Watch, socket.socket, socket.socket], Awaitable[None]]) -> None:
    """Run a scenario with both ends of a connection, the second of which is to be watched."""

    async def main() -> None:
        far, near = tcp_pair()
        watch = Watch()
        try:
            with far, near:
                await scenario(watch, far, near)
        finally:
            watch.close()

    asyncio.run(main())


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0.001)


def test_what_is_there_is_told_once() -> None:
    async def scenario(watch: Watch, far: socket.socket, near: socket.socket) -> None:
        told: list[int] = []
        far.send(b"1")
        watch.add(near.fileno(), told.append)
        await until(lambda: told)
        await turns()
        assert len(told) == 1
        assert told[0] & EPOLLIN
        assert told[0] & WRITABLE
        far.send(b"2")
        await until(lambda: len(told) > 1)
        assert told[1] & READABLE

    watched(scenario)


def test_one_that_is_muted_tells_nothing_to_read_until_it_is_not() -> None:
    async def scenario(watch: Watch, far: socket.socket, near: socket.socket) -> None:
        told: list[int] = []
        watch.add(near.fileno(), told.append)
        await until(lambda: told)
        watch.mute(near.fileno())
        await turns()
        told.clear()
        far.send(b"1")
        await turns()
        assert not any(events & EPOLLIN for events in told)
        watch.unmute(near.fileno())
        await until(lambda: any(events & EPOLLIN for events in told))

    watched(scenario)


def test_one_that_is_muted_still_tells_of_a_reset() -> None:
    async def scenario(watch: Watch, far: socket.socket, near: socket.socket) -> None:
        told: list[int] = []
        watch.add(near.fileno(), told.append)
        watch.mute(near.fileno())
        near.send(b"never read")
        await turns()
        far.close()
        await until(lambda: any(events & (EPOLLERR | EPOLLRDHUP) for events in told))

    watched(scenario)


@pytest.mark.parametrize("by", ["itself", "another"])
def test_one_that_is_dropped_is_told_nothing(by: str) -> None:
    async def scenario(watch: Watch, far: socket.socket, near: socket.socket) -> None:
        told: list[int] = []

        def drop(events: int) -> None:
            told.append(events)
            for one in (far, near):
                watch.drop(one.fileno())

        # Both have something to tell in one batch; the first drops the other.
        watch.add(near.fileno(), drop)
        if by == "another":
            watch.add(far.fileno(), drop)
        await until(lambda: told)
        far.send(b"1")
        await turns()
        assert len(told) == 1

    watched(scenario)
