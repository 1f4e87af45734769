"""The one writer of the log: order, group commit, failures, the reserve, segments."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit import journal as journal_module
from supervisor.audit import space
from supervisor.audit.entry import NO_LEAF, Kind, Position
from supervisor.audit.journal import Journal, JournalOptions, Leaf
from supervisor.audit.mark import read_mark
from supervisor.audit.reading import read_log
from supervisor.audit.segment import MAGIC, list_segments
from supervisor.errors import AuditUnavailable, CapacityError, StockadeError
from tests.support.descriptors import no_descriptors

START = Position(segment=0, offset=len(MAGIC))
QUIET = JournalOptions(linger_s=60.0)


@contextlib.contextmanager
def opened(directory: Path, **options: Any) -> Iterator[Journal]:
    chosen = JournalOptions(**{"linger_s": 60.0, **options})
    journal, _ = Journal.open(directory / "log", options=chosen)
    try:
        yield journal
    finally:
        journal.close()


def append(journal: Journal, number: int = 0, **more: Any) -> None:
    journal.append(Kind.DAEMON_STARTED, {"number": number}, time_ns=number, **more)


class Fsync:
    """Stands in for fdatasync: counts, waits, fails."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.count = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, fd: int) -> None:
        self.count += 1
        self.gate.wait(10)
        if self.error is not None:
            raise self.error


