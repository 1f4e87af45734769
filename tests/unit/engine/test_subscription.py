"""Readers of a call: bounded queues, slow readers, keep-alives, and ends that are told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from supervisor.call.events import (
    SLOW_SUBSCRIBER,
    Accepted,
    CallEvent,
    Denied,
    Event,
    KeepAlive,
    Lost,
    Output,
    Wall,
)
from supervisor.call.types import Stream
from supervisor.engine.subscription import (
    EVENT_BYTES,
    Queue,
    Subscribers,
    Subscription,
    size_of,
)
from supervisor.errors import AuditUnavailable
from tests.support.records import FLOW, make_finished

LONG_S = 1e6
NOW = 0.0


def event(sequence: int, what: Event | None = None) -> CallEvent:
    event = what or Output(stream=Stream.STDOUT, data=b"x" * 100, offset=0)
    return CallEvent(call_id="call-1", sequence=sequence, time_ns=sequence, event=event)


def finished(sequence: int) -> CallEvent:
    return event(sequence, make_finished())


def follow(
    queue: Queue | None,
    recorded: list[CallEvent] | None = None,
    *,
    keep_alive_s: float = LONG_S,
    attached: bool = False,
    closed: list[str] | None = None,
) -> Subscription:
    closes = closed if closed is not None else []
    return Subscription(
        "call-1",
        recorded=iter(recorded or []),
        queue=queue,
        keep_alive_s=keep_alive_s,
        attached=attached,
        on_close=lambda: closes.append("closed"),
    )


async def read(subscription: Subscription) -> list[int]:
    return [one.sequence async for one in subscription]


def test_output_counts_with_its_bytes() -> None:
    assert size_of(event(1)) == EVENT_BYTES + 100
    assert size_of(event(1, KeepAlive())) == EVENT_BYTES


def test_what_a_sandbox_chose_counts_with_its_length() -> None:
    denied = Denied(wall=Wall.NETWORK, name="dns", detail="x" * 2000)
    assert size_of(event(1, denied)) == EVENT_BYTES + 2000
    flow = replace(FLOW, name="n" * 250, reason="r" * 100)
    assert size_of(event(1, flow)) == EVENT_BYTES + 350


def test_a_full_queue_has_room_again_when_it_was_read() -> None:
    async def scenario() -> None:
        queue = Queue(size_of(event(1)))
        queue.put(event(1))
        assert await queue.room(NOW)
        queue.put(event(2))
        assert not await queue.room(NOW)
        waiting = asyncio.ensure_future(queue.room(LONG_S))
        await asyncio.sleep(0)
        assert await queue.get(NOW) == event(1)
        assert await waiting
        assert await queue.get(NOW) == event(2)
        assert await queue.get(NOW) is None

    asyncio.run(scenario())


def test_an_ended_queue_gives_what_it_has_and_takes_nothing() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        queue.put(event(1))
        queue.end()
        queue.put(event(2))
        assert await queue.room(LONG_S)
        assert await queue.get(LONG_S) == event(1)
        with pytest.raises(StopAsyncIteration):
            await queue.get(LONG_S)

    asyncio.run(scenario())


def test_an_end_wakes_who_waits() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        waiting = asyncio.ensure_future(read(follow(queue)))
        await asyncio.sleep(0)
        queue.end()
        assert await waiting == []

    asyncio.run(scenario())


def test_a_failure_comes_after_what_was_told() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        queue.put(event(1))
        queue.end(AuditUnavailable("JOURNAL_UNAVAILABLE", "gone"))
        got: list[int] = []
        with pytest.raises(AuditUnavailable):
            async for one in follow(queue):
                got.append(one.sequence)  # noqa: PERF401 (what came before the failure counts)
        assert got == [1]

    asyncio.run(scenario())


def test_a_failure_is_not_forgotten_by_a_second_end() -> None:
    """A stream that ends without Finished and without a reason would look like a success."""

    async def scenario() -> None:
        subscribers = Subscribers(1, NOW)
        early = subscribers.add()
        subscribers.end(AuditUnavailable("JOURNAL_UNAVAILABLE", "gone"))
        subscribers.end()
        for queue in (early, subscribers.add()):
            subscribers.remove(queue)
            with pytest.raises(AuditUnavailable):
                await read(follow(queue))

    asyncio.run(scenario())


def test_the_record_comes_first_and_finished_last() -> None:
    async def scenario() -> None:
        queue = Queue(LONG_S)  # type: ignore[arg-type]
        for sequence in (3, 4):
            queue.put(event(sequence))
        queue.put(finished(5))
        queue.put(event(6))
        assert await read(follow(queue, [event(1), event(2)])) == [1, 2, 3, 4, 5]

    asyncio.run(scenario())


def test_a_call_that_is_over_is_its_record() -> None:
    assert asyncio.run(read(follow(None, [event(1), finished(2)]))) == [1, 2]


def test_a_keep_alive_repeats_the_last_sequence() -> None:
    async def scenario() -> None:
        queue = Queue(1)
        got: list[CallEvent] = []
        async for one in follow(queue, [event(7)], keep_alive_s=NOW):
            got.append(one)
            if len(got) == 3:
                queue.put(finished(8))
        assert [type(one.event) for one in got[1:3]] == [KeepAlive, KeepAlive]
        assert [one.sequence for one in got[:3]] == [7, 7, 7]
        assert got[-1].sequence == 8

    asyncio.run(scenario())


@pytest.mark.parametrize("attached", [True, False])
def test_accepted_says_whether_this_was_a_repeat(attached: bool) -> None:
    async def scenario() -> None:
        accepted = event(1, Accepted(profile="p", profile_digest="d", mode="enforce"))
        [one] = [one async for one in follow(None, [accepted], attached=attached)]
        assert isinstance(one.event, Accepted)
        assert one.event.attached is attached

    asyncio.run(scenario())


def test_closing_twice_is_closing_once() -> None:
    async def scenario() -> None:
        closed: list[str] = []
        subscription = follow(None, closed=closed)
        await subscription.close()
        await subscription.close()
        assert closed == ["closed"]

    asyncio.run(scenario())


def test_every_reader_gets_what_comes_after_it() -> None:
    async def scenario() -> None:
        subscribers = Subscribers(1 << 20, LONG_S)
        first = subscribers.add()
        subscribers.put(event(1))
        second = subscribers.add()
        subscribers.put(event(2))
        assert subscribers.last_sequence == 2
        subscribers.end()
        assert await read(follow(first)) == [1, 2]
        assert await read(follow(second)) == [2]
        assert await read(follow(subscribers.add())) == []

    asyncio.run(scenario())


def test_a_reader_that_takes_nothing_is_let_go_with_a_word() -> None:
    async def scenario() -> None:
        subscribers = Subscribers(size_of(event(1)), NOW)
        slow, quick = subscribers.add(), subscribers.add()
        for sequence in (1, 2, 3):
            subscribers.put(event(sequence))
            assert await quick.get(NOW) is not None
        await subscribers.room(event(3))
        subscribers.put(event(4))
        [lost] = [one async for one in follow(slow)]
        assert lost.event == Lost(what="output", count=3, reason=SLOW_SUBSCRIBER)
        assert lost.sequence == 3
        assert await quick.get(NOW) == event(4)

    asyncio.run(scenario())


def test_a_reader_that_left_holds_nobody_up() -> None:
    async def scenario() -> None:
        subscribers = Subscribers(1, LONG_S)
        gone = subscribers.add()
        subscribers.put(event(1))
        waiting = asyncio.ensure_future(subscribers.room(event(1)))
        await asyncio.sleep(0)
        assert not waiting.done()
        subscribers.remove(gone)
        subscribers.remove(gone)
        await waiting

    asyncio.run(scenario())


def test_a_call_that_is_over_does_not_keep_what_nobody_reads() -> None:
    async def scenario() -> None:
        subscribers = Subscribers(1, 0.01)
        reader = subscribers.add()
        subscribers.put(event(1))
        subscribers.put(event(2))
        subscribers.close(event(3))
        subscribers.end()
        while len(reader._events) > 1:
            await asyncio.sleep(0.005)
        left = await reader.get(LONG_S)
        assert left is not None
        assert isinstance(left.event, Lost)
        assert left.event.count == 3

    asyncio.run(scenario())


def test_slow_readers_wait_side_by_side() -> None:
    async def scenario() -> None:
        subscribers = Subscribers(1, 0.2)
        for _ in range(50):
            subscribers.add()
        subscribers.put(event(1))
        async with asyncio.timeout(5):  # one after the other it would be ten seconds
            await subscribers.room(event(1))

    asyncio.run(scenario())
