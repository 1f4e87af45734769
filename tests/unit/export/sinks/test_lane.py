"""One job at a time, whoever waits."""

from __future__ import annotations

import asyncio
import threading

import pytest

from supervisor.export.sink import SinkError
from supervisor.export.sinks.lane import Lane


def test_a_job_that_was_left_is_waited_for() -> None:
    begun, go_on, order = threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        begun.set()
        go_on.wait()
        order.append("first")
        raise OSError("nobody hears it")

    async def go() -> None:
        lane = Lane("test", 20.0)
        left = asyncio.create_task(lane.run(first))
        await asyncio.to_thread(begun.wait)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        next_one = asyncio.create_task(lane.run(order.append, "second"))
        await asyncio.sleep(0)
        go_on.set()
        await next_one
        lane.close()

    asyncio.run(go())
    assert order == ["first", "second"]


def test_a_job_that_hangs_keeps_no_other_from_saying_so() -> None:
    go_on, done = threading.Event(), list[int]()

    def hang() -> None:
        go_on.wait()

    async def go() -> None:
        lane = Lane("test", 0.05)
        try:
            for number in range(3):
                with pytest.raises(SinkError):
                    await lane.run(hang if not number else lambda: done.append(1))
            assert lane._pool._work_queue.qsize() == 0
        finally:
            go_on.set()
            lane.close()

    asyncio.run(go())
    assert not done


def test_what_a_job_raises_is_told() -> None:
    async def go() -> None:
        lane = Lane("test", 20.0)
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 // 0)
        lane.close()

    asyncio.run(go())
