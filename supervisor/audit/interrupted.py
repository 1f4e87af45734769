"""Calls that a former daemon left open: what is on record of them, closed with an outcome.

The recording is cut after the last frame that the log names and that is whole. Where a power cut
took frames that the log names, a `lost` entry says how many bytes, before the outcome.

The broker of a call ends with its daemon, and with it what it knows of the connections that were
open. Nobody can say whether there were any: each call that had a way out gets a `lost` entry.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from supervisor.audit.account import has_egress, outcome_body
from supervisor.audit.blobs import BlobStore
from supervisor.audit.codec import (
    denied_to_json,
    flow_to_json,
    lost_from_json,
    lost_to_json,
    processes_to_json,
    watched_to_json,
)
from supervisor.audit.entry import Kind, StoredEntry, marked
from supervisor.audit.index import CallRow
from supervisor.audit.journal import Journal
from supervisor.audit.reading import read_call
from supervisor.audit.recording import (
    FRAME_BYTES_MAX,
    FrameRef,
    RecordingReader,
    Sealed,
    open_recording,
    seal_part,
)
from supervisor.audit.segment import read_exactly
from supervisor.audit.shortage import shortage
from supervisor.call.events import (
    DAEMON_DIED,
    FLOWS,
    PROBE_EVENTS,
    Denied,
    Finished,
    Flow,
    Lost,
    Processes,
    Timeline,
    Watched,
)
from supervisor.call.outcome import Interrupted
from supervisor.call.types import Digest, Json, Stream, StreamSummary, Usage
from supervisor.errors import AuditCorrupt, InvariantError

log = logging.getLogger("stockade.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCall:
    """A call with INTENT and without OUTCOME, found when the store was opened; `mode` is its
    profile's."""

    call_id: str
    mode: str
    last_sequence: int
    intent: StoredEntry


class _Rest:
    """What is left of a call: its streams, its recording, and what of that is gone."""

    def __init__(self, reader: RecordingReader | None) -> None:
        self._reader = reader
        self.size = 0
        self.lost_bytes = 0
        self.started_ns = 0
        self.flows_lost = False
        self._hashers = {stream: hashlib.sha256() for stream in Stream}
        self._sizes = dict.fromkeys(Stream, 0)

    def take(self, entry: StoredEntry) -> None:
        match entry.kind:
            case Kind.INTENT:
                self.flows_lost = has_egress(entry.body())
            case Kind.STARTED:
                self.started_ns = entry.time_ns
            case Kind.OUTPUT:
                self._take_output(FrameRef.from_json(entry.body()))
            case Kind.LOST if lost_from_json(entry.body()) == FLOWS_LOST:
                # A daemon before this one died, too, while it closed the call.
                self.flows_lost = False

    def _take_output(self, ref: FrameRef) -> None:
        data = None if self.lost_bytes else self._read(ref)
        if data is None:
            self.lost_bytes += ref.length
            return
        self.size = ref.frame_end
        self._hashers[ref.stream].update(data)
        self._sizes[ref.stream] += len(data)

    def _read(self, ref: FrameRef) -> bytes | None:
        if self._reader is None:
            return None
        try:
            return self._reader.read(ref)
        except AuditCorrupt:
            return None

    def streams(self) -> tuple[StreamSummary, ...]:
        return tuple(
            StreamSummary(
                stream=stream,
                digest=Digest(sha256=self._hashers[stream].hexdigest(), size_bytes=size),
                stored_bytes=size,
            )
            for stream, size in self._sizes.items()
            if size or stream is not Stream.STDIN
        )


FLOWS_LOST = Lost(what=FLOWS, count=0, reason=DAEMON_DIED)

Leftover = Denied | Processes | Watched | Flow | Lost
"""What was told of a call and not yet recorded when its daemon ended."""


