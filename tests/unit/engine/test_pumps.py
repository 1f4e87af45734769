"""Pipes to the record and back: gathering, offsets, repeats, and readers that go away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.call.types import STDIN_CHUNK_BYTES_MAX
from supervisor.engine.pumps import SMALL_BYTES, StdinWriter, pump_output
from supervisor.errors import (
    AuditUnavailable,
    CallStateError,
    InputUnread,
    InvalidRequest,
    InvariantError,
    OutOfRange,
    StockadeError,
)
from supervisor.linux.fds import make_pipe, wait_writable

PIPE_KEEPS = 1 << 16


class Target:
    """A pipe with a program's end, and a record; the writer is open at once."""

    def __init__(self, bytes_max: int = 1 << 30) -> None:
        pipe = make_pipe()
        self.read_fd, self.write_fd = pipe.read, pipe.write
        os.set_blocking(pipe.read, False)
        os.set_blocking(pipe.write, False)
        self.recorded = bytearray()
        self.closes = 0
        self.writer = StdinWriter(self.record, bytes_max)
        self.writer.open(self.write_fd, self.close)

    async def record(self, data: bytes) -> None:
        self.recorded += data

    def close(self) -> None:
        self.closes += 1
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def hang_up(self) -> None:
        """Do what a program does that goes away."""
        os.close(self.read_fd)
        self.read_fd = -1

    def drain(self) -> bytes:
        found = b""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.read_fd, 1 << 20):
                found += data
        return found


@contextlib.contextmanager
def target() -> Iterator[Target]:
    made = Target()
    try:
        yield made
    finally:
        made.close()
        if made.read_fd >= 0:
            os.close(made.read_fd)


async def fed(one: Target, data: bytes = b"", *, end: bool = False) -> StdinWriter:
    await one.writer.feed(data, end=end)
    return one.writer


def reason_of(error: pytest.ExceptionInfo[StockadeError]) -> str:
    return error.value.reason


def test_what_is_written_is_recorded_and_arrives() -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one, b"first ")
            assert await writer.write(6, b"second ", end=False) == 13
            assert await writer.write(13, b"third", end=True) == 18
            assert one.drain() == bytes(one.recorded) == b"first second third"
            assert one.closes == 1

    asyncio.run(scenario())


def test_a_write_waits_for_the_beginning() -> None:
    async def scenario() -> None:
        with target() as one:
            writing = asyncio.ensure_future(one.writer.write(4, b"late", end=False))
            await asyncio.sleep(0)
            assert one.drain() == b""
            await one.writer.feed(b"soon", end=False)
            assert await writing == 8
            assert one.drain() == b"soonlate"

    asyncio.run(scenario())


def test_a_repeat_changes_nothing() -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one)
            for _ in range(2):
                assert await writer.write(0, b"abc", end=False) == 3
            assert await writer.write(1, b"bc", end=False) == 3
            assert await writer.write(3, b"", end=False) == 3
            assert one.drain() == bytes(one.recorded) == b"abc"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("offset", "data"), [(4, b"x"), (2, b"cd"), (0, b"abcd"), (4, b""), (99, b"")]
)
def test_gaps_and_overlaps_are_refused(offset: int, data: bytes) -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one, b"abc")
            with pytest.raises(OutOfRange) as raised:
                await writer.write(offset, data, end=False)
            assert reason_of(raised) == "STDIN_OFFSET"
            assert raised.value.metadata == {"expected": "3"}
            assert one.drain() == b"abc"

    asyncio.run(scenario())


def test_nothing_comes_after_the_end() -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one)
            await writer.write(0, b"abc", end=True)
            with pytest.raises(CallStateError) as raised:
                await writer.write(3, b"d", end=False)
            assert reason_of(raised) == "STDIN_CLOSED"
            assert one.drain() == bytes(one.recorded) == b"abc"

    asyncio.run(scenario())


def test_the_end_can_be_repeated() -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one)
            for _ in range(2):
                assert await writer.write(0, b"abc", end=True) == 3
            assert await writer.write(3, b"", end=True) == 3
            assert one.closes == 1

    asyncio.run(scenario())


def test_a_repeat_that_adds_the_end_ends_it() -> None:
    """Else the caller would take for ended what the program still waits for."""

    async def scenario() -> None:
        with target() as one:
            writer = await fed(one)
            await writer.write(0, b"abc", end=False)
            assert await writer.write(0, b"abc", end=True) == 3
            assert one.closes == 1
            assert one.drain() == b"abc"

    asyncio.run(scenario())


