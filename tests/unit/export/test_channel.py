"""The wire between the daemon and an exporter's process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from supervisor.errors import AuditCorrupt
from supervisor.export.channel import (
    AT_ONCE_MAX,
    MESSAGE_BYTES_MAX,
    WAITING_MAX,
    Channel,
    ChannelClosed,
    Handler,
    Message,
    PeerFailed,
    PeerMisbehaves,
    pair,
)


async def nothing(message: Message, fds: Sequence[int]) -> Mapping[str, Any] | None:
    return None


@contextlib.asynccontextmanager
async def both(left: Handler, right: Handler) -> AsyncIterator[tuple[Channel, Channel]]:
    ends = pair()
    channels = Channel(ends[0], left), Channel(ends[1], right)
    tasks = [asyncio.create_task(channel.run()) for channel in channels]
    try:
        yield channels
    finally:
        for channel in channels:
            channel.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_questions_have_their_own_answers() -> None:
    async def double(message: Message, fds: Sequence[int]) -> Mapping[str, Any]:
        await asyncio.sleep(0.001 * (message["n"] % 3))
        return {"n": message["n"] * 2}

    async def main() -> None:
        async with both(nothing, double) as (left, _):
            answers = await asyncio.gather(*(left.ask("double", n=n) for n in range(50)))
            assert [answer["n"] for answer, _ in answers] == [2 * n for n in range(50)]

    asyncio.run(main())


def test_what_is_told_comes_in_order_with_its_descriptors() -> None:
    told: list[tuple[str, bytes]] = []
    done = asyncio.Event()

    async def take(message: Message, fds: Sequence[int]) -> None:
        told.append((message["tell"], os.pread(fds[0], 9, 0) if fds else b""))
        if message["tell"] == "last":
            done.set()

    async def main() -> None:
        async with both(nothing, take) as (left, _):
            fd = os.memfd_create("x")
            os.write(fd, b"content")
            left.tell("first", fd=fd)
            os.close(fd)
            left.tell("last")
            await asyncio.wait_for(done.wait(), 20)
        assert told == [("first", b"content"), ("last", b"")]

    asyncio.run(main())


def test_a_descriptor_comes_with_an_answer_and_none_is_left_open() -> None:
    async def give(message: Message, fds: Sequence[int]) -> Mapping[str, Any]:
        return {"fd": os.memfd_create("answer")}

    async def main() -> None:
        async with both(nothing, give) as (left, _):
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            for _ in range(20):
                _, fds = await left.ask("file")
                os.close(fds[0])
            await asyncio.sleep(0)
            assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208

    asyncio.run(main())


def test_a_failure_of_the_other_side_is_told() -> None:
    async def fail(message: Message, fds: Sequence[int]) -> None:
        raise FileNotFoundError(2, "No such file or directory", "x.seg")

    async def main() -> None:
        async with both(nothing, fail) as (left, _):
            with pytest.raises(PeerFailed, match=r"x\.seg") as raised:
                await left.ask("open")
            assert raised.value.errno == 2

    asyncio.run(main())


def test_a_peer_that_has_gone_ends_all_that_waits() -> None:
    async def never(message: Message, fds: Sequence[int]) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with both(nothing, never) as (left, right):
            waiting = [asyncio.create_task(left.ask("x")) for _ in range(3)]
            await asyncio.sleep(0.01)
            right.close()
            for one in waiting:
                with pytest.raises(ChannelClosed):
                    await asyncio.wait_for(one, 20)
            with pytest.raises(ChannelClosed):
                left.tell("x")

    asyncio.run(main())


def test_a_peer_that_reads_nothing_is_as_good_as_gone() -> None:
    async def main() -> None:
        ends = pair()
        channel = Channel(ends[0], nothing)
        with pytest.raises(ChannelClosed):
            for _ in range(10 * WAITING_MAX):
                channel.tell("x", more="y" * 10_000)
        assert len(channel._out) == WAITING_MAX
        channel.close()
        ends[1].close()

    asyncio.run(main())


def test_a_message_that_is_too_large_is_not_sent() -> None:
    async def main() -> None:
        async with both(nothing, nothing) as (left, _):
            with pytest.raises(ValueError, match="bytes"):
                left.tell("x", more="y" * MESSAGE_BYTES_MAX)

    asyncio.run(main())


@pytest.mark.parametrize(
    "said",
    [b"{", b"[]", b"5", b"{}", b'{"re":[]}', b'{"tell":5}', b'{"ask":"x"}', b'{"re":1,"tell":"x"}'],
)
def test_what_nobody_can_read_ends_it_and_leaves_no_descriptor(said: bytes) -> None:
    async def main() -> None:
        ours, theirs = pair()
        channel = Channel(ours, nothing)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with theirs, open(os.devnull) as file:  # noqa: PTH123
            socket.send_fds(theirs, [said], [file.fileno()])
            with pytest.raises(PeerMisbehaves):
                await asyncio.wait_for(channel.run(), 20)
        with pytest.raises(ChannelClosed):
            channel.tell("x")
        channel.close()
        assert len(os.listdir("/proc/self/fd")) == before - 2  # noqa: PTH208

    asyncio.run(main())


def test_who_floods_it_waits_while_others_have_their_turn() -> None:
    begun: list[int] = []
    go_on = asyncio.Event()

    async def slow(message: Message, fds: Sequence[int]) -> None:
        begun.append(message["n"])
        await go_on.wait()

    async def main() -> None:
        async with both(slow, nothing) as (left, right):
            for n in range(5 * AT_ONCE_MAX):
                right.tell("x", n=n)
            while len(begun) < AT_ONCE_MAX:
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(left._tasks) == len(begun) == AT_ONCE_MAX
            go_on.set()
            while len(begun) < 5 * AT_ONCE_MAX:
                await asyncio.sleep(0)
        assert begun == list(range(5 * AT_ONCE_MAX))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "why"),
    [(AuditCorrupt("CHAIN_BROKEN", "it is"), "it is"), (KeyError("x"), r"a bug: KeyError\('x'\)")],
)
def test_who_asks_is_answered_whatever_fails(error: Exception, why: str) -> None:
    async def fail(message: Message, fds: Sequence[int]) -> None:
        raise error

    async def main() -> None:
        async with both(nothing, fail) as (left, _):
            with pytest.raises(PeerFailed, match=why):
                await asyncio.wait_for(left.ask("open"), 20)

    asyncio.run(main())


def test_a_handler_may_end_it() -> None:
    async def refuse(message: Message, fds: Sequence[int]) -> None:
        raise PeerMisbehaves("it may not")

    async def main() -> None:
        ours, theirs = pair()
        channel = Channel(ours, refuse)
        with theirs:
            theirs.send(b'{"tell":"x"}')
            with pytest.raises(PeerMisbehaves, match="it may not"):
                await asyncio.wait_for(channel.run(), 20)
        channel.close()

    asyncio.run(main())
