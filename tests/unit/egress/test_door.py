"""Accepting: as many as there is room for, at a bounded pace."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.egress.door import Door, Pace


def with_door(
    scenario: Callable[[Door, list[Any], tuple[str, int]], Awaitable[None]],
    room: Callable[[int], bool] = lambda _: True,
    **bounds: float,
) -> None:
    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        taken: list[socket.socket] = []
        door = Door(
            [listener], lambda one, _: taken.append(one), lambda: room(len(taken)), **bounds
        )
        door.look()
        try:
            await scenario(door, taken, listener.getsockname())
        finally:
            door.close()
            for one in taken:
                one.close()

    asyncio.run(main())


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():
            await asyncio.sleep(0.005)


def test_it_takes_whoever_comes() -> None:
    async def scenario(_: Door, taken: list[Any], place: tuple[str, int]) -> None:
        clients = [socket.create_connection(place) for _ in range(5)]
        await until(lambda: len(taken) == 5)
        for one in clients:
            one.close()

    with_door(scenario)


def test_who_finds_no_room_waits_until_there_is() -> None:
    most = 2

    async def scenario(door: Door, taken: list[Any], place: tuple[str, int]) -> None:
        nonlocal most
        clients = [socket.create_connection(place) for _ in range(3)]
        await until(lambda: len(taken) == 2)
        await asyncio.sleep(0.05)
        assert len(taken) == 2
        most = 3
        door.look()
        await until(lambda: len(taken) == 3)
        for one in clients:
            one.close()

    with_door(scenario, lambda count: count < most)


def test_a_flood_is_taken_at_the_pace() -> None:
    async def scenario(_: Door, taken: list[Any], place: tuple[str, int]) -> None:
        clients = [socket.create_connection(place) for _ in range(6)]
        await until(lambda: len(taken) >= 2)
        assert len(taken) < 6
        await until(lambda: len(taken) == 6)
        for one in clients:
            one.close()

    with_door(scenario, per_s=10.0, burst=2.0)


def test_a_closed_door_is_closed() -> None:
    async def scenario(door: Door, taken: list[Any], place: tuple[str, int]) -> None:
        door.close()
        door.look()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        assert not taken

    with_door(scenario)


class Short:
    """A listener at which the host has run out of something twice."""

    def __init__(self, listener: socket.socket, number: int) -> None:
        self._listener, self._number, self.left = listener, number, 2

    def accept(self) -> Any:
        if self.left:
            self.left -= 1
            raise OSError(self._number, "short")
        return self._listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ECONNABORTED])
def test_a_shortage_passes(number: int) -> None:
    async def main() -> None:
        listener = Short(socket.create_server(("127.0.0.1", 0)), number)
        taken: list[socket.socket] = []
        door = Door([listener], lambda one, _: taken.append(one), lambda: True)  # type: ignore[list-item]
        door.look()
        with socket.create_connection(listener.getsockname()):
            await until(lambda: len(taken) == 1)
        taken[0].close()
        door.close()

    asyncio.run(main())


@given(
    st.floats(1, 1000),
    st.floats(1, 100),
    st.lists(st.floats(0, 1), max_size=100),
)
def test_no_more_than_the_burst_and_what_has_come_since(
    per_s: float, burst: float, steps: list[float]
) -> None:
    pace = Pace(per_s, burst, 0.0)
    now = 0.0
    taken = 0
    for step in steps:
        now += step
        wait_s = pace.take(now)
        taken += not wait_s
        assert wait_s >= 0
    assert taken <= burst + now * per_s + 1e-6
