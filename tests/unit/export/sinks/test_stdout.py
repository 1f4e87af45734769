"""Standard output: a pipe that somebody reads, reads slowly, or not at all."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.export.sink import SinkError
from supervisor.export.sinks.stdout import StdoutOptions, StdoutSink
from tests.unit.export.sinks.samples import event


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    pair = os.pipe()
    yield pair
    for fd in pair:
        if Path(f"/proc/self/fd/{fd}").is_symlink():
            os.close(fd)


def test_all_of_it_comes_out(ends: tuple[int, int]) -> None:
    got = bytearray()

    def read() -> None:
        while data := os.read(ends[0], 1000):
            got.extend(data)

    async def go() -> None:
        sink = StdoutSink(StdoutOptions(fd=ends[1]))
        batch = [event(number, b"%d " % number + b"x" * 3000) for number in range(300)]
        assert [one.position for one in await sink.send([*batch, event(0, b"\n")])] == [300]
        await sink.close()

    reader = threading.Thread(target=read)
    reader.start()
    asyncio.run(go())
    assert os.get_blocking(ends[1])
    os.close(ends[1])
    reader.join()
    assert got.split(b"\n") == [
        b"",
        *(b"%d " % number + b"x" * 3000 for number in range(300)),
        b"",
    ]


def test_nobody_reads_and_then_somebody_does(ends: tuple[int, int]) -> None:
    async def go() -> None:
        sink = StdoutSink(StdoutOptions(fd=ends[1], stall_s=0.2))
        with pytest.raises(SinkError, match="nobody reads"):
            await sink.send([event(0, b"x" * 500_000)])
        os.set_blocking(ends[0], False)
        before = os.read(ends[0], 1 << 20)
        assert before[:1] == b"\n" and b"\n" not in before[1:]
        await sink.send([event(0, b"a")])
        assert os.read(ends[0], 100) == b"\na\n"
        await sink.send([event(0, b"b")])
        assert os.read(ends[0], 100) == b"b\n"
        await sink.close()

    asyncio.run(go())


def test_who_read_is_gone(ends: tuple[int, int]) -> None:
    async def go() -> None:
        sink = StdoutSink(StdoutOptions(fd=ends[1]))
        os.close(ends[0])
        with pytest.raises(SinkError, match="Broken pipe"):
            await sink.send([event(0)])
        await sink.close()

    asyncio.run(go())


def test_close_ends_a_write_that_hangs(ends: tuple[int, int]) -> None:
    async def go() -> None:
        sink = StdoutSink(StdoutOptions(fd=ends[1]))
        sending = asyncio.create_task(sink.send([event(0, b"x" * 500_000)]))
        while not await asyncio.to_thread(os.read, ends[0], 1):
            continue
        await sink.close()
        with pytest.raises(SinkError, match="closed"):
            await sending

    asyncio.run(go())


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_nobody_has_read_trails(ends: tuple[int, int], kind: str) -> None:
    mine, theirs = socket.socketpair()
    reading, writing = ends if kind == "pipe" else (theirs.fileno(), mine.fileno())

    async def go() -> None:
        sink = StdoutSink(StdoutOptions(fd=writing))
        assert sink.trails() == 0
        await sink.send([event(0, b"aa"), event(1, b"bb")])
        await sink.send([event(2, b"cc"), event(3, b"\n")])
        assert sink.trails() == 3
        assert os.read(reading, 7) == b"\naa\nbb\n"
        if kind == "pipe":  # of a socket it is not told by the byte
            assert sink.trails() == 1
        assert os.read(reading, 6) == b"cc\n"
        assert sink.trails() == 0
        await sink.close()

    with mine, theirs:
        asyncio.run(go())


def test_a_file_has_read_it(tmp_path: Path) -> None:
    async def go(fd: int) -> None:
        sink = StdoutSink(StdoutOptions(fd=fd))
        await sink.send([event(0, b"aa")])
        assert sink.trails() == 0
        await sink.close()

    with (tmp_path / "out").open("wb") as file:
        asyncio.run(go(file.fileno()))
    assert (tmp_path / "out").read_bytes() == b"\naa\n"
