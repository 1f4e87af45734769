"""The journal's protocol against a stub of journald, and no real one: a socket and a reader of our
own, written after systemd's description of the format. tests/export has the real one."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.export.sink import SinkError
from supervisor.export.sinks.journald import JournaldOptions, JournaldSink, entry
from tests.unit.export.sinks.samples import event, texts

SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def descriptors() -> list[Path]:
    return list(Path("/proc/self/fd").iterdir())


def parse(data: bytes) -> list[tuple[str, bytes]]:
    fields = []
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            fields.append((name.decode(), value))
            data = rest
            continue
        (size,) = struct.unpack("<Q", rest[:8])
        assert rest[8 + size : 9 + size] == b"\n"
        fields.append((line.decode(), rest[8 : 8 + size]))
        data = rest[9 + size :]
    return fields


@contextlib.contextmanager
def journal(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(20.0)
        yield listener


def receive(listener: socket.socket) -> tuple[bytes, bool]:
    """Give a datagram, or what is in the memfd that it brings, and whether it brought one."""
    data, rights, _, _ = listener.recvmsg(1 << 24, socket.CMSG_SPACE(4))
    if not rights:
        return data, False
    assert not data
    fds = array.array("i")
    fds.frombytes(rights[0][2])
    (fd,) = fds
    try:
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == SEALED
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            return mapped[:], True
    finally:
        os.close(fd)


@given(st.binary() | texts().map(lambda text: text.encode("utf-8", "replace")), texts(), texts())
def test_no_value_begins_a_field(data: bytes, uid: str, kind: str) -> None:
    fields = parse(entry(event(7, data, uid=uid, kind=kind)))
    assert fields == [
        ("MESSAGE", data),
        ("PRIORITY", b"4"),
        ("SYSLOG_IDENTIFIER", b"stockade"),
        ("STOCKADE_UID", uid.encode("utf-8", "replace")),
        ("STOCKADE_INDEX", b"7"),
        ("STOCKADE_KIND", kind.encode("utf-8", "replace")),
        ("STOCKADE_CLASS", b"6003"),
        ("STOCKADE_TIME_NS", b"1795748000123456789"),
    ]


def test_small_and_large(tmp_path: Path) -> None:
    large = b"x" * 12_000_000

    async def go(listener: socket.socket) -> None:
        sink = JournaldSink(JournaldOptions(path=tmp_path / "socket"))
        before = len(descriptors())
        for data in (b"small", large, b"again"):
            got = asyncio.create_task(asyncio.to_thread(receive, listener))
            assert await sink.send([event(1, data)]) == []
            fields, by_file = await got
            assert dict(parse(fields))["MESSAGE"] == data
            assert by_file == (data == large)
        await sink.close()
        await sink.close()
        assert len(descriptors()) == before

    with journal(tmp_path / "socket") as listener:
        asyncio.run(go(listener))


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    async def go(listener: socket.socket) -> None:
        sink = JournaldSink(JournaldOptions(path=tmp_path / "socket"))
        batch = [event(number) for number in range(3000)]
        sending = asyncio.create_task(sink.send(batch))
        for number in range(3000):
            data, _ = await asyncio.to_thread(receive, listener)
            assert dict(parse(data))["STOCKADE_INDEX"] == b"%d" % number
        assert await sending == []
        await sink.close()

    with journal(tmp_path / "socket") as listener:
        asyncio.run(go(listener))


def test_who_takes_nothing(tmp_path: Path) -> None:
    async def go() -> None:
        sink = JournaldSink(JournaldOptions(path=tmp_path / "socket", stall_s=0.1))
        with pytest.raises(SinkError, match="takes nothing"):
            await sink.send([event(number) for number in range(3000)])

    with journal(tmp_path / "socket"):
        asyncio.run(go())


def test_nobody_is_there_and_then_somebody_new(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def go() -> None:
        sink = JournaldSink(JournaldOptions(path=path))
        with pytest.raises(SinkError, match=f"{path}: No such file"):
            await sink.send([event(1)])
        for _ in range(2):
            with journal(path) as listener:
                await sink.send([event(1)])
                receive(listener)
            path.unlink()
            with pytest.raises(SinkError):
                await sink.send([event(1)])
        await sink.close()

    asyncio.run(go())


def test_what_is_too_large_for_any_journal(tmp_path: Path) -> None:
    async def go(listener: socket.socket) -> None:
        sink = JournaldSink(JournaldOptions(path=tmp_path / "socket"))
        batch = [event(0, bytes(17 * 1024 * 1024)), event(1)]
        assert [one.position for one in await sink.send(batch)] == [0]
        assert dict(parse(receive(listener)[0]))["STOCKADE_INDEX"] == b"1"
        await sink.close()

    with journal(tmp_path / "socket") as listener:
        asyncio.run(go(listener))
