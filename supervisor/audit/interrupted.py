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

from supervisor.audit.account import has_egress, is_encrypted, outcome_body
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
from supervisor.audit.masked import Masked, told
from supervisor.audit.masks import Mask
from supervisor.audit.reading import read_call
from supervisor.audit.recording import (
    FRAME_BYTES_MAX,
    FrameRef,
    RecordingReader,
    Sealed,
    open_recording,
    seal_part,
)
from supervisor.audit.segment import read_exactly, write_again
from supervisor.audit.shortage import shortage
from supervisor.call.about import of_call
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
from supervisor.call.outcome import Failed, Interrupted
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
        self.sealed = False
        self._seen = dict.fromkeys(Stream, 0)
        self._redactions = dict.fromkeys(Stream, 0)
        self._hashers = {stream: hashlib.sha256() for stream in Stream}
        self._sizes = dict.fromkeys(Stream, 0)
        self._cuts: dict[Stream, int] = {}
        self._gaps: dict[Stream, int] = {}
        self._tails = dict.fromkeys(Stream, 0)
        self._lost_tails = 0

    def take(self, entry: StoredEntry) -> None:
        match entry.kind:
            case Kind.INTENT:
                body = entry.body()
                self.flows_lost, self.sealed = has_egress(body), is_encrypted(body)
            case Kind.STARTED:
                self.started_ns = entry.time_ns
            case Kind.OUTPUT:
                self._take_output(FrameRef.from_json(entry.body()))
            case Kind.TRUNCATED:
                self._take_truncated(entry.body())
            case Kind.LOST if lost_from_json(entry.body()) == FLOWS_LOST:
                # A daemon before this one died, too, while it closed the call.
                self.flows_lost = False

    def _take_truncated(self, body: Mapping[str, Json]) -> None:
        stream, offset = Stream(str(body["stream"])), int(str(body["offset"]))
        self._cuts.setdefault(stream, offset)
        if "length" in body:
            self._gaps[stream] = offset + int(str(body["length"]))

    def _take_output(self, ref: FrameRef) -> None:
        behind = ref.stream in self._gaps
        if not behind:
            self._seen[ref.stream] = ref.offset + ref.length
        data = None if self.lost_bytes else self._read(ref)
        if data is None:
            self.lost_bytes += ref.end - ref.begin
            self._lost_tails += ref.end - ref.begin if behind else 0
            return
        self.size = max(self.size, ref.frame_end)
        self._hashers[ref.stream].update(data)
        self._redactions[ref.stream] += len(ref.redacted.found) if ref.redacted else 0
        if behind:
            self._tails[ref.stream] += ref.end - ref.begin
        else:
            self._sizes[ref.stream] = ref.end

    @property
    def held_bytes(self) -> int:
        """Give how much came of which it was not known yet whether it holds secrets."""
        # Of what is past a cap it is said that it is not on record; it is not lost besides.
        seen = sum(min(seen, self._cuts.get(of, seen)) for of, seen in self._seen.items())
        return seen - sum(self._sizes.values()) - (self.lost_bytes - self._lost_tails)

    def _read(self, ref: FrameRef) -> bytes | None:
        if ref.is_empty:
            return b""
        if self._reader is None:
            return None
        try:
            # What is sealed cannot be opened any more: its key was in the memory of a daemon.
            return self._reader.check(ref) if ref.sealed else self._reader.read(ref)
        except AuditCorrupt:
            return None

    def streams(self) -> tuple[StreamSummary, ...]:
        return tuple(
            StreamSummary(
                stream=stream,
                digest=self._digest(stream),
                stored_bytes=size + self._tails[stream],
                redactions=self._redactions[stream],
                tail_bytes=self._tails[stream],
            )
            for stream, size in self._sizes.items()
            if size or stream is not Stream.STDIN
        )

    def _digest(self, stream: Stream) -> Digest:
        """Give that of what is on record: nobody knows any more what was in a gap."""
        size, tail = self._sizes[stream], self._tails[stream]
        end = self._gaps[stream] + tail if tail else size
        known = not self.sealed and end == size + tail
        return Digest(sha256=self._hashers[stream].hexdigest() if known else "", size_bytes=end)


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
    mask: Mask | None = None,
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
    masked = Masked(mask) if mask is not None else None
    sequence = row.summary.last_sequence
    left = [*events]
    if rest.lost_bytes:
        left.append(Lost(what="output", count=rest.lost_bytes, reason="RECORDING_TORN"))
    if rest.held_bytes:
        left.append(Lost(what="output", count=rest.held_bytes, reason=DAEMON_DIED))
    if rest.flows_lost:
        left.append(FLOWS_LOST)
    for event, found in (shown for one in left for shown in _shown(one, masked)):
        sequence += 1
        try:
            _append(journal, row, event, found, time_ns, sequence)
        except InvariantError as error:
            # What one call left keeps no daemon from starting.
            log.exception(
                "call %s: something of it cannot be recorded",
                call_id, extra=of_call(call_id),
            )  # fmt: skip
            _append(journal, row, _unrecorded(event, error.reason), [], time_ns, sequence)
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


def abandoned(accepted_ns: int, now_ns: int) -> Finished:
    """Give the end of a call whose caller went away before it was told that it is on record."""
    return Finished(
        outcome=Failed(reason="ABANDONED", message="the caller went away before the start"),
        timeline=Timeline(accepted_ns=accepted_ns, ended_ns=now_ns, destroyed_ns=now_ns),
        streams=(),
        outputs=(),
        skipped=(),
        usage=Usage(),
        denials=0,
    )


def _shown(event: Leftover, masked: Masked | None) -> Sequence[tuple[Leftover, list[Json]]]:
    """Give what is stored of an event, entry by entry, with what was replaced in each."""
    match event:
        case Processes() if masked is not None:
            return masked.processes(event)
        case Denied() | Watched() | Flow() if masked is not None:
            return masked.events([event])
        case _:
            return [(event, [])]


def _append(
    journal: Journal,
    row: CallRow,
    event: Leftover,
    found: list[Json],
    time_ns: int,
    sequence: int,
) -> None:
    kind, body = _entry_of(event)
    body = {**body, **told(found)}
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
        write_again(fd, 0, size)
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