def close(
    journal: Journal,
    blobs: BlobStore,
    row: CallRow,
    *,
    message: str,
    time_ns: int,
    events: Sequence[Leftover] = (),
) -> tuple[StoredEntry, Finished, Sealed | None]:
    """Write what is left to be told of an interrupted call, and its outcome; the caller commits.
    Blocks.

    Raises:
        CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
        AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        AuditCorrupt: `CHAIN_BROKEN`.
    """
    call_id = row.summary.call_id
    reader = open_recording(blobs, call_id)
    rest = _Rest(reader)
    try:
        for entry in read_call(journal, row):
            rest.take(entry)
    finally:
        if reader is not None:
            reader.close()
    sequence = row.summary.last_sequence
    left = [*events]
    if rest.lost_bytes:
        left.append(Lost(what="output", count=rest.lost_bytes, reason="RECORDING_TORN"))
    if rest.flows_lost:
        left.append(FLOWS_LOST)
    for event in left:
        sequence += 1
        try:
            _append(journal, row, event, time_ns, sequence)
        except InvariantError as error:
            # What one call left keeps no daemon from starting.
            log.exception("call %s: something of it cannot be recorded", call_id)
            _append(journal, row, _unrecorded(event, error.reason), time_ns, sequence)
    denials = sum(event.count for event in events if isinstance(event, Denied))
    sealed = _seal(blobs, call_id, rest.size, journal) if reader else None
    body, finished = outcome_body(
        _finished(row, rest, message, time_ns, denials), sealed, record_full=False, blobs=blobs
    )
    outcome = marked(body, row.summary.mode)
    entry = journal.append(
        Kind.OUTCOME, outcome, time_ns=time_ns, call=call_id, sequence=sequence + 1, reserved=True
    )
    return entry, replace(finished, record=entry.leaf, record_bytes=len(entry.json) + 1), sealed


def _append(journal: Journal, row: CallRow, event: Leftover, time_ns: int, sequence: int) -> None:
    kind, body = _entry_of(event)
    journal.append(
        kind, marked(body, row.summary.mode), time_ns=time_ns, call=row.summary.call_id,
        sequence=sequence, reserved=True,
    )  # fmt: skip
    if row.trail is not None:
        row.trail.take(kind, body)


def _unrecorded(event: Leftover, reason: str) -> Lost:
    match event:
        case Processes():
            return Lost(what=PROBE_EVENTS, count=len(event.events), reason=reason)
        case Denied():
            return Lost(what="denial", count=event.count, reason=reason)
        case Flow():
            return Lost(what=FLOWS, count=1, reason=reason)
        case _:
            return Lost(what=PROBE_EVENTS, count=event.count, reason=reason)


def _seal(blobs: BlobStore, call_id: str, size: int, journal: Journal) -> Sealed | None:
    try:
        fd = os.open(blobs.part_directory / call_id, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise (shortage("the recording", error) or journal.fail("open", error)) from error
    hasher = hashlib.sha256()
    try:
        seal_part(blobs.parts, call_id, fd, size)
        for offset in range(0, size, FRAME_BYTES_MAX):
            hasher.update(read_exactly(fd, min(FRAME_BYTES_MAX, size - offset), offset))
    except OSError as error:
        raise (shortage("the recording", error) or journal.fail("fdatasync", error)) from error
    finally:
        os.close(fd)
    return Sealed(sha256=hasher.hexdigest(), size_bytes=size) if size else None


def _entry_of(event: Leftover) -> tuple[Kind, Mapping[str, Json]]:
    match event:
        case Denied():
            return Kind.DENIED, denied_to_json(event)
        case Processes():
            return Kind.PROCESSES, processes_to_json(event)
        case Watched():
            return Kind.WATCHED, watched_to_json(event)
        case Flow():
            return Kind.FLOW, flow_to_json(event)
        case Lost():
            return Kind.LOST, lost_to_json(event)


def _finished(row: CallRow, rest: _Rest, message: str, time_ns: int, denials: int) -> Finished:
    return Finished(
        outcome=Interrupted(message=message),
        timeline=Timeline(
            accepted_ns=row.summary.accepted_ns,
            started_ns=rest.started_ns,
            ended_ns=time_ns,
            destroyed_ns=time_ns,
        ),
        streams=rest.streams(),
        outputs=(),
        skipped=(),
        usage=Usage(),
        denials=row.summary.denials + denials,
    )