@pytest.mark.parametrize("data", [b"ab", b""])
def test_an_end_before_the_end_is_refused(data: bytes) -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one, b"abc")
            with pytest.raises(OutOfRange) as raised:
                await writer.write(0, data, end=True)
            assert reason_of(raised) == "STDIN_OFFSET"
            assert one.closes == 0

    asyncio.run(scenario())


def test_a_request_that_keeps_nothing_open_is_ended_by_its_beginning() -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one, b"all", end=True)
            assert one.closes == 1
            with pytest.raises(CallStateError):
                await writer.write(3, b"more", end=False)

    asyncio.run(scenario())


def test_a_chunk_has_a_limit() -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one)
            with pytest.raises(InvalidRequest) as raised:
                await writer.write(0, b"x" * (STDIN_CHUNK_BYTES_MAX + 1), end=False)
            assert reason_of(raised) == "STDIN_CHUNK_TOO_LARGE"
            assert not one.recorded

    asyncio.run(scenario())


def test_a_program_that_closes_its_input() -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one)
            one.hang_up()
            for offset in (0, len(one.recorded)):
                with pytest.raises(InputUnread) as raised:
                    await writer.write(offset + len(one.recorded), b"abc", end=False)
                assert reason_of(raised) == "STDIN_CLOSED"

    asyncio.run(scenario())


def test_a_program_that_ignores_the_request_s_input_is_no_error() -> None:
    async def scenario() -> None:
        with target() as one:
            one.hang_up()
            await fed(one, b"x" * (3 << 20), end=True)
            assert one.closes == 1

    asyncio.run(scenario())


def test_whoever_waits_for_room_is_told_of_the_end() -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one)
            writing = asyncio.ensure_future(writer.write(0, b"x" * (4 * PIPE_KEEPS), end=False))
            await asyncio.sleep(0.01)
            assert not writing.done()
            writer.hang_up()
            one.hang_up()
            with pytest.raises(InputUnread) as raised:
                await writing
            assert reason_of(raised) == "STDIN_CLOSED"

    asyncio.run(scenario())


def test_whoever_waits_for_the_start_is_told_of_the_end() -> None:
    async def scenario() -> None:
        with target() as one:
            writing = asyncio.ensure_future(one.writer.write(0, b"x", end=False))
            await asyncio.sleep(0)
            one.writer.hang_up()
            with pytest.raises(InputUnread) as raised:
                await writing
            assert reason_of(raised) == "STDIN_CLOSED"
            assert not one.recorded

    asyncio.run(scenario())


