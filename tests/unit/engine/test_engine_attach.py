"""What a follower sees: the order of the record, from wherever it begins, however slow it is."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.recorder import INLINE_BYTES, CallRecorder
from supervisor.call.events import (
    SLOW_SUBSCRIBER,
    Accepted,
    CallEvent,
    Denied,
    KeepAlive,
    Lost,
    Output,
    Started,
    Wall,
)
from supervisor.call.types import Stream
from supervisor.engine.subscription import Subscription
from supervisor.profile.model import Capture
from supervisor.sandbox import ProgramEnd
from tests.support.records import make_profile
from tests.support.rounds import rounds

from .harness import (
    EXIT_0,
    FakeSandbox,
    Program,
    collect,
    end_of,
    hang,
    kinds,
    running,
    settle,
    until,
)

MOUNT = Denied(wall=Wall.SYSCALL, name="mount")
LARGE = 2 * INLINE_BYTES

# What a program does, step by step: a number of bytes to a stream, a denial, or a pause.
step = st.one_of(
    st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 100, 5000, LARGE])),
    st.just("deny"),
    st.just("pause"),
)


def does(steps: list[tuple[int, int] | str]) -> Program:
    async def program(sandbox: FakeSandbox) -> ProgramEnd:
        for one in steps:
            if one == "deny":
                sandbox.tell(MOUNT)
            elif one == "pause":
                await asyncio.sleep(0)
            else:
                stream, count = one
                await sandbox.out(bytes([count % 251]) * int(count), int(stream))
        return EXIT_0

    return program


def bare(events: list[CallEvent]) -> list[CallEvent]:
    """Give events without what tells a repeat from the first."""
    return [
        replace(event, event=replace(event.event, attached=False))
        if isinstance(event.event, Accepted)
        else event
        for event in events
    ]


def slow_recorder(seed: int) -> mock._patch[object]:
    """Let recording in a thread take as long as chance will have it, before and after."""
    chance, real = random.Random(seed), CallRecorder.output

    def output(self: CallRecorder, stream: Stream, data: bytes) -> list[CallEvent]:
        time.sleep(chance.random() / 2000)
        try:
            return real(self, stream, data)
        finally:
            time.sleep(chance.random() / 2000)

    return mock.patch.object(CallRecorder, "output", output)


@settings(max_examples=rounds(15))
@given(st.lists(step, max_size=10), st.integers(0, 1000))
def test_two_streams_and_denials_come_in_the_order_of_the_record(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int] | str], seed: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path_factory.mktemp("state")) as world:
            world.host.programs[b"do"] = does(steps)
            with slow_recorder(seed):
                events = await world.run(b"do")
            sequences = [event.sequence for event in events]
            assert sequences == list(range(1, len(events) + 1))
            assert kinds(events).count("Denied") == steps.count("deny")
            written = sum(int(one[1]) for one in steps if isinstance(one, tuple))
            seen = [event.event for event in events if isinstance(event.event, Output)]
            assert sum(len(output.data) for output in seen) == written
            for stream in (Stream.STDOUT, Stream.STDERR):
                offset = 0
                for output in seen:
                    if output.stream is stream:
                        assert output.offset == offset
                        offset += len(output.data)

    asyncio.run(scenario())


@settings(max_examples=rounds(15))
@given(
    st.lists(step, max_size=10),
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=4),
)
def test_whoever_attaches_sees_what_the_first_saw(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int] | str],
    seed: int,
    followers: list[tuple[int, int]],
) -> None:
    async def scenario() -> None:
        async with running(tmp_path_factory.mktemp("state")) as world:
            world.host.programs[b"do"] = does(steps)
            first = await world.submit(b"do")

            async def follow(turns: int, wanted: int) -> tuple[int, list[CallEvent]]:
                for _ in range(turns):
                    await asyncio.sleep(0)
                last = world.engine.get(first.call_id)[0].last_sequence
                sequence = min(wanted, last)
                return sequence, await collect(await world.engine.attach(first.call_id, sequence))

            with slow_recorder(seed):
                whole, *rest = await asyncio.gather(
                    collect(first), *[follow(*one) for one in followers]
                )
            for sequence, events in rest:
                assert bare(events) == bare(whole)[sequence - 1 :]

    asyncio.run(scenario())


def test_what_was_recorded_before_is_not_given_to_who_wants_what_follows(tmp_path: Path) -> None:
    """A denial that waits for its turn behind an output is on record, and not published yet."""
    inside, release, real = threading.Event(), threading.Event(), CallRecorder.output

    def output(self: CallRecorder, stream: Stream, data: bytes) -> list[CallEvent]:
        events = real(self, stream, data)
        inside.set()
        release.wait()
        return events

    async def write(sandbox: FakeSandbox) -> ProgramEnd:
        await sandbox.out(b"x" * LARGE)
        return await hang(sandbox)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"write"] = write
            with mock.patch.object(CallRecorder, "output", output):
                first = await world.submit(b"write")
                await settle(inside.is_set)
                world.host.sandbox.tell(MOUNT)
                last = world.engine.get(first.call_id)[0].last_sequence
                late = await world.engine.attach(first.call_id, last + 1)
                early = await world.engine.attach(first.call_id, 1)
                release.set()
                await until(first, Denied)
                world.host.sandbox.kill()
                assert (await collect(late))[0].sequence == last + 1
                sequences = [event.sequence for event in await collect(early)]
                assert sequences == list(range(1, len(sequences) + 1))

    asyncio.run(scenario())


def test_output_past_the_cap_reaches_live_followers(tmp_path: Path) -> None:
    """It is not on record, so it repeats the last sequence; nobody may take it for old."""
    profile = make_profile(stdout=Capture(mode="head", bytes_max=4))
    go = asyncio.Event()

    async def write(sandbox: FakeSandbox) -> ProgramEnd:
        await sandbox.out(b"first")
        await go.wait()
        await sandbox.out(b"second")
        return EXIT_0

    async def scenario() -> None:
        async with running(tmp_path, profile=profile) as world:
            world.host.programs[b"write"] = write
            first = await world.submit(b"write")
            await settle(lambda: world.engine.get(first.call_id)[0].last_sequence == 4)
            late = await world.engine.attach(first.call_id, 5)
            go.set()
            events = await collect(late)
            assert kinds(events) == ["Output", "Finished"]
            assert isinstance(events[0].event, Output)
            assert (events[0].event.data, events[0].event.truncated) == (b"second", True)
            assert end_of(await collect(first)) == events[-1].event

    asyncio.run(scenario())


def test_small_writes_make_few_entries(tmp_path: Path) -> None:
    async def drip(sandbox: FakeSandbox) -> ProgramEnd:
        for _ in range(500):
            await sandbox.out(b".")
        return EXIT_0

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"drip"] = drip
            events = await world.run(b"drip")
            output = [event.event for event in events if isinstance(event.event, Output)]
            assert b"".join(one.data for one in output) == b"." * 500
            assert len(output) <= 5

    asyncio.run(scenario())


# Slow readers.


def flood(times: int) -> Program:
    async def program(sandbox: FakeSandbox) -> ProgramEnd:
        for _ in range(times):
            await sandbox.out(b"x" * 8192)
        return EXIT_0

    return program


def test_a_reader_that_takes_nothing_is_let_go_and_can_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, subscriber_bytes=20_000, subscriber_stall_s=0.0) as world:
            world.host.programs[b"flood"] = flood(40)
            first = await world.submit(b"flood")
            quick = asyncio.ensure_future(_seen(await world.engine.attach(first.call_id, 1)))
            await settle(lambda: world.engine.list(live_only=True) == ([], ""))
            events = await collect(first)
            lost = events[-1]
            assert isinstance(lost.event, Lost)
            assert (lost.event.what, lost.event.reason) == ("output", SLOW_SUBSCRIBER)
            seen = [event for event in events if not isinstance(event.event, Lost)]
            resumed = await collect(await world.engine.attach(first.call_id, seen[-1].sequence + 1))
            sequences = [event.sequence for event in (*seen, *resumed)]
            assert sequences == list(range(1, sequences[-1] + 1))
            output = [e.event for e in (*seen, *resumed) if isinstance(e.event, Output)]
            assert sum(len(one.data) for one in output) == 40 * 8192
            assert end_of(resumed).streams[0].digest.size_bytes == 40 * 8192
            await quick

    asyncio.run(scenario())


async def _seen(subscription: Subscription) -> int:
    return len(await collect(subscription))


def test_a_slow_reader_holds_the_program_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, subscriber_bytes=20_000, subscriber_stall_s=1e6) as world:
            world.host.programs[b"flood"] = flood(60)
            first = await world.submit(b"flood")
            await asyncio.sleep(0.05)
            summary, state = world.engine.get(first.call_id)
            assert state == "running"
            held_at = summary.last_sequence
            await asyncio.sleep(0.02)
            assert world.engine.get(first.call_id)[0].last_sequence == held_at
            events = await collect(first)
            assert end_of(events).streams[0].digest.size_bytes == 60 * 8192

    asyncio.run(scenario())


def test_a_reader_that_leaves_lets_the_program_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, subscriber_bytes=20_000, subscriber_stall_s=1e6) as world:
            world.host.programs[b"flood"] = flood(60)
            first = await world.submit(b"flood")
            await until(first, Output)
            await first.close()
            events = await collect(await world.engine.attach(first.call_id, 1))
            assert end_of(events).streams[0].digest.size_bytes == 60 * 8192

    asyncio.run(scenario())


def test_nothing_happens_and_the_reader_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, keep_alive_s=0.001) as world:
            first = await world.submit(b"hang")
            await until(first, Started)
            follower = await world.engine.attach(first.call_id, 2)
            alive = await until(follower, KeepAlive)
            assert alive.sequence == 2
            world.host.sandbox.kill()
            assert end_of(await collect(first))

    asyncio.run(scenario())
