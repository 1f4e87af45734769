"""The journal: the one writer of the log.

`append` writes an entry into the page cache, at once and in order; `commit` waits until it is on
disk. One thread calls fdatasync for all who wait (group commit), and at least once a second while
anything is not yet durable. After each fdatasync the durable mark moves on.

If fdatasync, or a write for any reason but lack of space, fails once, the journal is finished: it
latches `failure`, tells everybody who waits, and never calls fdatasync again, because the kernel
may have marked the pages clean that it could not write (Rebello et al., USENIX ATC 2020).

Lack of space is not a failure. Blocks are kept allocated past the end of the log, so that an
entry that ends a running call always fits; every other entry leaves that reserve alone and is
refused. A segment may grow past its size where there is no room for a new one, or no descriptor:
everything that the journal writes to is open before it is needed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from supervisor.audit.entry import (
    NO_LEAF,
    Head,
    Leaf,
    Position,
    StoredEntry,
    encode_bodies,
    encode_entry,
    encode_frame,
    leaf_hash,
)
from supervisor.audit.frames import make_frames
from supervisor.audit.mark import NEW_NAME, DurableMark, open_mark
from supervisor.audit.recovery import LogEnd, recover
from supervisor.audit.segment import MAGIC, segment_name, write_again, write_exactly
from supervisor.audit.shortage import NO_DESCRIPTORS, SHORTAGES, Spare
from supervisor.audit.space import NO_SPACE, Allocator, free_bytes, sync_directory
from supervisor.call.types import Json
from supervisor.errors import AuditUnavailable, CapacityError, StockadeError

RETRY_AFTER_S = 5.0

FRESH_MAX = 8192
"""Entries that are appended and not durable, before nobody waits any longer to make them so."""

OnDurable = Callable[[Sequence[Leaf]], None]
"""Takes the entries that have become durable."""


class JournalObserver(Protocol):
    """Who wants to know how the journal does. Called from the journal's own thread."""

    def fsynced(self, seconds: float, entries: int) -> None:
        """Take note of one fdatasync that made so many entries durable."""

    def size(self, log_bytes: int) -> None:
        """Take note of the size of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalOptions:
    """Sizes. `free_bytes_min` is left for recordings and the index before a call is admitted."""

    segment_bytes: int = 64 << 20
    reserve_bytes: int = 4 << 20
    reserve_call_bytes: int = 128 << 10
    allocate_step_bytes: int = 4 << 20
    free_bytes_min: int = 8 << 20
    linger_s: float = 1.0


class Journal:
    """An open log. Every method may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        end: LogEnd,
        *,
        options: JournalOptions,
        observer: JournalObserver | None,
        on_fatal: Callable[[StockadeError], None] | None,
        on_durable: OnDurable | None,
    ) -> None:
        self._directory = directory
        self._options = options
        self._observer = observer
        self._on_fatal = on_fatal
        self._on_durable = on_durable
        self._fresh: list[Leaf] = []
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._segments = list(end.segments)
        self._size, self._leaf = end.size, end.leaf
        self._segment, self._offset = end.end.segment, end.end.offset
        self._sealed_bytes = end.total_bytes - end.end.offset
        self._allocator = Allocator(directory)
        self._allocated = self._offset
        self._live_calls = 0
        self._unreserved = 0  # Up to here the log may grow and leave the reserve alone.
        self._durable = 0
        self.settled = end.size  # Durable, and handed over.
        self._waiting: list[Callable[[StockadeError | None], None]] = []
        self._closing = False
        self.failure: StockadeError | None = None
        self._fd = os.open(directory / segment_name(self._segment), os.O_RDWR | os.O_CLOEXEC)
        self._mark_fd = open_mark(directory)
        self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._spare = Spare()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        options: JournalOptions,
        observer: JournalObserver | None = None,
        on_fatal: Callable[[StockadeError], None] | None = None,
        on_durable: OnDurable | None = None,
    ) -> tuple[Journal, LogEnd]:
        """Recover the log in `directory`, or begin one, and make all of it durable.

        `on_durable` gets the entries that are appended, with their leaf hashes, in order, once they
        are durable and before anybody is told so, and none where there are none for `linger_s`:
        from the journal's thread, which latches what it raises.

        Raises:
            AuditCorrupt: `CHAIN_BROKEN`, where it is damaged.
        """
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / NEW_NAME).unlink(missing_ok=True)
        end = recover(directory)
        if end is None:
            os.close(open_mark(directory))
            _create_segment(directory, 0)
            origin = Position(segment=0, offset=len(MAGIC))
            end = LogEnd(
                segments=(0,),
                size=0,
                leaf=NO_LEAF,
                end=origin,
                durable_offset=origin.offset,
                total_bytes=origin.offset,
            )
        journal = cls(
            directory,
            end,
            options=options,
            observer=observer,
            on_fatal=on_fatal,
            on_durable=on_durable,
        )
        write_again(journal._fd, end.durable_offset, end.end.offset)
        os.fdatasync(journal._fd)
        journal._move_mark(end.size, end.leaf, end.end)
        os.fsync(journal._mark_fd)
        os.fsync(journal._directory_fd)
        journal._thread.start()
        return journal, end

    @property
    def tail(self) -> Position:
        """Give where the next frame will begin."""
        with self._lock:
            return Position(segment=self._segment, offset=self._offset)

    @property
    def head(self) -> tuple[int, bytes]:
        """Give the number of entries and the leaf hash of the last."""
        with self._lock:
            return self._size, self._leaf

    @property
    def segments(self) -> tuple[int, ...]:
        """Give the first indices of all segments."""
        with self._lock:
            return tuple(self._segments)

    @property
    def directory(self) -> Path:
        """Give the folder of the log."""
        return self._directory

    @property
    def reserve_is_promised(self) -> bool:
        """Say whether the reserve consists of allocated blocks, not of a look at free space."""
        return self._allocator.promised

    def set_live_calls(self, count: int) -> None:
        """Say for how many calls an outcome must fit."""
        with self._lock:
            self._live_calls = count
            self._unreserved = 0  # `_reserve` looks again.

    def admit(self, live_calls: int) -> None:
        """Make sure that one more call than `live_calls` can be recorded.

        Raises:
            AuditUnavailable: `JOURNAL_UNAVAILABLE`.
            CapacityError: `JOURNAL_FULL`.
        """
        with self._lock:
            self._check()
            try:
                room = self._reserve(self._offset, max(live_calls, self._live_calls) + 1)
                free = free_bytes(self._directory)
            except OSError as error:
                raise self._fail("statvfs", error) from error
        if not room or free < self._options.free_bytes_min:
            kept = self._options.free_bytes_min >> 20
            raise journal_full(f"{free >> 20} MiB are free, {kept} MiB are kept free")

    def append(
        self,
        kind: str,
        body: Mapping[str, Json],
        *,
        time_ns: int,
        call: str = "",
        sequence: int = 0,
        reserved: bool = False,
    ) -> StoredEntry:
        """Write one entry into the page cache; `reserved` entries may use the reserve.

        Raises:
            AuditUnavailable: `RECORD_FULL`, and the next one may succeed; `JOURNAL_UNAVAILABLE`,
                and none will.
        """
        with self._lock:
            head = self._next(kind, time_ns, call, sequence)
            payload = encode_entry(head, body)
            leaf = leaf_hash(payload)
            frame = encode_frame(payload, leaf, self._durable)
            position = self._put(frame, [(payload, leaf)], reserved=reserved)
        return StoredEntry(head=head, json=payload, leaf=leaf.hex(), position=position)

    def append_many(
        self,
        kind: str,
        bodies: Sequence[Mapping[str, Json]],
        *,
        time_ns: int,
        call: str,
        sequence: int,
    ) -> StoredEntry:
        """Write entries of one kind and call, two at least, whose sequences follow each other from
        `sequence` on: all of them or none. Give the last.

        Raises:
            AuditUnavailable: as `append`.
        """
        encoded = encode_bodies(bodies)
        with self._lock:
            first = self._next(kind, time_ns, call, sequence)
            made = make_frames(first, encoded, self._durable)
            begin = self._put(made.data, list(zip(made.payloads, made.leaves, strict=True)))
        *_, before, last = made.leaves
        more = len(bodies) - 1
        head = replace(first, index=first.index + more, sequence=sequence + more, prev=before)
        position = Position(begin.segment, begin.offset + made.ends[-2])
        return StoredEntry(head=head, json=made.payloads[-1], leaf=last.hex(), position=position)

    def _next(self, kind: str, time_ns: int, call: str, sequence: int) -> Head:
        """Give the head of the next entry."""
        if self.failure is not None or self._closing:
            self._check()
        return Head(
            index=self._size,
            prev=self._leaf,
            time_ns=time_ns,
            kind=kind,
            call=call,
            sequence=sequence,
        )

    def _put(self, frames: bytes, entries: Sequence[Leaf], *, reserved: bool = False) -> Position:
        """Write what comes next; give where it begins.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        end = self._offset + len(frames)
        if not reserved and end > self._unreserved:
            self._require_reserve(end)
        self._write(frames)
        position = Position(self._segment, self._offset)
        self._size, self._leaf = self._size + len(entries), entries[-1][1]
        self._offset = end
        if self._on_durable is not None:
            self._fresh += entries
            if len(self._fresh) >= FRESH_MAX:
                self._wake.notify()
        return position

    async def commit(self) -> None:
        """Wait until everything that was appended is on disk.

        Raises:
            AuditUnavailable: `JOURNAL_UNAVAILABLE`; what was appended may be lost.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def end(failure: StockadeError | None) -> None:
            with contextlib.suppress(RuntimeError):  # of a loop that is closed nobody waits
                loop.call_soon_threadsafe(_settle, done, failure)

        if self._request_sync(end):
            await done

    def sync(self) -> None:
        """Do what `commit` does, outside of an event loop."""
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        if self._request_sync(lambda failure: _settle(done, failure)):
            done.result()

    def fail(self, what: str, error: OSError) -> StockadeError:
        """Latch a failure that another file of the record had; give the error to raise."""
        with self._lock:
            return self._fail(what, error)

    def close(self) -> None:
        """Make everything durable, stop the thread and close the files."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        if self.failure is None:
            os.fsync(self._mark_fd)
        self._spare.give()
        for fd in (self._directory_fd, self._mark_fd, self._fd):
            os.close(fd)

    def _check(self) -> None:
        if self.failure is not None:
            raise _again(self.failure)
        if self._closing:
            raise AuditUnavailable("JOURNAL_UNAVAILABLE", "the journal is closed")

    def _require_reserve(self, end: int) -> None:
        """Make sure that the reserve lies past `end`; note how far it would.

        Raises:
            AuditUnavailable: `RECORD_FULL`.
        """
        if not self._reserve(end, self._live_calls):
            raise _record_full(None)
        options = self._options
        kept = options.reserve_bytes + options.reserve_call_bytes * self._live_calls
        self._unreserved = self._allocated - kept

    def _reserve(self, tail: int, live_calls: int) -> bool:
        """Say whether the reserve lies past `tail`, after trying to have it."""
        options = self._options
        wanted = tail + options.reserve_bytes + options.reserve_call_bytes * live_calls
        if self._allocated >= wanted:
            return True
        begin = max(self._allocated, self._offset)
        try:
            self._allocated = self._allocator.extend(
                self._fd, begin, wanted, options.allocate_step_bytes
            )
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise self._fail("fallocate", error) from error
            return False
        return True

    def _write(self, frame: bytes) -> None:
        try:
            write_exactly(self._fd, frame, self._offset)
        except OSError as error:
            if error.errno in NO_SPACE:
                # The promise of the reserve was broken: it has to be given anew.
                self._allocated, self._unreserved = self._offset, 0
                self._take_back()
                raise _record_full(error) from error
            raise self._fail("pwrite", error) from error

    def _take_back(self) -> None:
        """Cut off what was written of what did not fit: some of its frames may be whole."""
        try:
            os.ftruncate(self._fd, self._offset)
        except OSError as error:
            raise self._fail("ftruncate", error) from error

    def _fail(self, what: str, error: OSError) -> StockadeError:
        if self.failure is None:
            self.failure = AuditUnavailable(
                "JOURNAL_UNAVAILABLE",
                f"{what} on the record failed: {error.strerror or error}",
                hint="look at the disk under the state directory, then start the daemon again",
                metadata={"errno": errno.errorcode.get(error.errno or 0, "")},
            )
            self._wake.notify()
        return _again(self.failure)

    def _request_sync(self, end: Callable[[StockadeError | None], None]) -> bool:
        """Have `end` called from the journal's thread, once all that is appended is durable, or
        cannot be; give False where it is durable already."""
        with self._wake:
            self._check()
            if self.settled == self._size:
                return False
            self._waiting.append(end)
            self._wake.notify()
        return True

    def _run(self) -> None:
        """Be the one who calls fdatasync, until closed or failed."""
        while True:
            with self._wake:
                if not self._waiting and not self._closing and self.failure is None:
                    self._wake.wait(self._options.linger_s)
                waiting, self._waiting = self._waiting, []
                fresh, self._fresh = self._fresh, []
                size, leaf = self._size, self._leaf
                end = Position(segment=self._segment, offset=self._offset)
                closing, failure = self._closing, self.failure
                entries = size - self._durable
            if failure is None and entries:
                failure = self._sync(size, leaf, end, entries)
            if failure is None and self._on_durable is not None:
                failure = self._hand_over(fresh, self._on_durable)
            if failure is None:
                with self._lock:
                    self.settled = size
            for end_wait in waiting:
                end_wait(failure and _again(failure))
            if failure is not None or (closing and not self._pending()):
                self._refuse_waiting()
                break
        if self.failure is not None and self._on_fatal is not None:
            self._on_fatal(self.failure)

    def _hand_over(self, fresh: Sequence[Leaf], on_durable: OnDurable) -> StockadeError | None:
        try:
            on_durable(fresh)
        except OSError as error:
            return self.fail("the tree", error)
        except StockadeError as error:
            with self._lock:
                self.failure = self.failure or error
            return error
        return None

    def _pending(self) -> bool:
        with self._lock:
            return self._size != self._durable or bool(self._fresh)

    def _refuse_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            failure = self.failure or AuditUnavailable("JOURNAL_UNAVAILABLE", "it is closed")
        for end_wait in waiting:
            end_wait(_again(failure))

    def _sync(self, size: int, leaf: bytes, end: Position, entries: int) -> StockadeError | None:
        begin = time.monotonic()
        try:
            os.fdatasync(self._fd)
            self._move_mark(size, leaf, end)
            if end.offset >= self._options.segment_bytes:
                self._roll()
        except OSError as error:
            return self.fail("fdatasync", error)
        if self._observer is not None:
            self._observer.fsynced(time.monotonic() - begin, entries)
            self._observer.size(self._sealed_bytes + end.offset)
        return None

    def _move_mark(self, size: int, leaf: bytes, end: Position) -> None:
        try:
            write_exactly(self._mark_fd, DurableMark(size=size, leaf=leaf, end=end).encode(), 0)
        except OSError as error:
            # A filesystem that copies on write can be full even for this. The mark may lag: the
            # frames that follow say what was durable, too.
            if error.errno not in NO_SPACE:
                raise
        with self._lock:
            self._durable = size

    def _roll(self) -> None:
        """Begin a new segment, if there is room for it and its reserve, and a descriptor; else go
        on with the old, and try again after the next entry.

        All entries and the mark are made durable first, so a segment that is not the last is
        whole.
        """
        with self._lock:
            os.fdatasync(self._fd)
            end = Position(segment=self._segment, offset=self._offset)
            mark = DurableMark(size=self._size, leaf=self._leaf, end=end)
            write_exactly(self._mark_fd, mark.encode(), 0)
            os.fsync(self._mark_fd)
            self._durable = self._size
            try:
                fd, allocated = self._open_next()
            except OSError as error:
                (self._directory / NEW_NAME).unlink(missing_ok=True)
                self._spare.take_back()
                if error.errno in NO_SPACE | SHORTAGES:
                    return
                raise
            os.fsync(self._directory_fd)
            os.ftruncate(self._fd, self._offset)  # gives back what was allocated past the end
            os.close(self._fd)
            self._spare.take_back()  # where it was used, the old segment has just made room
            self._sealed_bytes += self._offset
            self._fd, self._allocated, self._unreserved = fd, allocated, 0
            self._segment, self._offset = self._size, len(MAGIC)
            self._segments.append(self._segment)

    def _open_next(self) -> tuple[int, int]:
        options = self._options
        wanted = options.reserve_bytes + options.reserve_call_bytes * (self._live_calls + 1)
        fd = self._make_next()
        try:
            allocated = self._allocator.extend(
                fd, len(MAGIC), len(MAGIC) + wanted, options.allocate_step_bytes
            )
            (self._directory / NEW_NAME).rename(self._directory / segment_name(self._size))
        except OSError:
            os.close(fd)
            raise
        return fd, allocated

    def _make_next(self) -> int:
        try:
            return _make_segment(self._directory)
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS or not self._spare.held:
                raise
        self._spare.give()
        return _make_segment(self._directory)


def _settle(
    waiter: asyncio.Future[None] | concurrent.futures.Future[None], failure: StockadeError | None
) -> None:
    if failure is None and not waiter.done():
        waiter.set_result(None)
    elif failure is not None and not waiter.done():  # else it was cancelled
        waiter.set_exception(failure)


def _again(failure: StockadeError) -> StockadeError:
    """Give a copy to raise: an exception that is raised again and again keeps every traceback."""
    return AuditUnavailable(
        failure.reason, failure.message, hint=failure.hint, metadata=failure.metadata
    )


def _create_segment(directory: Path, first: int) -> None:
    os.close(_make_segment(directory))
    (directory / NEW_NAME).rename(directory / segment_name(first))
    sync_directory(directory)


def _make_segment(directory: Path) -> int:
    path = directory / NEW_NAME
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_exactly(fd, MAGIC, 0)
        os.fsync(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _record_full(error: OSError | None) -> AuditUnavailable:
    detail = f": {error.strerror}" if error else ""
    return AuditUnavailable(
        "RECORD_FULL",
        f"the record has no room for this{detail}",
        hint="make room on the filesystem of the state directory",
        retry_after_s=RETRY_AFTER_S,
    )


def journal_full(message: str) -> CapacityError:
    """Make the error for a call of which the record has no room."""
    return CapacityError(
        "JOURNAL_FULL",
        f"the record has no room for another call: {message}",
        hint="make room on the filesystem of the state directory",
        retry_after_s=RETRY_AFTER_S,
    )