def test_a_caller_that_goes_away_in_the_middle_loses_no_byte() -> None:
    """What counts as written has to arrive: the caller's repeat is told that it did."""

    async def scenario() -> None:
        with target() as one:
            writer = await fed(one)
            data = bytes(range(256)) * (PIPE_KEEPS // 64)
            writing = asyncio.ensure_future(writer.write(0, data, end=False))
            await asyncio.sleep(0.01)
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            again = asyncio.ensure_future(writer.write(0, data, end=True))
            found = b""
            while not again.done():
                found += one.drain()
                await asyncio.sleep(0)
            assert await again == len(data)
            assert found + one.drain() == bytes(one.recorded) == data
            assert one.closes == 1

    asyncio.run(scenario())


def test_a_program_that_ends_while_its_input_is_recorded_has_closed_it() -> None:
    """Recording may take a thread: what the request began with is not counted yet then."""

    async def scenario() -> None:
        recording, go_on = asyncio.Event(), asyncio.Event()

        async def record(data: bytes) -> None:
            recording.set()
            await go_on.wait()
            raise InvariantError("RECORDER_CLOSED", "the call has ended")

        with target() as one:
            writer = StdinWriter(record, 1 << 30)
            writer.open(one.write_fd, one.close)
            feed = asyncio.ensure_future(writer.feed(b"abc", end=False))
            await recording.wait()
            writer.hang_up()  # as the call does when its program has ended
            feed.cancel()
            with pytest.raises(InputUnread, match="closed"):
                await writer.write(3, b"def", end=False)

            writer = StdinWriter(record, 1 << 30)
            writer.open(one.write_fd, one.close)
            await writer.feed(b"", end=False)
            recording.clear()
            first = asyncio.ensure_future(writer.write(0, b"abc", end=False))
            await recording.wait()
            second = asyncio.ensure_future(writer.write(3, b"def", end=False))
            writer.hang_up()
            go_on.set()
            for one_write in (first, second):
                with pytest.raises(InputUnread) as raised:
                    await one_write
                assert raised.value.reason == "STDIN_CLOSED"
            assert one.drain() == b""

    asyncio.run(scenario())


def test_what_cannot_be_recorded_is_not_written() -> None:
    async def refuse(data: bytes) -> None:
        raise AuditUnavailable("RECORD_FULL", "full")

    async def scenario() -> None:
        with target() as one:
            writer = StdinWriter(refuse, 1 << 30)
            writer.open(one.write_fd, one.close)
            await writer.feed(b"", end=False)
            with pytest.raises(AuditUnavailable):
                await writer.write(0, b"abc", end=False)
            assert one.drain() == b""
            assert writer.offset == 0

    asyncio.run(scenario())


@given(
    st.binary(min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30),
)
def test_whatever_is_sent_arrives_once_and_in_order(
    whole: bytes, attempts: list[tuple[int, int]]
) -> None:
    async def scenario() -> None:
        with target() as one:
            writer = await fed(one)
            for start, end in attempts:
                with contextlib.suppress(OutOfRange):
                    await writer.write(start, whole[start:end], end=False)
            found = one.drain()
            assert found == bytes(one.recorded) == whole[: writer.offset]
            await writer.write(writer.offset, whole[writer.offset :], end=True)
            assert found + one.drain() == whole

    asyncio.run(scenario())


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_several_callers_at_once_do_not_mix(cuts: list[int]) -> None:
    """Whichever order they come in, each repeats until it is its turn."""
    whole = bytes(range(sum(cuts)))

    async def scenario() -> None:
        with target() as one:
            writer = await fed(one)

            async def send(start: int, data: bytes) -> None:
                while True:
                    try:
                        await writer.write(start, data, end=False)
                    except OutOfRange:
                        await asyncio.sleep(0)
                    else:
                        return

            starts = [sum(cuts[:n]) for n in range(len(cuts))]
            parts = [
                (start, whole[start : start + n]) for start, n in zip(starts, cuts, strict=True)
            ]
            await asyncio.gather(*[send(*part) for part in reversed(parts)])
            assert one.drain() == bytes(one.recorded) == whole

    asyncio.run(scenario())


# Output.


class Taken:
    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    async def __call__(self, data: bytes) -> None:
        self.chunks.append(data)


@contextlib.contextmanager
def output() -> Iterator[tuple[int, int]]:
    pipe = make_pipe()
    os.set_blocking(pipe.read, False)
    ends = [pipe.read, pipe.write]
    try:
        yield pipe.read, pipe.write
    finally:
        for fd in ends:
            with contextlib.suppress(OSError):
                os.close(fd)


def test_everything_is_read_to_the_end() -> None:
    async def scenario() -> None:
        with output() as (read, write):
            taken = Taken()
            pump = asyncio.ensure_future(pump_output(read, taken, asyncio.Event(), asyncio.Event()))
            for n in range(20):
                os.write(write, b"%d\n" % n)
                await asyncio.sleep(0)
            os.close(write)
            await pump
            assert b"".join(taken.chunks) == b"".join(b"%d\n" % n for n in range(20))

    asyncio.run(scenario())


def test_small_writes_are_gathered() -> None:
    """Each chunk is an entry of the log."""

    async def scenario() -> None:
        with output() as (read, write):
            taken = Taken()
            gathering = asyncio.Event()

            async def take(data: bytes) -> None:
                await taken(data)
                gathering.set()

            pump = asyncio.ensure_future(pump_output(read, take, asyncio.Event(), asyncio.Event()))
            os.write(write, b"0")
            await gathering.wait()
            # In one go of the loop, so that no clock has a part in it.
            for _ in range(1000):
                os.write(write, b"x")
            os.close(write)
            await pump
            assert taken.chunks == [b"0", b"x" * 1000]

    asyncio.run(scenario())


def test_a_terminal_is_read_in_large_pieces_and_to_its_end() -> None:
    """A master gives less than 4 KiB at a time; nobody at the other side is EIO (pty(7))."""

    async def scenario() -> None:
        master, peer = os.openpty()
        for fd in (master, peer):
            os.set_blocking(fd, False)
        tty.setraw(peer)
        data = bytes(range(256)) * 100
        taken = Taken()
        pump = asyncio.ensure_future(
            pump_output(master, taken, asyncio.Event(), asyncio.Event(), terminal=True)
        )
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(peer, view) :]
            except BlockingIOError:
                await wait_writable(peer)
        os.close(peer)
        await pump
        os.close(master)
        assert b"".join(taken.chunks) == data
        assert max(map(len, taken.chunks)) > 4096

    asyncio.run(scenario())


