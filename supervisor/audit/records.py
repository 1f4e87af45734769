"""The record of one call as others want it: a summary, its entries, its events, its streams.

A live call's record can be read while it is written, and from any thread: what is read of the log
and of a recording ends before the place where the writer is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from supervisor.audit.blobs import BlobStore
from supervisor.audit.entry import Kind, StoredEntry
from supervisor.audit.index import CallRow, CallSummary, Index
from supervisor.audit.journal import Journal
from supervisor.audit.reading import read_call, read_entry
from supervisor.audit.recorder import CallRecorder
from supervisor.audit.recording import FrameRef, RecordingReader, open_recording
from supervisor.audit.replay import event_of
from supervisor.call.events import CallEvent
from supervisor.call.types import Stream
from supervisor.errors import NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCall:
    """A call that is being recorded, and its row as of INTENT."""

    recorder: CallRecorder
    row: CallRow


class Records:
    """Reads records; `live` is the store's own map of live calls."""

    def __init__(
        self,
        journal: Journal,
        index: Index,
        blobs: BlobStore,
        live: Mapping[str, LiveCall],
    ) -> None:
        self._journal = journal
        self._index = index
        self._blobs = blobs
        self._live = live

    def row(self, call_id: str) -> CallRow | None:
        """Give what the index knows of a call."""
        live = self._live.get(call_id)
        return live.row if live is not None else self._index.get(call_id)

    def up_to_date(self, summary: CallSummary) -> CallSummary:
        """Give a summary with what a live call has by now."""
        live = self._live.get(summary.call_id)
        if live is None:
            return summary
        recorder = live.recorder
        return replace(summary, last_sequence=recorder.last_sequence, denials=recorder.denials)

    def entries(self, call_id: str, from_sequence: int) -> Iterator[StoredEntry]:
        """Give the entries of a call.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`.
        """
        live = self._live.get(call_id)
        last = live.recorder.last_entry.position if live is not None else None
        entries = read_call(self._journal, self._existing(call_id), last)
        return (entry for entry in entries if entry.sequence >= from_sequence)

    def events(self, call_id: str, from_sequence: int) -> Iterator[CallEvent]:
        """Give the record of a call as events.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self._replay(call_id, self.entries(call_id, from_sequence))

    def read_stream(self, call_id: str, stream: Stream) -> Iterator[tuple[int, bytes]]:
        """Give what is on record of a stream.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self._read_stream(call_id, self.entries(call_id, 1), stream)

    def open_recording(self, call_id: str) -> RecordingReader:
        """Open the recording of a call, live or not.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
        """
        for _ in range(3):  # it may move to its digest between looking and opening
            reader = open_recording(self._blobs, call_id, self.recording_digest(call_id))
            if reader is not None:
                return reader
        raise NotFound("RECORD_NOT_FOUND", f"the recording of call {call_id} is gone")

    def recording_digest(self, call_id: str) -> str:
        """Give the digest of a sealed recording, "" where there is none yet."""
        live = self._live.get(call_id)
        if live is not None:
            return live.recorder.recording.sealed_sha256
        row = self._existing(call_id)
        if row.summary.finished is None:
            return ""
        recording = read_entry(self._journal, row.last).body().get("recording")
        return str(recording["sha256"]) if isinstance(recording, dict) else ""

    def _existing(self, call_id: str) -> CallRow:
        row = self.row(call_id)
        if row is None:
            raise NotFound("RECORD_NOT_FOUND", f"there is no record of call {call_id[:80]!r}")
        return row

    def _replay(self, call_id: str, entries: Iterator[StoredEntry]) -> Iterator[CallEvent]:
        with contextlib.closing(_Frames(self, call_id)) as frames:
            for entry in entries:
                event = event_of(entry, frames.read, self._blobs)
                if event is not None:
                    yield event

    def _read_stream(
        self, call_id: str, entries: Iterator[StoredEntry], stream: Stream
    ) -> Iterator[tuple[int, bytes]]:
        with contextlib.closing(_Frames(self, call_id)) as frames:
            for entry in entries:
                if entry.kind == Kind.OUTPUT:
                    ref = FrameRef.from_json(entry.body())
                    if ref.stream is stream:
                        yield ref.offset, frames.read(ref)


class _Frames:
    """The recording of a call, opened when the first frame is read."""

    def __init__(self, records: Records, call_id: str) -> None:
        self._records = records
        self._call_id = call_id
        self._reader: RecordingReader | None = None

    def read(self, ref: FrameRef) -> bytes:
        if self._reader is None:
            self._reader = self._records.open_recording(self._call_id)
        return self._reader.read(ref)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
