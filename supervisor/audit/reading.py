"""Reading the log back: the entries of a range or of one call, each checked on the way."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.audit.account import digest_of, finished_of, ref_of, refs_of, row_of_intent
from supervisor.audit.blobs import BlobStore
from supervisor.audit.codec import denied_from_json
from supervisor.audit.entry import LEAF_BYTES, Kind, Position, StoredEntry, mark_of_call
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
from supervisor.audit.search import SEARCHED
from supervisor.audit.segment import (
    MAGIC,
    BadFrame,
    find_frames,
    read_exactly,
    read_frames,
    segment_name,
)
from supervisor.audit.shortage import open_to_read
from supervisor.errors import AuditCorrupt, CapacityError

BATCH_ROWS = 1000

log = logging.getLogger("stockade.audit")


def read_log(journal: Journal, start: Position) -> Iterator[StoredEntry]:
    """Give the entries from `start` to where the log ended when the reading began.

    Raises:
        AuditCorrupt: `CHAIN_BROKEN`.
        CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
    """
    last: StoredEntry | None = None
    for segment, offset, end in _ranges(journal, start):
        for entry in _read_segment(journal.directory, segment, offset, end, last):
            last = entry
            yield entry


def _ranges(journal: Journal, start: Position) -> Iterator[tuple[int, int, int | None]]:
    """Give what there is to read from `start` on, as (segment, begin, end or None for all of it).

    The tail is looked at first: a segment that begins meanwhile is not read, and those before the
    tail's do not change any more.
    """
    tail, segments = journal.tail, journal.segments
    for segment in segments:
        if start.segment <= segment <= tail.segment:
            offset = start.offset if segment == start.segment else len(MAGIC)
            yield segment, offset, tail.offset if segment == tail.segment else None


def _read_segment(
    directory: Path, segment: int, offset: int, end: int | None, last: StoredEntry | None
) -> Iterator[StoredEntry]:
    fd = open_to_read(directory / segment_name(segment))
    index = last.index + 1 if last else segment
    try:
        for frame in read_frames(fd, offset, os.fstat(fd).st_size if end is None else end):
            if last is not None:
                check_link(frame, segment, index=index, leaf=bytes.fromhex(last.leaf))
            last = frame.entry(segment)
            index = last.index + 1
            yield last
    except BadFrame as bad:
        raise corrupt(
            bad.why, segment=segment, offset=bad.offset, index=index, head=bad.head
        ) from bad
    finally:
        os.close(fd)


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
        fd = open_to_read(journal.directory / segment_name(segment))
        try:
            size = os.fstat(fd).st_size if end is None else end
            for frame in find_frames(fd, offset, size, wanted):
                yield frame.entry(segment)
        except BadFrame as bad:
            index = bad.head.index if bad.head else -1
            raise corrupt(
                bad.why, segment=segment, offset=bad.offset, index=index, head=bad.head
            ) from bad
        finally:
            os.close(fd)


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
class CatchUp:
    """Rows that the index missed: `open_calls` are those without an outcome so far, `closed` some
    that it has."""

    index: Index
    open_calls: dict[str, CallRow] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    intents: dict[str, StoredEntry] = field(default_factory=dict)
    rows: list[CallRow] = field(default_factory=list)
    refs: list[BlobRef] = field(default_factory=list)

    def take(self, entry: StoredEntry, blobs: BlobStore) -> None:
        """Take one more entry of the log into account."""
        if entry.kind == Kind.BLOB:
            body = entry.body()
            self.refs.append(ref_of(digest_of(body), str(body["caller"])))
        if not entry.call_id:
            return
        if entry.kind == Kind.INTENT:
            self.open_calls[entry.call_id] = row_of_intent(entry)
            self.intents[entry.call_id] = entry
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
            self.refs += refs_of(finished, row.summary.caller.name)
            del self.open_calls[entry.call_id], self.intents[entry.call_id]
            return
        if row.trail is not None and entry.kind in SEARCHED:
            row.trail.take(entry.kind, entry.body())
        denials = row.summary.denials
        if entry.kind == Kind.DENIED:
            denials += denied_from_json(entry.body()).count
        self.open_calls[entry.call_id] = with_last(
            row, last=entry.position, sequence=entry.sequence, denials=denials
        )

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
    if start is None or not _still_there(journal, start):
        index.reset()
        start = LowWater(position=Position(segment=0, offset=len(MAGIC)), leaf="")
    found = CatchUp(index=index)
    for entry in read_log(journal, start.position):
        found.take(entry, blobs)
        if len(found.rows) >= BATCH_ROWS:
            here = LowWater(position=entry.position, leaf=entry.head.prev.hex())
            index.put(found.rows, found.refs, found.low_water(here))
            _settle(index)
            found.rows, found.refs = [], []
    tail = LowWater(position=journal.tail, leaf=journal.head[1].hex())
    rows = [*found.rows, *found.open_calls.values()]
    index.put(rows, found.refs, found.low_water(tail))
    _settle(index)
    return found


def _settle(index: Index) -> None:
    try:
        index.settle()
    except CapacityError as error:  # what waits is kept; a search tries again, and says so
        log.warning("%s", error.message)


def _still_there(journal: Journal, mark: LowWater) -> bool:
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
