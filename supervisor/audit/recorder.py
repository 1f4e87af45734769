"""The recorder of one live call: what happens goes on record first, and is delivered second.

Every method that writes is called from the event loop or from executor threads. Two locks: one a
stream, which keeps its bytes in order while they are hashed and compressed, and one for the call,
which keeps the order of frames in the recording the same as that of the entries in the log.

A stream's digest covers all of it, also what is past the cap or no longer fits on the disk. What
is stored is always a beginning of the stream without gaps.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from supervisor.audit.blobs import compress
from supervisor.audit.codec import (
    NAME_CHARACTERS_MAX,
    TEXT_CHARACTERS_MAX,
    denied_to_json,
    flow_to_json,
    lost_to_json,
    process_kind,
    processes_to_json,
    watched_to_json,
)
from supervisor.audit.entry import TOO_LARGE, Kind, StoredEntry, marked
from supervisor.audit.journal import Journal
from supervisor.audit.recording import FRAME_BYTES_MAX, FrameRef, RecordingWriter
from supervisor.audit.search import SEARCHED, Trail
from supervisor.call.events import (
    CallEvent,
    Denied,
    Event,
    Finished,
    Flow,
    Lost,
    Output,
    Processes,
    Started,
    Watched,
)
from supervisor.call.types import Digest, Json, Stream, StreamSummary
from supervisor.errors import AuditUnavailable, InvariantError

if TYPE_CHECKING:
    from supervisor.profile.model import Capture, RecordPolicy


GAPS = frozenset({"RECORD_FULL", "RECORD_UNAVAILABLE"})
"""Reasons after which a call still gets its outcome, with a `truncated` entry that says why."""


class _StreamState:
    """How far a stream is: bytes seen, bytes stored, and whether storing has ended."""

    def __init__(self, capture: Capture) -> None:
        self.lock = threading.Lock()
        self.hasher = hashlib.sha256()
        self.size = 0
        self.stored = 0
        self.truncated = False
        self.seen = False
        self.cap = 0 if capture.mode == "digest" else capture.bytes_max

    def room(self, length: int) -> int:
        """Give how many of the next `length` bytes are stored."""
        if self.truncated:
            return 0
        return length if self.cap is None else max(0, min(length, self.cap - self.stored))


class CallRecorder:
    """Writes the record of one call, from Accepted to Finished."""

    def __init__(
        self,
        *,
        intent: StoredEntry,
        journal: Journal,
        recording: RecordingWriter,
        policy: RecordPolicy,
        mode: str,
        trail: Trail,
        clock_ns: Callable[[], int],
        finish: Callable[[CallRecorder, Finished], Awaitable[CallEvent]],
    ) -> None:
        self.call_id = intent.call_id
        self.intent = intent
        self.recording = recording
        self.denials = 0
        self._journal = journal
        self._mode = mode
        self._trail = trail
        self._clock_ns = clock_ns
        self._finish = finish
        self._sequence = intent.sequence
        self._last = intent
        self._lock = threading.Lock()
        self._gap = ""
        self._closed = False
        self._finishing: asyncio.Task[CallEvent] | None = None
        self._streams = {
            Stream.STDIN: _StreamState(policy.stdin),
            Stream.STDOUT: _StreamState(policy.stdout),
            Stream.STDERR: _StreamState(policy.stderr),
        }

    @property
    def last_sequence(self) -> int:
        """Give the sequence of the last entry."""
        return self._sequence

    @property
    def last_entry(self) -> StoredEntry:
        """Give the last entry."""
        return self._last

    @property
    def record_full(self) -> bool:
        """Say whether something could not be stored for lack of space."""
        return self._gap == "RECORD_FULL"

    def output(self, stream: Stream, data: bytes) -> list[CallEvent]:
        """Record bytes of the program; give the events to deliver.

        The first time that something cannot be stored this raises, and the call has to be
        ended; after that, bytes are only counted and hashed.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`; `JOURNAL_UNAVAILABLE`.
        """
        return list(self._record(stream, data)) if data else []

    def stdin(self, data: bytes) -> None:
        """Record bytes for the program, before it gets them.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`; `JOURNAL_UNAVAILABLE`.
        """
        self.output(Stream.STDIN, data)

    def started(self, preparation_s: float) -> CallEvent:
        """Record that the program was let go.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
        """
        entry = self.append(Kind.STARTED, {"preparation_s": preparation_s}, reserved=True)
        return self._event(entry, Started(preparation_s=preparation_s))

    def denied(self, denied: Denied) -> CallEvent:
        """Record that a wall held.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
        """
        entry = self.append(Kind.DENIED, denied_to_json(denied))
        self.denials += denied.count
        return self._event(entry, denied)

    def processes(self, processes: Processes) -> CallEvent:
        """Record what the call's processes did; of what is too large for an entry, that it is lost.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
            InvariantError: `ENTRY_TOO_LARGE`.
        """
        try:
            entry = self.append(Kind.PROCESSES, processes_to_json(processes))
        except InvariantError as error:
            if error.reason == TOO_LARGE:
                kinds = collections.Counter(process_kind(event) for event in processes.events)
                for what, count in kinds.items():
                    self.lost(Lost(what=what, count=count, reason=TOO_LARGE))
            raise
        return self._event(entry, processes)

    def watched(self, watched: Watched) -> CallEvent:
        """Record that a watched system call was let through.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
        """
        return self._event(self.append(Kind.WATCHED, watched_to_json(watched)), watched)

    def flow(self, flow: Flow) -> CallEvent:
        """Record that a connection through the broker has ended.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
        """
        return self._event(self.append(Kind.FLOW, flow_to_json(flow)), flow)

    def lost(self, lost: Lost) -> CallEvent:
        """Record that something could not be recorded or delivered.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
        """
        return self._event(self.append(Kind.LOST, lost_to_json(lost), reserved=True), lost)

    def signalled(self, by: str, signal: int, why: str) -> None:
        """Record that somebody sent a signal, before it is sent.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
        """
        body: dict[str, Json] = {
            "by": by[:NAME_CHARACTERS_MAX],
            "signal": signal,
            "why": why[:TEXT_CHARACTERS_MAX],
        }
        self.append(Kind.SIGNAL, body, reserved=True)

    async def finish(self, finished: Finished) -> CallEvent:
        """Seal the recording, then write the outcome and wait until it is durable.

        Gives `finished` back with streams, record and record_bytes filled in. A second call
        waits for the first and gives the same; cancelling the caller does not cancel it.

        Raises:
            AuditUnavailable: `JOURNAL_UNAVAILABLE`; the outcome may be lost.
        """
        if self._finishing is None:
            with self._lock:  # what a thread is writing right now still belongs to the record
                self._closed = True
            self._finishing = asyncio.ensure_future(self._finish(self, finished))
        return await asyncio.shield(self._finishing)

    def streams(self) -> tuple[StreamSummary, ...]:
        """Give what went through the streams so far, without those that nothing went through."""
        return tuple(
            StreamSummary(
                stream=stream,
                digest=Digest(sha256=state.hasher.hexdigest(), size_bytes=state.size),
                stored_bytes=state.stored,
            )
            for stream, state in self._streams.items()
            if state.seen or stream is not Stream.STDIN
        )

    def append(
        self, kind: Kind, body: Mapping[str, Json], *, reserved: bool = False
    ) -> StoredEntry:
        """Write the next entry of the call.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
        """
        with self._lock:
            return self._append(kind, body, reserved=reserved)

    def _append(self, kind: Kind, body: Mapping[str, Json], *, reserved: bool) -> StoredEntry:
        if self._closed and kind is not Kind.OUTCOME:
            raise InvariantError("RECORDER_CLOSED", f"{kind} of call {self.call_id} after its end")
        entry = self._journal.append(
            kind,
            marked(body, self._mode),
            time_ns=self._clock_ns(),
            call=self.call_id,
            sequence=self._sequence + 1,
            reserved=reserved,
        )
        self._sequence, self._last = entry.sequence, entry
        if kind in SEARCHED:
            self._trail.take(kind, body)
        return entry

    def _record(self, stream: Stream, data: bytes) -> Iterator[CallEvent]:
        state = self._streams[stream]
        with state.lock:
            if self._closed:
                raise InvariantError("RECORDER_CLOSED", f"output of call {self.call_id}")
            state.seen = True
            state.hasher.update(data)
            offset, state.size = state.size, state.size + len(data)
            keep = 0 if self._gap else state.room(len(data))
            for begin in range(0, keep, FRAME_BYTES_MAX):
                part = _slice(data, begin, min(begin + FRAME_BYTES_MAX, keep))
                entry = self._store(stream, state, part, offset + begin)
                output = Output(stream=stream, data=part, offset=offset + begin)
                yield self._event(entry, output)
            if keep < len(data):
                yield self._pass_by(stream, state, _slice(data, keep, len(data)), offset + keep)

    def _store(self, stream: Stream, state: _StreamState, part: bytes, offset: int) -> StoredEntry:
        """Put a part of a stream into the recording and into the log."""
        frame = compress(part)
        digest = hashlib.sha256(frame).hexdigest()
        with self._lock:
            ref = FrameRef(
                stream=stream,
                offset=offset,
                length=len(part),
                frame_offset=self.recording.size,
                frame_length=len(frame),
                frame_sha256=digest,
            )
            try:
                self.recording.write(frame)
                entry = self._append(Kind.OUTPUT, ref.to_json(), reserved=False)
            except AuditUnavailable as error:
                if error.reason in GAPS:
                    self._gap = self._gap or error.reason
                raise
            self.recording.advance(frame)
        state.stored += len(part)
        return entry

    def _pass_by(self, stream: Stream, state: _StreamState, data: bytes, offset: int) -> CallEvent:
        """Let bytes by that are not stored; the first time, say so in the log."""
        entry = self._last
        if not state.truncated:
            why = self._gap.lower() or "cap"
            body: dict[str, Json] = {"stream": stream.value, "offset": state.stored, "why": why}
            entry = self.append(Kind.TRUNCATED, body, reserved=True)
            state.truncated = True
        return self._event(entry, Output(stream=stream, data=data, offset=offset, truncated=True))

    def _event(self, entry: StoredEntry, event: Event) -> CallEvent:
        return CallEvent(
            call_id=self.call_id, sequence=entry.sequence, time_ns=entry.time_ns, event=event
        )


def _slice(data: bytes, begin: int, end: int) -> bytes:
    return data if begin == 0 and end == len(data) else data[begin:end]
