"""The recorder of one live call: what happens goes on record first, and is delivered second.

Every method that writes is called from the event loop or from executor threads. Two locks: one a
stream, which keeps its bytes in order while they are hashed and compressed, and one for the call,
which keeps the order of frames in the recording the same as that of the entries in the log.

A stream's digest covers all of it, also what is past the cap or no longer fits on the disk. What
is stored is always a beginning of the stream without gaps and, of one that has more than its cap,
its end: that is kept in memory and stored when the stream, or the call, has ended.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
from supervisor.audit.files import CallFiles
from supervisor.audit.journal import Journal
from supervisor.audit.masked import Masked, told
from supervisor.audit.recording import FRAME_BYTES_MAX, FrameRef, RecordingWriter, Redacted
from supervisor.audit.redaction.literals import RedactionFailed
from supervisor.audit.search import SEARCHED, Trail
from supervisor.audit.streams import Part, StreamState
from supervisor.call.about import of_call
from supervisor.call.events import (
    CallEvent,
    Denied,
    Event,
    Finished,
    Flow,
    Lost,
    Output,
    Processes,
    Resized,
    Started,
    Watched,
)
from supervisor.call.types import Digest, Json, Stream, StreamSummary
from supervisor.errors import AuditUnavailable, InvariantError
from supervisor.profile.model import Capture

if TYPE_CHECKING:
    from supervisor.audit.masks import Mask
    from supervisor.profile.model import RecordPolicy


log = logging.getLogger("stockade.audit")

INLINE_BYTES = 32 * 1024
"""A chunk up to this size is hashed and stored on the event loop: a thread would cost more."""

SEARCHED_INLINE_BYTES = 4 * 1024
"""The same, where it is searched for secrets: what looks like many of them takes a while."""

REDACTION = "redaction"
"""Why nothing more of a stream is stored where its redaction failed."""

NOTHING: Mapping[str, Json] = {}

Shown = list[tuple[Processes, list[Json]]]
"""What entries hold of what processes did, and what was replaced in each."""

Told = Denied | Watched | Flow
TOLD_AT_ONCE = 256
"""Events that should go on record together, at most."""

TELLING: Mapping[type[Told], tuple[Kind, Callable[[Any], dict[str, Json]]]] = {
    Denied: (Kind.DENIED, denied_to_json),
    Watched: (Kind.WATCHED, watched_to_json),
    Flow: (Kind.FLOW, flow_to_json),
}

GAPS = frozenset({"RECORD_FULL", "RECORD_UNAVAILABLE"})
"""Reasons after which a call still gets its outcome, with a `truncated` entry that says why."""


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
        files: CallFiles,
        clock_ns: Callable[[], int],
        finish: Callable[[CallRecorder, Finished], Awaitable[CallEvent]],
    ) -> None:
        self.call_id = intent.call_id
        self.intent = intent
        self.recording = recording
        self.denials = 0
        self.files = files
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
        mask = files.mask
        self._masked = Masked(mask) if mask is not None else None
        self._masked_processes = Masked(mask) if mask is not None else None  # another thread's
        self._flushing = False
        self._streams = {
            Stream.STDIN: _state(policy.stdin, mask),
            Stream.STDOUT: _state(policy.stdout, mask),
            Stream.STDERR: _state(policy.stderr, mask),
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
    def holds(self) -> bool:
        """Say whether there may be something to `flush`."""
        streams = self._streams.values()
        return any(state.redactor is not None or state.tail is not None for state in streams)

    @property
    def searches(self) -> bool:
        """Say whether what is told is searched for secrets."""
        return self._masked is not None

    @property
    def record_full(self) -> bool:
        """Say whether something could not be stored for lack of space."""
        return self._gap == "RECORD_FULL"

    def is_slow(self, stream: Stream, length: int) -> bool:
        """Say whether recording so many bytes may take long enough to need a thread: where they
        are compressed, or searched for secrets."""
        searched = self._streams[stream].redactor is not None
        return length > (SEARCHED_INLINE_BYTES if searched else INLINE_BYTES)

    def held(self, stream: Stream) -> tuple[int, bytes]:
        """Give what was delivered and is not on record yet, and where it begins. May wait."""
        return self._streams[stream].held()

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

    def tell(self, events: Sequence[Told]) -> list[CallEvent]:
        """Record that walls held, watched system calls were let through, or connections through the
        broker have ended: events of one type, in their order, all of them or none.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
        """
        kind, to_json = TELLING[type(events[0])]
        if self._masked is None:
            bodies = [to_json(event) for event in events]
        else:
            shown = self._masked.events(events)
            bodies = [{**to_json(event), **told(found)} for event, found in shown]
        last = self._append_many(kind, bodies)
        self.denials += sum(event.count for event in events if isinstance(event, Denied))
        first = last.sequence - len(events) + 1
        return [
            CallEvent(call_id=self.call_id, sequence=sequence, time_ns=last.time_ns, event=event)
            for sequence, event in enumerate(events, first)
        ]

    def shown_processes(self, processes: Processes) -> Shown:
        """Give what goes on record of what the call's processes did. May take a while. For one
        thread at a time, in their order: what begins one secret may come in two of them."""
        if self._masked_processes is None:
            return [(processes, [])]
        return self._masked_processes.processes(processes)

    def processes(self, processes: Processes, shown: Shown | None = None) -> CallEvent:
        """Record what the call's processes did, and of it what is `shown`, which is found out here
        where it is not given; of what is too large for an entry, that it is lost.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
            InvariantError: `ENTRY_TOO_LARGE`.
        """
        try:
            for part, found in self.shown_processes(processes) if shown is None else shown:
                entry = self.append(Kind.PROCESSES, {**processes_to_json(part), **told(found)})
        except InvariantError as error:
            if error.reason == TOO_LARGE:
                kinds = collections.Counter(process_kind(event) for event in processes.events)
                for what, count in kinds.items():
                    self.lost(Lost(what=what, count=count, reason=TOO_LARGE))
            raise
        return self._event(entry, processes)

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
        found: list[Json] = []
        if self._masked is not None:
            why, found = self._masked.why(why)
        body: dict[str, Json] = {
            "by": by[:NAME_CHARACTERS_MAX],
            "signal": signal,
            "why": why[:TEXT_CHARACTERS_MAX],
            **told(found),
        }
        self.append(Kind.SIGNAL, body, reserved=True)

    def resized(self, resized: Resized) -> CallEvent:
        """Record that the call's terminal is given another size, before it is.

        Raises:
            AuditUnavailable: `RECORD_FULL`; `JOURNAL_UNAVAILABLE`.
        """
        body: dict[str, Json] = {"rows": resized.rows, "columns": resized.columns}
        return self._event(self.append(Kind.RESIZED, body), resized)

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
                stored_bytes=state.kept,
                redactions=state.redactions,
                tail_bytes=state.tail_bytes,
            )
            for stream, state in self._streams.items()
            if state.seen or stream is not Stream.STDIN
        )

    def shown(self, finished: Finished) -> tuple[Finished, dict[str, Json]]:
        """Give what goes on record of a call's end, and what OUTCOME says of what was replaced."""
        files = self.files.told()
        if self._masked is None:
            return finished, files
        shown = self._masked.finished(finished)
        return shown, {**told(self._masked.told()), **files}

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
        self._require_open(kind)
        entry = self._journal.append(
            kind,
            marked(body, self._mode),
            time_ns=self._clock_ns(),
            call=self.call_id,
            sequence=self._sequence + 1,
            reserved=reserved,
        )
        return self._note(kind, [body], entry)

    def _append_many(self, kind: Kind, bodies: Sequence[Mapping[str, Json]]) -> StoredEntry:
        """Write entries that follow each other; give the last."""
        if len(bodies) == 1:
            return self.append(kind, bodies[0])
        with self._lock:
            self._require_open(kind)
            last = self._journal.append_many(
                kind,
                [marked(body, self._mode) for body in bodies],
                time_ns=self._clock_ns(),
                call=self.call_id,
                sequence=self._sequence + 1,
            )
            return self._note(kind, bodies, last)

    def _require_open(self, kind: Kind) -> None:
        late = kind is Kind.OUTCOME or (self._flushing and kind in (Kind.OUTPUT, Kind.TRUNCATED))
        if self._closed and not late:
            raise InvariantError("RECORDER_CLOSED", f"{kind} of call {self.call_id} after its end")

    def _note(
        self, kind: Kind, bodies: Sequence[Mapping[str, Json]], last: StoredEntry
    ) -> StoredEntry:
        self._sequence, self._last = last.sequence, last
        if kind in SEARCHED:
            for body in bodies:
                self._trail.take(kind, body)
        return last

    def end(self, stream: Stream) -> None:
        """Record what was held back of a stream that has ended, and its tail.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`; `JOURNAL_UNAVAILABLE`.
        """
        state = self._streams[stream]
        with state.lock:
            if not self._closed:
                self._end(stream, state)

    def flush(self) -> None:
        """Record what was held back, and the tails, once the call has ended and before its
        recording is sealed. Blocks.

        Raises:
            AuditUnavailable: `JOURNAL_UNAVAILABLE`.
        """
        self._flushing = True
        for stream, state in self._streams.items():
            with state.lock:
                try:
                    self._end(stream, state)
                except AuditUnavailable as error:
                    if error.reason not in GAPS:
                        raise
        self._flushing = False

    def _end(self, stream: Stream, state: StreamState) -> None:
        if state.redactor is None and state.tail is None:
            return
        if self._gap:
            self._stop(stream, state, self._gap.lower(), state.stored)
            return
        try:
            for part in state.rest() if state.redactor is not None else ():
                self._write(stream, state, part, state.size, state.size)
            self._end_tail(stream, state)
        except RedactionFailed as error:
            self._stop(stream, state, REDACTION, state.stored, error)
        except AuditUnavailable as error:
            if error.reason in GAPS:
                self._stop(stream, state, error.reason.lower(), state.stored)
            raise

    def _end_tail(self, stream: Stream, state: StreamState) -> None:
        """Say what of a stream is not on record, and store what follows that, its end."""
        part = state.end_tail()
        if part is None:
            return
        gap = part.begin - state.stored
        self._tell_stop(stream, state, "cap", state.stored, {"length": gap})
        try:
            self._write(stream, state, part, part.begin, part.end)
        except AuditUnavailable as error:
            if error.reason in GAPS:
                self._tell_stop(stream, state, error.reason.lower(), part.begin)
            raise
        state.tail_bytes = part.end - part.begin

    def _record(self, stream: Stream, data: bytes) -> Iterator[CallEvent]:
        state = self._streams[stream]
        with state.lock:
            if self._closed:
                raise InvariantError("RECORDER_CLOSED", f"output of call {self.call_id}")
            state.seen = True
            state.hasher.update(data)
            offset, state.size = state.size, state.size + len(data)
            keep = 0 if self._gap else state.room(offset, len(data))
            done = 0
            try:
                while done < keep:
                    part = _slice(data, done, min(done + FRAME_BYTES_MAX, keep))
                    entry = self._store(stream, state, part, offset + done)
                    output = Output(stream=stream, data=part, offset=offset + done)
                    done += len(part)
                    yield self._event(entry, output)
                if keep < len(data):
                    self._settle(stream, state, _slice(data, keep, len(data)), offset + keep)
            except RedactionFailed as error:
                self._stop(stream, state, REDACTION, state.stored, error)
            if done < len(data):
                yield self._pass_by(stream, state, _slice(data, done, len(data)), offset + done)

    def _store(self, stream: Stream, state: StreamState, data: bytes, offset: int) -> StoredEntry:
        """Put what came, or what of the stream is known to be clean by now, on record; what came is
        told at once in any case."""
        end = offset + len(data)
        if not state.is_redacted:
            return self._write(stream, state, Part(data=data, begin=offset, end=end), offset, end)
        parts = state.redact(data) or [Part(data=b"", begin=state.stored, end=state.stored)]
        for part in parts:
            came = end if part is parts[-1] else max(offset, part.end)
            entry = self._write(stream, state, part, offset, came)
            offset = came
        return entry

    def _settle(self, stream: Stream, state: StreamState, data: bytes, offset: int) -> None:
        """Keep the end of what is past the cap. A redactor sees all of it or, where there is no
        tail, what comes until it has told all that is before the cap."""
        if self._gap:
            state.redactor = state.tail = None
            return
        if not state.truncated:
            state.begin_tail()
        if state.redactor is None:
            state.pass_by(data, offset)
            return
        for part in state.redact(data):
            self._write(stream, state, part, state.size, state.size)
        if state.stored == state.cap and state.tail is None:
            state.redactor = None

    def _write(
        self, stream: Stream, state: StreamState, part: Part, offset: int, came: int
    ) -> StoredEntry:
        """Put a part into the recording, and into the log what that is, and that the bytes from
        `offset` to `came` have come: mostly the same ones."""
        sealed = self.recording.sealed and bool(part.data)
        frame = b""
        if part.data:
            frame = self.recording.frame_of(stream, part.begin, part.end, part.data)
        digest = hashlib.sha256(frame).hexdigest()
        is_plain = (part.begin, part.end, part.found) == (offset, came, ())
        redacted = Redacted(begin=part.begin, end=part.end, size=len(part.data), found=part.found)
        with self._lock:
            ref = FrameRef(
                stream=stream,
                offset=offset,
                length=came - offset,
                frame_offset=self.recording.size,
                frame_length=len(frame),
                frame_sha256=digest,
                redacted=None if is_plain else redacted,
                sealed=sealed,
            )
            try:
                if frame:
                    self.recording.write(frame)
                entry = self._append(Kind.OUTPUT, ref.to_json(), reserved=False)
            except AuditUnavailable as error:
                if error.reason in GAPS:
                    self._gap = self._gap or error.reason
                raise
            if frame:
                self.recording.advance(frame)
        state.is_stored(part)
        return entry

    def _pass_by(self, stream: Stream, state: StreamState, data: bytes, offset: int) -> CallEvent:
        """Let bytes by that are not stored; the first time, say so in the log."""
        if not state.truncated:
            if self._gap:
                self._stop(stream, state, self._gap.lower(), state.stored)
            else:
                self._tell_stop(stream, state, "cap", offset)
        output = Output(stream=stream, data=data, offset=offset, truncated=True)
        return self._event(self._last, output)

    def _stop(
        self,
        stream: Stream,
        state: StreamState,
        why: str,
        offset: int,
        error: Exception | None = None,
    ) -> None:
        """Store no more of a stream, and say so in the log."""
        if error is not None:
            log.error(
                "call %s: %s is not stored any more: %s",
                self.call_id, stream, error, extra=of_call(self.call_id),
            )  # fmt: skip
        state.redactor = state.tail = None
        if not state.truncated:
            self._tell_stop(stream, state, why, offset)

    def _tell_stop(
        self,
        stream: Stream,
        state: StreamState,
        why: str,
        offset: int,
        more: Mapping[str, Json] = NOTHING,
    ) -> None:
        body: dict[str, Json] = {"stream": stream.value, "offset": offset, "why": why, **more}
        self.append(Kind.TRUNCATED, body, reserved=True)
        state.truncated = True

    def _event(self, entry: StoredEntry, event: Event) -> CallEvent:
        return CallEvent(
            call_id=self.call_id, sequence=entry.sequence, time_ns=entry.time_ns, event=event
        )


def _state(capture: Capture, mask: Mask | None) -> StreamState:
    if mask is None or capture.mode == "digest":
        return StreamState(capture)
    if mask.failed:  # INTENT says so
        return StreamState(Capture(mode="digest"))
    return StreamState(capture, mask.stream())


def _slice(data: bytes, begin: int, end: int) -> bytes:
    return data if begin == 0 and end == len(data) else data[begin:end]