def test_a_terminal_whose_program_does_not_read_holds_up_who_types() -> None:
    async def scenario() -> None:
        master, peer = os.openpty()
        os.set_blocking(master, False)
        tty.setraw(peer)
        writer = StdinWriter(lambda _: asyncio.sleep(0), 1 << 30)
        writer.open(master, lambda: None)
        await writer.feed(b"", end=False)
        typing = asyncio.ensure_future(writer.write(0, b"x" * (1 << 20), end=False))
        await asyncio.sleep(0.05)
        assert not typing.done()
        read = 0
        while read < 1 << 20:
            read += len(await asyncio.to_thread(os.read, peer, 1 << 20))
        assert await typing == 1 << 20
        os.close(peer)
        os.close(master)

    asyncio.run(scenario())


def test_the_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.engine.pumps.GATHER_S", 1e6)

    async def scenario() -> None:
        with output() as (read, write):
            taken, ended = Taken(), asyncio.Event()
            pump = asyncio.ensure_future(pump_output(read, taken, ended, asyncio.Event()))
            os.write(write, b"last words")
            os.close(write)
            await asyncio.sleep(0.01)
            assert not pump.done()
            ended.set()
            await pump
            assert taken.chunks == [b"last words"]

    asyncio.run(scenario())


def test_a_large_chunk_is_not_waited_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.engine.pumps.GATHER_S", 1e6)

    async def scenario() -> None:
        with output() as (read, write):
            taken = Taken()
            pump = asyncio.ensure_future(pump_output(read, taken, asyncio.Event(), asyncio.Event()))
            os.write(write, b"x" * SMALL_BYTES)
            os.close(write)
            await pump
            assert taken.chunks == [b"x" * SMALL_BYTES]

    asyncio.run(scenario())


def test_reading_waits_for_who_takes() -> None:
    async def scenario() -> None:
        with output() as (read, write):
            gate, taken = asyncio.Event(), Taken()

            async def take(data: bytes) -> None:
                await taken(data)
                await gate.wait()

            pump = asyncio.ensure_future(pump_output(read, take, asyncio.Event(), asyncio.Event()))
            os.write(write, b"x" * SMALL_BYTES)
            await asyncio.sleep(0.01)
            os.write(write, b"y")
            await asyncio.sleep(0.01)
            assert len(taken.chunks) == 1
            gate.set()
            os.close(write)
            await pump
            assert taken.chunks[1:] == [b"y"]

    asyncio.run(scenario())


def test_an_empty_pipe_is_at_its_end_when_everything_is_dead() -> None:
    """Its other end may still be in flight in a socket's queue, where nobody can use it."""

    async def scenario() -> None:
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        taken: list[bytes] = []
        dead = asyncio.Event()

        async def take(data: bytes) -> None:
            taken.append(data)

        pump = asyncio.ensure_future(pump_output(read, take, asyncio.Event(), dead))
        await asyncio.sleep(0)
        assert not pump.done()
        os.write(write, b"the rest")
        dead.set()
        await asyncio.wait_for(pump, 30)
        assert taken == [b"the rest"]
        os.close(read)
        os.close(write)

    asyncio.run(scenario())


def test_standard_input_is_bounded() -> None:
    async def scenario() -> None:
        target = Target(bytes_max=10)
        await target.writer.feed(b"12345678", end=False)
        with pytest.raises(InvalidRequest) as raised:
            await target.writer.write(8, b"901", end=False)
        assert raised.value.reason == "STDIN_TOO_LARGE"
        assert await target.writer.write(8, b"90", end=True) == 10
        assert bytes(target.recorded) == b"1234567890"

    asyncio.run(scenario())
