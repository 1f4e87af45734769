"""Reading the log back: the entries of a range or of one call, each checked on the way."""

from __future__ import annotations

import collections
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.audit.account import (
    digest_of,
    erasure_of,
    files_of,
    finished_of,
    inputs_of,
    ref_of,
    refs_instead,
    refs_of,
    removals_of,
    row_of_intent,
)
from supervisor.audit.blobs import BlobStore
from supervisor.audit.codec import denials_in
from supervisor.audit.entry import (
    LEAF_BYTES,
    Kind,
    Position,
    StoredEntry,
    mark_of_call,
    mark_of_index,
)
from supervisor.audit.index import (
    BlobRef,
    CallRow,
    Index,
    LowWater,
    with_last,
    with_outcome,
)
from supervisor.audit.journal import Journal
from supervisor.audit.recovery import check_link, corrupt
from supervisor.audit.runs import RUN_BYTES, Run, read_run
from supervisor.audit.search import SEARCHED
from supervisor.audit.segment import (
    MAGIC,
    BadFrame,
    Frame,
    find_frames,
    find_marked,
    read_exactly,
    read_frames,
    segment_name,
)
from supervisor.audit.shortage import open_to_read
from supervisor.audit.vault import Erasure, Removal
from supervisor.call.about import of_call
from supervisor.errors import AuditCorrupt, CapacityError, NotFound

BATCH_ROWS = 1000
SEGMENTS_A_READ = 4
"""Segments, of 64 MiB, that are looked through for the daemon's own entries at a time."""

log = logging.getLogger("stockade.audit")


def read_log(journal: Journal, start: Position) -> Iterator[StoredEntry]:
    """Give the entries from `start` to where the log ended when the reading began.

    Raises:
        AuditCorrupt: `CHAIN_BROKEN`.
        CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
    """
    for run in _read_runs(journal, start):
        yield from run.entries()


def read_payloads(journal: Journal, index: int) -> Iterator[bytes]:
    """Give the exact bytes of the entries from `index` on; the same holds. Those before it in its
    segment are passed over."""
    if index >= journal.head[0]:
        return
    segment = max(first for first in journal.segments if first <= index)
    start = Position(segment=segment, offset=len(MAGIC))
    if index > segment:
        wanted = _find_in(journal, *_ranges(journal, start)[0], mark_of_index(index), find_marked)
        found = next((entry for entry in wanted if entry.index == index), None)
        if found is None:
            raise corrupt("it is gone", segment=segment, offset=len(MAGIC), index=index)
        start = found.position
    for run in _read_runs(journal, start):
        yield from run.payloads


def _read_runs(journal: Journal, start: Position) -> Iterator[Run]:
    last: tuple[int, bytes] | None = None
    for segment, offset, end in _ranges(journal, start):
        for run in _read_segment(journal.directory, segment, offset, end, last):
            last = run.index + len(run) - 1, run.leaves[-1]
            yield run


def _ranges(journal: Journal, start: Position) -> list[tuple[int, int, int | None]]:
    """Give what there is to read from `start` on, as (segment, begin, end or None for all of it).

    The tail is looked at first: a segment that begins meanwhile is not read, and those before the
    tail's do not change any more.
    """
    tail, segments = journal.tail, journal.segments
    return [
        (
            segment,
            start.offset if segment == start.segment else len(MAGIC),
            tail.offset if segment == tail.segment else None,
        )
        for segment in segments
        if start.segment <= segment <= tail.segment
    ]


def _read_segment(
    directory: Path, segment: int, offset: int, end: int | None, last: tuple[int, bytes] | None
) -> Iterator[Run]:
    """Give the entries of a segment from `offset` on, which follow the one with index and leaf hash
    `last`; where that is None, the first of them may follow any."""
    fd = open_to_read(directory / segment_name(segment))
    index = last[0] + 1 if last else segment
    try:
        size = os.fstat(fd).st_size if end is None else end
        while offset < size:
            run = None
            if last is not None:
                buffer = read_exactly(fd, min(RUN_BYTES, size - offset), offset)
                run = read_run(buffer, segment=segment, offset=offset, index=index, leaf=last[1])
            if not run:
                run = _read_one(fd, segment, offset, size, last)
            index, offset = run.index + len(run), run.end
            last = index - 1, run.leaves[-1]
            yield run
    except BadFrame as bad:
        raise corrupt(
            bad.why, segment=segment, offset=bad.offset, index=index, head=bad.head
        ) from bad
    finally:
        os.close(fd)


def _read_one(fd: int, segment: int, offset: int, size: int, last: tuple[int, bytes] | None) -> Run:
    frame = next(read_frames(fd, offset, size))
    if last is not None:
        check_link(frame, segment, index=last[0] + 1, leaf=last[1])
    return Run.of(frame.entry(segment))


