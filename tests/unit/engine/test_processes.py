"""What processes did, on its way to the record: in its order, and away from the loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from supervisor.audit.codec import process_bytes
from supervisor.audit.recorder import Shown
from supervisor.call.events import CallEvent, Event, Lost, Processes, ProgramStarted
from supervisor.engine import processes as processes_module
from supervisor.engine.processes import BEHIND, ProcessLane
from supervisor.errors import AuditUnavailable
from tests.support.records import PROCESSES

FIRST = PROCESSES[0]
assert isinstance(FIRST, ProgramStarted)
WAIT_S = 20


def started(number: int, argv_bytes: int = 20_000) -> Processes:
    return Processes(events=(replace(FIRST, pid=number, argv=(b"x" * argv_bytes,)),))


class Record:
    """Takes what a recorder does; with a gate that is shut, a thread waits there."""

    searches = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.threads: list[str] = []
        self.looked: list[bool] = []
        self.sequence = 0
        self.refuse: set[int] = set()

    def shown_processes(self, one: Processes) -> Shown:
        self.threads.append(threading.current_thread().name)
        self.begun.set()
        assert self.gate.wait(WAIT_S)
        return [(one, ["looked through"])]

    def processes(self, one: Processes, shown: Shown | None = None) -> CallEvent:
        assert threading.current_thread() is threading.main_thread()
        assert shown in (None, [(one, ["looked through"])])
        self.looked.append(shown is not None)
        if one.events[0].pid in self.refuse:
            raise AuditUnavailable("RECORD_FULL", "no space")
        return self.lost(one)

    def lost(self, one: Lost | Processes) -> CallEvent:
        self.sequence += 1
        return CallEvent(call_id="c", sequence=self.sequence, time_ns=0, event=one)


class World:
    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self.record = Record()
        self.published: list[Event] = []
        self.sequences: list[int] = []
        self.failed: list[Exception] = []
        self.lane = ProcessLane(
            lambda: cast("Any", self.record), executor,
            publish=self.publish, fail=self.failed.append,
        )  # fmt: skip

    def publish(self, one: CallEvent) -> None:
        self.published.append(one.event)
        self.sequences.append(one.sequence)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.record.begun.wait, WAIT_S)


@contextlib.contextmanager
def world() -> Iterator[World]:
    with concurrent.futures.ThreadPoolExecutor(1, "masking") as executor:
        one = World(executor)
        try:
            yield one
        finally:
            one.record.gate.set()


def test_what_is_short_or_is_not_searched_is_on_record_at_once() -> None:
    async def scenario() -> None:
        with world() as here:
            here.lane.take(started(1, 10))
            here.record.searches = False
            here.lane.take(started(2))
            assert here.published == [started(1, 10), started(2)]
            assert here.record.looked == [False, False]
            await here.lane.drain()

    asyncio.run(scenario())


def test_what_may_take_long_holds_nobody_up_and_keeps_its_order() -> None:
    async def scenario() -> None:
        with world() as here:
            here.lane.take(started(1))
            await here.begun()
            here.lane.take(started(2, 10))  # short, and still behind the first
            here.lane.take(started(3))
            await asyncio.sleep(0)
            assert here.published == []  # and we are here
            drained = asyncio.ensure_future(here.lane.drain())
            await asyncio.sleep(0)
            assert not drained.done()
            here.record.gate.set()
            await asyncio.wait_for(drained, WAIT_S)
            assert here.published == [started(1), started(2, 10), started(3)]
            assert all(name.startswith("masking") for name in here.record.threads)
            here.lane.take(started(4, 10))
            assert here.published[-1] == started(4, 10)

    asyncio.run(scenario())


def test_who_waits_and_is_cancelled_takes_nothing_along() -> None:
    async def scenario() -> None:
        with world() as here:
            here.lane.take(started(1))
            await here.begun()
            waiting = asyncio.ensure_future(here.lane.drain())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            here.record.gate.set()
            await here.lane.drain()
            assert here.published == [started(1)]

    asyncio.run(scenario())


def test_what_is_above_the_bound_is_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    size = process_bytes(started(1).events[0])
    monkeypatch.setattr(processes_module, "WAITING_BYTES_MAX", 2 * size)

    async def scenario() -> None:
        with world() as here:
            for number in range(5):
                here.lane.take(started(number))
            here.record.gate.set()
            await here.lane.drain()
            assert here.published == [
                started(0), Lost(what="exec", count=3, reason=BEHIND), started(1),
            ]  # fmt: skip
            here.lane.take(started(6))  # there is room again
            await here.lane.drain()
            assert here.published[-1] == started(6)

    asyncio.run(scenario())


def test_what_waits_for_too_long_once_the_call_has_ended_is_counted_as_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes_module, "DRAIN_S", 0)

    async def scenario() -> None:
        with world() as here:
            for number in range(4):
                here.lane.take(started(number))
            await here.begun()
            drained = asyncio.ensure_future(here.lane.drain())
            while here.lane._waiting:
                await asyncio.sleep(0)
            here.record.gate.set()
            await asyncio.wait_for(drained, WAIT_S)
            assert here.published == [started(0), Lost(what="exec", count=3, reason=BEHIND)]
            here.lane.take(started(5))  # nothing of it counts any more
            assert here.lane._bytes == process_bytes(started(5).events[0])

    asyncio.run(scenario())


def test_what_happens_meanwhile_is_published_in_the_order_of_the_record() -> None:
    """Whoever follows takes up the call again after the last sequence that it has seen."""

    async def scenario() -> None:
        with world() as here:
            here.lane.take(started(1))
            await here.begun()
            here.publish(here.record.lost(Lost(what="denial", count=1, reason="x")))
            here.record.gate.set()
            await here.lane.drain()
            assert here.sequences == [1, 2]
            assert here.published[-1] == started(1)

    asyncio.run(scenario())


def test_what_cannot_be_recorded_is_told_and_the_next_is_tried() -> None:
    async def scenario() -> None:
        with world() as here:
            here.record.gate.set()
            here.record.refuse = {1, 3}
            here.lane.take(started(1))
            here.lane.take(started(2))
            await here.lane.drain()
            here.lane.take(started(3, 10))
            assert here.published == [started(2)]
            assert [type(error) for error in here.failed] == [AuditUnavailable] * 2

    asyncio.run(scenario())