def test_entries_are_chained_and_numbered(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for number in range(5):
            append(journal, number)
        entries = list(read_log(journal, START))
        assert [entry.index for entry in entries] == list(range(5))
        links = [NO_LEAF.hex(), *(entry.leaf for entry in entries)]
        assert [entry.head.prev.hex() for entry in entries] == links[:-1]
        assert journal.head == (5, bytes.fromhex(links[-1]))


def test_the_log_goes_on_after_closing(tmp_path: Path) -> None:
    for number in range(3):
        with opened(tmp_path) as journal:
            append(journal, number)
    with opened(tmp_path) as journal:
        assert [entry.body()["number"] for entry in read_log(journal, START)] == [0, 1, 2]


def test_threads_append_in_one_order(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        threads = [
            threading.Thread(target=lambda: [append(journal) for _ in range(50)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [entry.index for entry in read_log(journal, START)] == list(range(200))


def test_commit_moves_the_durable_mark(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal)
        before = read_mark(tmp_path / "log")
        asyncio.run(journal.commit())
        after = read_mark(tmp_path / "log")
    assert before is not None
    assert before.size == 0
    assert after is not None
    assert after.size == 1


def test_waiters_share_one_fdatasync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def many(journal: Journal, fsync: Fsync) -> None:
        append(journal)
        first = asyncio.ensure_future(journal.commit())
        while not fsync.count:
            await asyncio.sleep(0.001)
        others = []
        for number in range(20):
            append(journal, number)
            others.append(asyncio.ensure_future(journal.commit()))
        await asyncio.sleep(0)
        assert not first.done()
        fsync.gate.set()
        await asyncio.gather(first, *others)

    with opened(tmp_path) as journal:
        fsync = Fsync()
        fsync.gate.clear()
        monkeypatch.setattr(os, "fdatasync", fsync)
        asyncio.run(many(journal, fsync))
        assert fsync.count == 2


def test_commit_of_nothing_new_does_not_touch_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as journal:
        append(journal)
        journal.sync()
        fsync = Fsync()
        monkeypatch.setattr(os, "fdatasync", fsync)
        asyncio.run(journal.commit())
        assert fsync.count == 0


def test_what_nobody_waits_for_becomes_durable_too(tmp_path: Path) -> None:
    durable = threading.Event()

    class Observer:
        def fsynced(self, seconds: float, entries: int) -> None:
            assert entries == 1
            durable.set()

        def size(self, log_bytes: int) -> None:
            assert log_bytes > len(MAGIC)

    options = JournalOptions(linger_s=0.01)
    journal, _ = Journal.open(tmp_path / "log", options=options, observer=Observer())
    append(journal)
    assert durable.wait(10)
    journal.close()


def test_a_cancelled_waiter_does_not_disturb(tmp_path: Path) -> None:
    async def scenario(journal: Journal) -> None:
        append(journal)
        waiter = asyncio.ensure_future(journal.commit())
        await asyncio.sleep(0)
        waiter.cancel()
        append(journal)
        await journal.commit()

    with opened(tmp_path) as journal:
        asyncio.run(scenario(journal))
        assert journal.failure is None


def test_who_waited_in_a_loop_that_is_closed_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = Fsync()
    monkeypatch.setattr(os, "fdatasync", fsync)
    with opened(tmp_path) as journal:
        fsync.gate.clear()
        append(journal)

        async def ask() -> None:
            waiting = asyncio.ensure_future(journal.commit())
            await asyncio.sleep(0)
            waiting.cancel()

        asyncio.run(ask())
        fsync.gate.set()
        append(journal)
        journal.sync()
        asyncio.run(journal.commit())
        assert journal.failure is None


def test_a_failed_fdatasync_is_final_and_never_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[StockadeError] = []
    journal, _ = Journal.open(tmp_path / "log", options=QUIET, on_fatal=told.append)
    fsync = Fsync(OSError(errno.EIO, "bad disk"))
    monkeypatch.setattr(os, "fdatasync", fsync)

    async def scenario() -> list[BaseException | None]:
        append(journal)
        waits = [journal.commit() for _ in range(3)]
        return await asyncio.gather(*waits, return_exceptions=True)

    for error in asyncio.run(scenario()):
        assert isinstance(error, AuditUnavailable)
        assert error.reason == "JOURNAL_UNAVAILABLE"
    for attempt in (lambda: append(journal), journal.sync, lambda: journal.admit(0)):
        with pytest.raises(AuditUnavailable) as caught:
            attempt()
        assert caught.value.reason == "JOURNAL_UNAVAILABLE"
    journal.close()
    assert fsync.count == 1
    assert [error.reason for error in told] == ["JOURNAL_UNAVAILABLE"]
    mark = read_mark(tmp_path / "log")
    assert mark is not None
    assert mark.size == 0


@pytest.mark.parametrize(
    ("code", "reason", "final"),
    [
        (errno.ENOSPC, "RECORD_FULL", False),
        (errno.EDQUOT, "RECORD_FULL", False),
        (errno.EIO, "JOURNAL_UNAVAILABLE", True),
    ],
)
def test_a_failed_write(
    code: int, reason: str, final: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as journal:
        append(journal, 1)

        def fail(fd: int, data: bytes, offset: int) -> int:
            raise OSError(code, "no")

        with monkeypatch.context() as patch, pytest.raises(AuditUnavailable) as caught:
            patch.setattr(os, "pwrite", fail)
            append(journal, 2)
        assert caught.value.reason == reason
        assert (journal.failure is not None) == final
        if not final:
            append(journal, 3)
            assert [entry.body()["number"] for entry in read_log(journal, START)] == [1, 3]


def test_a_mark_that_cannot_be_moved_may_lag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if Path(f"/proc/self/fd/{fd}").readlink().name == "durable":
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data, offset)

    with opened(tmp_path) as journal, monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        append(journal, 1)
        journal.sync()
        append(journal, 2)
        journal.sync()
        assert journal.failure is None
    with opened(tmp_path) as journal:
        assert journal.head[0] == 2


def test_a_half_written_entry_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def half(fd: int, data: bytes, offset: int) -> int:
        if len(data) < 60:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data[: len(data) // 2], offset)

    with opened(tmp_path) as journal:
        with monkeypatch.context() as patch, pytest.raises(AuditUnavailable):
            patch.setattr(os, "pwrite", half)
            append(journal, 1)
        append(journal, 2)
    with opened(tmp_path) as journal:
        assert [entry.body()["number"] for entry in read_log(journal, START)] == [2]


class Disk:
    """Stands in for fallocate on a disk with so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, fd: int, offset: int, length: int) -> None:
        if length > self.room:
            raise OSError(errno.ENOSPC, "full")
        self.room -= length


def test_the_reserve_is_for_those_who_may_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(12_000)
    monkeypatch.setattr(space, "fallocate_keep_size", disk)
    sizes = {"reserve_bytes": 4000, "reserve_call_bytes": 2000, "allocate_step_bytes": 0}
    with opened(tmp_path, **sizes, free_bytes_min=0) as journal:
        journal.admit(0)
        journal.set_live_calls(1)
        with pytest.raises(AuditUnavailable) as caught:
            for _ in range(100):
                append(journal)
        assert caught.value.reason == "RECORD_FULL"
        with pytest.raises(CapacityError) as refused:
            journal.admit(1)
        assert refused.value.reason == "JOURNAL_FULL"
        assert refused.value.retry_after_s is not None
        append(journal, reserved=True)
        disk.room += 100_000
        journal.admit(1)
        append(journal)


def test_a_reserve_that_was_promised_in_vain_has_to_be_given_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(1 << 30)
    monkeypatch.setattr(space, "fallocate_keep_size", disk)
    pwrite = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    with opened(tmp_path, free_bytes_min=0) as journal:
        append(journal)
        journal.admit(0)
        disk.room = 0
        journal.admit(0)  # the promise holds
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(AuditUnavailable) as caught:
            append(journal)
        assert caught.value.reason == "RECORD_FULL"
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(CapacityError) as refused:
            journal.admit(0)
        assert refused.value.reason == "JOURNAL_FULL"
        disk.room = 1 << 30
        journal.admit(0)
        append(journal)


def test_admission_needs_room_for_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, free_bytes_min=1000) as journal:
        monkeypatch.setattr(journal_module, "free_bytes", lambda directory: 999)
        with pytest.raises(CapacityError) as caught:
            journal.admit(0)
        assert caught.value.reason == "JOURNAL_FULL"
        monkeypatch.setattr(journal_module, "free_bytes", lambda directory: 1000)
        journal.admit(0)


def test_segments_follow_each_other(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=1000) as journal:
        for number in range(40):
            append(journal, number)
            journal.sync()
        segments = journal.segments
        assert len(segments) > 5
        assert [entry.index for entry in read_log(journal, START)] == list(range(40))
    assert list_segments(tmp_path / "log") == list(segments)
    with opened(tmp_path, segment_bytes=1000) as journal:
        assert journal.segments == segments
        assert [entry.index for entry in read_log(journal, START)] == list(range(40))


def test_a_segment_grows_where_there_is_no_room_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(30_000)
    monkeypatch.setattr(space, "fallocate_keep_size", disk)
    sizes = {"reserve_bytes": 8000, "reserve_call_bytes": 0, "allocate_step_bytes": 0}
    with opened(tmp_path, segment_bytes=1000, **sizes) as journal:
        journal.admit(0)
        disk.room = 7000
        for number in range(10):
            append(journal, number)
            journal.sync()
        assert journal.segments == (0,)
        assert journal.failure is None
        disk.room = 100_000
        append(journal)
        journal.sync()
        assert len(journal.segments) == 2
    assert not (tmp_path / "log" / "new").exists()


def fill_and_sync(journal: Journal, numbers: range) -> None:
    for number in numbers:
        append(journal, number)
        journal.sync()


def test_a_segment_begins_without_a_free_descriptor(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=1000) as journal:
        with no_descriptors():
            fill_and_sync(journal, range(20))
            assert len(journal.segments) > 2
            assert journal.failure is None
            assert journal._spare.held
        assert [entry.body()["number"] for entry in read_log(journal, START)] == list(range(20))


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_segment_grows_where_no_new_one_can_be_opened(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def exhausted(path: Path, *arguments: int) -> int:
        if Path(path).name in ("new", "null"):
            raise OSError(code, os.strerror(code))
        return real(path, *arguments)

    with opened(tmp_path, segment_bytes=1000) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", exhausted)
            fill_and_sync(journal, range(20))
            assert journal.segments == (0,)
            assert journal.failure is None
        fill_and_sync(journal, range(20, 22))
        assert len(journal.segments) == 2
        assert journal._spare.held
        numbers = [entry.body()["number"] for entry in read_log(journal, START)]
        assert numbers == list(range(22))
    with opened(tmp_path) as journal:
        assert journal.head[0] == 22


def test_reading_without_a_descriptor_fails_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        append(journal)
        with no_descriptors(), pytest.raises(CapacityError) as caught:
            list(read_log(journal, START))
        assert caught.value.reason == "FDS_EXHAUSTED"
        assert len(list(read_log(journal, START))) == 1


def test_what_is_durable_is_handed_over_before_anybody_is_told(tmp_path: Path) -> None:
    handed: list[Leaf] = []
    options = JournalOptions(linger_s=60.0, segment_bytes=600)
    journal, _ = Journal.open(tmp_path / "log", options=options, on_durable=handed.extend)
    for number in range(20):
        append(journal, number)
        if number % 3 == 0:
            journal.sync()
            mark = read_mark(tmp_path / "log")
            assert mark is not None
            assert len(handed) == mark.size == number + 1
    journal.close()
    again, _ = Journal.open(tmp_path / "log", options=options)
    read = [(entry.json, bytes.fromhex(entry.leaf)) for entry in read_log(again, START)]
    assert read == handed
    assert len(again.segments) > 1
    again.close()


def test_nobody_is_told_while_it_is_being_handed_over(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def take(entries: Sequence[Leaf]) -> None:
        if entries:
            begun.set()
            assert go_on.wait(10)

    async def scenario() -> None:
        journal, _ = Journal.open(tmp_path / "log", options=QUIET, on_durable=take)
        append(journal)
        first = asyncio.ensure_future(journal.commit())
        assert await asyncio.to_thread(begun.wait, 10)
        mark = read_mark(tmp_path / "log")
        assert mark is not None
        assert mark.size == 1  # It is durable, and who asks now has to wait all the same.
        second = asyncio.ensure_future(journal.commit())
        await asyncio.sleep(0.05)
        assert not (first.done() or second.done())
        go_on.set()
        await asyncio.gather(first, second)
        await asyncio.to_thread(journal.close)

    asyncio.run(scenario())


def test_many_that_nobody_waits_for_are_handed_over_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FRESH_MAX", 5)
    enough = threading.Event()
    handed: list[Leaf] = []

    def take(entries: Sequence[Leaf]) -> None:
        handed.extend(entries)
        enough.set()

    journal, _ = Journal.open(tmp_path / "log", options=QUIET, on_durable=take)
    for number in range(5):
        append(journal, number)
    assert enough.wait(10)
    journal.close()
    assert len(handed) == 5


FULL = AuditUnavailable("KEY_GONE", "the token was taken out")


@pytest.mark.parametrize(
    ("raised", "reason"),
    [(OSError(errno.EIO, "no"), "JOURNAL_UNAVAILABLE"), (FULL, "KEY_GONE")],
)
def test_what_cannot_take_it_is_the_end_of_the_journal(
    tmp_path: Path, raised: Exception, reason: str
) -> None:
    told: list[StockadeError] = []

    def fail(entries: Sequence[Leaf]) -> None:
        raise raised

    journal, _ = Journal.open(
        tmp_path / "log", options=QUIET, on_fatal=told.append, on_durable=fail
    )
    append(journal)
    with pytest.raises(AuditUnavailable) as caught:
        journal.sync()
    assert caught.value.reason == reason
    with pytest.raises(AuditUnavailable):
        append(journal)
    journal.close()
    assert [error.reason for error in told] == [reason]