def read_call(
    journal: Journal, row: CallRow, last: Position | None = None
) -> Iterator[StoredEntry]:
    """Give the entries of one call, in order, up to its outcome, to the one at `last`, or to
    where the log ended when the reading began.

    Each is checked, and that none is missing between them. The entries of others are passed over
    unread: there may be tens of thousands.

    Raises:
        AuditCorrupt: `CHAIN_BROKEN`.
        CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
    """
    call_id, sequence = row.summary.call_id, 1
    for entry in _find_entries(journal, row.first, mark_of_call(call_id)):
        if entry.call_id != call_id:
            continue
        if entry.sequence != sequence:
            raise _missing(entry, sequence)
        yield entry
        sequence += 1
        if entry.kind == Kind.OUTCOME or entry.position == last:
            return


def _missing(entry: StoredEntry, sequence: int) -> AuditCorrupt:
    return corrupt(
        f"its sequence is {entry.sequence}, and {sequence} is next",
        segment=entry.position.segment,
        offset=entry.position.offset,
        index=entry.index,
        head=entry.head,
    )


def _find_entries(journal: Journal, start: Position, wanted: bytes) -> Iterator[StoredEntry]:
    for segment, offset, end in _ranges(journal, start):
        yield from _find_in(journal, segment, offset, end, wanted, find_frames)


def _find_in(
    journal: Journal,
    segment: int,
    offset: int,
    end: int | None,
    wanted: bytes,
    find: Callable[[int, int, int, bytes], Iterator[Frame]],
) -> Iterator[StoredEntry]:
    fd = open_to_read(journal.directory / segment_name(segment))
    try:
        size = os.fstat(fd).st_size if end is None else end
        for frame in find(fd, offset, size, wanted):
            yield frame.entry(segment)
    except BadFrame as bad:
        index = bad.head.index if bad.head else -1
        raise corrupt(
            bad.why, segment=segment, offset=bad.offset, index=index, head=bad.head
        ) from bad
    finally:
        os.close(fd)


def read_own(
    journal: Journal, before: int, *, limit: int, wanted: Callable[[StoredEntry], bool]
) -> tuple[list[StoredEntry], int]:
    """Give the daemon's own entries below index `before`, newest first, `limit` at most, and below
    which index to go on; 0 where there are no more. Fewer than `limit` do not mean the end: no more
    than `SEGMENTS_A_READ` segments are looked through.

    Raises:
        AuditCorrupt: `CHAIN_BROKEN`.
        CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
    """
    found: list[StoredEntry] = []
    start = Position(segment=0, offset=len(MAGIC))
    below = [place for place in _ranges(journal, start) if place[0] < before]
    for segment, offset, end in below[: -SEGMENTS_A_READ - 1 : -1]:
        newest = collections.deque[StoredEntry](maxlen=limit - len(found))
        for entry in _find_in(journal, segment, offset, end, mark_of_call(""), find_marked):
            if not entry.call_id and entry.index < before and wanted(entry):
                newest.append(entry)
        found += reversed(newest)
        before = found[-1].index if len(found) >= limit else segment
        if len(found) >= limit:
            break
    return found, before


def read_entry(journal: Journal, position: Position) -> StoredEntry:
    """Give the entry at `position`.

    Raises:
        AuditCorrupt: `CHAIN_BROKEN`.
    """
    entry = next(read_log(journal, position), None)
    if entry is None:
        raise corrupt("it is gone", segment=position.segment, offset=position.offset, index=-1)
    return entry


@dataclass(slots=True, kw_only=True)
class CallEnd:
    """How far an open call has been read."""

    last: Position
    sequence: int
    denials: int = 0


