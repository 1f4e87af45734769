"""The log as an exporter reads it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.audit.entry import Position
from supervisor.audit.journal import Journal, JournalOptions
from supervisor.audit.reading import read_log
from supervisor.audit.segment import MAGIC, list_segments, segment_name
from supervisor.export.event import Entry
from supervisor.export.tail import Tail, TailError

BIG = 1 << 70


class Folder:
    """The segments of a log in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def firsts(self) -> Sequence[int]:
        return sorted(list_segments(self.path))

    async def open(self, first: int) -> int:
        return os.open(self.path / segment_name(first), os.O_RDONLY | os.O_CLOEXEC)


class Counted(Folder):
    """Notes which segments are opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.opened: list[int] = []

    async def open(self, first: int) -> int:
        self.opened.append(first)
        return await super().open(first)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    options = JournalOptions(linger_s=60.0, segment_bytes=3000)
    return Journal.open(tmp_path / "log", options=options)[0]


START = Position(segment=0, offset=len(MAGIC))


def write(journal: Journal, count: int, *, body: object = None) -> None:
    for _ in range(count):
        at = journal.head[0]
        journal.append("denied", {"n": at, "more": body}, time_ns=at + 5, call="call-1", sequence=1)
        journal.sync()


async def read_all(tail: Tail, durable: int) -> list[Entry]:
    found: list[Entry] = []
    while some := await tail.read(durable):
        found += some
    return found


def all_of(journal: Journal, index: int = 0, leaf: str | None = None) -> list[Entry]:
    async def read() -> list[Entry]:
        tail = Tail(Folder(journal.directory))
        try:
            await tail.seek(index, leaf)
            return await read_all(tail, journal.head[0])
        finally:
            tail.close()

    return asyncio.run(read())


def test_every_entry_comes_once_in_order_over_all_segments(journal: Journal) -> None:
    write(journal, 60)
    found = all_of(journal)
    assert len(journal.segments) > 4
    assert [entry.index for entry in found] == [entry.body["n"] for entry in found]
    assert [entry.index for entry in found] == list(range(60))
    seventh = Entry(
        7, found[7].leaf, 12, "denied", "call-1", 1, {"n": 7, "more": None}, 0, found[7].end
    )
    assert found[7] == seventh
    ends = [
        (stored.position.segment, stored.position.offset) for stored in read_log(journal, START)
    ]
    for entry, (segment, begin) in zip(found, ends[1:], strict=False):
        assert begin == entry.end or (segment > entry.segment and begin == len(MAGIC))
    assert (found[-1].segment, found[-1].end) == (journal.tail.segment, journal.tail.offset)
    assert found[-1].leaf == journal.head[1].hex()


def test_it_begins_at_any_entry(journal: Journal) -> None:
    write(journal, 40)
    whole = all_of(journal)
    for index in range(40):
        leaf = whole[index - 1].leaf if index else None
        assert all_of(journal, index, leaf) == whole[index:]
    assert all_of(journal, 40, whole[-1].leaf) == []


def test_it_goes_on_from_where_it_is_and_back(journal: Journal) -> None:
    write(journal, 60)
    folder = Counted(journal.directory)
    whole = all_of(journal)

    async def main() -> None:
        tail = Tail(folder)
        try:
            for index in range(60):
                await tail.seek(index)
                assert await tail.read(index + 1) == [whole[index]]
            # Each, and the one before it, which has the hash that it follows.
            assert len(folder.opened) == 2 * len(await folder.firsts()) - 1
            for index in (59, 3, 3, 4, 40, 2, 0, 58):
                await tail.seek(index, whole[index - 1].leaf if index else None)
                assert await tail.read(index + 1) == [whole[index]]
        finally:
            tail.close()

    asyncio.run(main())


def test_a_cursor_of_another_log_is_refused(journal: Journal) -> None:
    write(journal, 40)
    for index in range(1, 40):
        with pytest.raises(TailError, match=f"entry {index - 1} of this log is not the one"):
            all_of(journal, index, "ab" * 32)
    with pytest.raises(TailError, match="entry 41 is not in the log"):
        all_of(journal, 41)


def test_what_is_not_durable_does_not_get_out(journal: Journal) -> None:
    write(journal, 10)

    async def read() -> None:
        tail = Tail(Folder(journal.directory))
        await tail.seek(0)
        assert await tail.read(0) == []
        for durable in (1, 4, 5, 10):
            found = await read_all(tail, durable)
            assert found[-1].index == durable - 1 == tail.index - 1
        assert tail.leaf == journal.head[1].hex()
        write(journal, 3)
        assert [entry.index for entry in await read_all(tail, 13)] == [10, 11, 12]
        tail.close()

    asyncio.run(read())


@pytest.mark.parametrize("body", ["\ud800", BIG, "é\0\x1b[31m", {"deep": [1, 2.5, None, True]}])
def test_bodies_come_as_they_were(journal: Journal, body: object) -> None:
    write(journal, 3, body=body)
    assert [entry.body["more"] for entry in all_of(journal)] == [body] * 3


def test_damage_ends_the_reading_before_it(journal: Journal) -> None:
    write(journal, 40)
    path = journal.directory / segment_name(journal.segments[2])
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)

    async def read() -> list[Entry]:
        tail = Tail(Folder(journal.directory))
        await tail.seek(0)
        found: list[Entry] = []
        try:
            while some := await tail.read(40):
                found += some
        except TailError as error:
            assert segment_name(journal.segments[2])[:20].lstrip("0") in str(error)
        finally:
            tail.close()
        return found

    found = asyncio.run(read())
    assert [entry.index for entry in found] == list(range(len(found)))
    assert len(found) <= journal.segments[2] + 2


def test_a_segment_that_is_gone_is_an_error_and_no_end(journal: Journal) -> None:
    write(journal, 40)
    (journal.directory / segment_name(journal.segments[1])).unlink()
    with pytest.raises(TailError, match=f"entry {journal.segments[1]} is gone"):
        all_of(journal)