@dataclass(slots=True, kw_only=True)
class CatchUp:
    """Rows that the index missed: `open_calls` are those without an outcome so far, `closed` some
    that it has."""

    index: Index
    open_calls: dict[str, CallRow] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    ends: dict[str, CallEnd] = field(default_factory=dict)
    intents: dict[str, StoredEntry] = field(default_factory=dict)
    rows: list[CallRow] = field(default_factory=list)
    refs: list[BlobRef] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    erased: dict[str, Erasure] = field(default_factory=dict)
    holds: dict[tuple[str, int], int] = field(default_factory=dict)

    def take(self, entry: StoredEntry, blobs: BlobStore) -> None:
        """Take one more entry of the log into account."""
        if entry.kind == Kind.BLOB:
            body = entry.body()
            caller = str(body["caller"])
            self.refs += [ref_of(digest_of(body), caller), *refs_instead(body, caller)]
        elif entry.kind == Kind.REMOVED:
            self.removals += removals_of(entry)
        elif entry.kind == Kind.ERASED:
            self.erased.update([erasure_of(entry)])
        elif entry.kind in (Kind.HELD, Kind.RELEASED):
            change = 1 if entry.kind == Kind.HELD else -1
            self.holds[str(entry.body()["call"]), entry.index] = change
        if not entry.call_id:
            return
        if entry.kind == Kind.INTENT:
            self.open_calls[entry.call_id] = row_of_intent(entry)
            self.intents[entry.call_id] = entry
            self.ends[entry.call_id] = CallEnd(last=entry.position, sequence=entry.sequence)
            self._take_inputs(entry, blobs)
            return
        row = self.open_calls.get(entry.call_id)
        if row is None:
            self._check_closed(entry)
            return
        if entry.kind == Kind.OUTCOME:
            finished = finished_of(entry, blobs)
            self.rows.append(
                with_outcome(row, finished, last=entry.position, sequence=entry.sequence)
            )
            self.refs += refs_of(finished, row.summary.caller.name, entry.body())
            del self.open_calls[entry.call_id], self.intents[entry.call_id]
            del self.ends[entry.call_id]
            return
        end = self.ends[entry.call_id]
        end.last, end.sequence = entry.position, entry.sequence
        if entry.kind in SEARCHED:
            body = entry.body()
            if row.trail is not None:
                row.trail.take(entry.kind, body)
            if entry.kind == Kind.DENIED:
                end.denials += denials_in(body)

    def finish(self) -> None:
        """Give the rows of the calls that are open what their last entries say."""
        for call_id, end in self.ends.items():
            self.open_calls[call_id] = with_last(
                self.open_calls[call_id], last=end.last, sequence=end.sequence, denials=end.denials
            )

    def put(self, water: LowWater, rows: list[CallRow]) -> None:
        """Write what was found, with these rows."""
        self.index.put(rows, self.refs, water, self.removals, erased=self.erased, holds=self.holds)

    def _take_inputs(self, entry: StoredEntry, blobs: BlobStore) -> None:
        """Grant the caller what it gave; what cannot be read any more grants nothing."""
        body = entry.body()
        try:
            self.refs += inputs_of(body, files_of(body, blobs))
        except (NotFound, AuditCorrupt) as error:
            log.warning(
                "call %s: what it was given: %s",
                entry.call_id, error.message, extra=of_call(entry.call_id),
            )  # fmt: skip

    def _check_closed(self, entry: StoredEntry) -> None:
        """Pass over an entry of a call that began before the reading did: the index has it whole.

        Raises:
            AuditCorrupt: `CHAIN_BROKEN`, where it has not.
        """
        if entry.call_id in self.closed:
            return
        row = self.index.get(entry.call_id)
        if row is None or row.summary.finished is None:
            raise corrupt(
                "its call has no intent",
                segment=entry.position.segment,
                offset=entry.position.offset,
                index=entry.index,
                head=entry.head,
            )
        self.closed.add(entry.call_id)

    def low_water(self, tail: LowWater) -> LowWater:
        """Give the place from which the log has to be read again."""
        return low_water_of(self.intents.values(), tail)


def low_water_of(open_intents: Iterable[StoredEntry], tail: LowWater) -> LowWater:
    """Give where the oldest open call begins, or `tail` where none is open."""
    oldest = min(open_intents, key=lambda entry: entry.index, default=None)
    if oldest is None:
        return tail
    return LowWater(position=oldest.position, leaf=oldest.head.prev.hex())


def catch_up(journal: Journal, index: Index, blobs: BlobStore) -> CatchUp:
    """Bring the index up to the end of the log; give the calls that are open there.

    Raises:
        AuditCorrupt: `CHAIN_BROKEN`.
    """
    start = index.low_water()
    if start is None or not still_there(journal, start):
        index.reset()
        start = LowWater(position=Position(segment=0, offset=len(MAGIC)), leaf="")
    found = CatchUp(index=index)
    for entry in read_log(journal, start.position):
        found.take(entry, blobs)
        if len(found.rows) + len(found.removals) >= BATCH_ROWS:
            here = LowWater(position=entry.position, leaf=entry.head.prev.hex())
            water = found.low_water(here)
            found.put(water, found.rows)
            _settle(index)
            found.rows, found.refs, found.removals = [], [], []
    found.finish()
    tail = LowWater(position=journal.tail, leaf=journal.head[1].hex())
    rows = [*found.rows, *found.open_calls.values()]
    water = found.low_water(tail)
    found.put(water, rows)
    _settle(index)
    return found


def _settle(index: Index) -> None:
    try:
        index.settle()
    except CapacityError as error:  # what waits is kept; a search tries again, and says so
        log.warning("%s", error.message)


def still_there(journal: Journal, mark: LowWater) -> bool:
    """Say whether the log has, right before the place, the entry that the index remembers."""
    position, tail = mark.position, journal.tail
    if position.segment not in journal.segments or position > tail:
        return False
    if position.offset == len(MAGIC):
        return True
    fd = os.open(journal.directory / segment_name(position.segment), os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = read_exactly(fd, LEAF_BYTES, position.offset - LEAF_BYTES)
    finally:
        os.close(fd)
    return position.offset > len(MAGIC) and found.hex() == mark.leaf
