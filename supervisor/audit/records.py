"""The record of one call as others want it: a summary, its entries, its events, its streams.

A live call's record can be read while it is written, and from any thread: what is read of the log
and of a recording ends before the place where the writer is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from supervisor.audit.account import ref_of
from supervisor.audit.blobs import BlobStore
from supervisor.audit.entry import Kind, StoredEntry
from supervisor.audit.index import CallRow, CallSummary, Index
from supervisor.audit.journal import Journal
from supervisor.audit.locker import Locker
from supervisor.audit.reading import read_call, read_entry
from supervisor.audit.recorder import CallRecorder
from supervisor.audit.recording import FrameRef, RecordingReader, open_recording
from supervisor.audit.redaction.found import Piece
from supervisor.audit.replay import events_of, pieces_of
from supervisor.audit.vault import content_removed
from supervisor.call.events import CallEvent, Finished
from supervisor.call.texts import brief
from supervisor.call.types import Digest, Stream
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
        locker: Locker,
    ) -> None:
        self._journal = journal
        self._index = index
        self._blobs = blobs
        self._live = live
        self._locker = locker

    def row(self, call_id: str) -> CallRow | None:
        """Give what the index knows of a call."""
        live = self._live.get(call_id)
        return live.row if live is not None else self._index.get(call_id)

    def up_to_date(self, summary: CallSummary) -> CallSummary:
        """Give a summary with what a live call has by now."""
        live = self._live.get(summary.call_id)
        if live is None:
            erased, holds = self._index.erasure(summary.call_id), self.holds(summary.call_id)
            return replace(summary, erased=erased, holds=holds)
        recorder = live.recorder
        return replace(
            summary,
            last_sequence=recorder.last_sequence,
            denials=recorder.denials,
            holds=self.holds(summary.call_id),
        )

    def holds(self, call_id: str) -> int:
        """Give how many hold what a call left."""
        return self._index.holds(call_id)

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

    def restored(self, summary: CallSummary) -> CallSummary:
        """Give a call with the digests of its contents, where it is encrypted and its key is
        there. Reads the disk.

        Raises:
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`, `KEY_MISSING`, `KEY_DAMAGED`.
        """
        row = self.row(summary.call_id)
        if summary.finished is None or row is None:
            return summary
        body = read_entry(self._journal, row.last).body()
        caller = summary.caller.name
        finished = self._locker.restored(summary.call_id, caller, summary.finished, body)
        return replace(summary, finished=finished)

    def blob_named(self, digest: Digest, caller: str) -> Digest | None:
        """Give what the record calls a blob that a caller knows by `digest`; None where it has none
        that it may read. Of encrypted content that is the digest of its file."""
        known = self._locker.known(caller, digest)
        if known is not None:
            return known
        return digest if self._index.may_read(ref_of(digest, caller)) else None

    def fingerprint(self, call_id: str) -> str:
        """Give the fingerprint of the request of a call.

        Raises:
            NotFound: `RECORD_NOT_FOUND`, `CONTENT_ERASED`; CallStateError: `CONTENT_LOCKED`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`, `KEY_MISSING`, `KEY_DAMAGED`.
        """
        return self._locker.fingerprint(call_id, self.intent(call_id).body())

    def intent(self, call_id: str) -> StoredEntry:
        """Give the first entry of a call.

        Raises:
            NotFound: `RECORD_NOT_FOUND`; AuditCorrupt: `CHAIN_BROKEN`.
        """
        return read_entry(self._journal, self._existing(call_id).first)

    def events(
        self, call_id: str, from_sequence: int, *, content: bool = True
    ) -> Iterator[CallEvent]:
        """Give the record of a call as events, without its output where `content` is not wanted.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        entries = self.entries(call_id, from_sequence)
        if not content:
            entries = (entry for entry in entries if entry.kind != Kind.OUTPUT)
        return self._replay(call_id, entries)

    def read_stream(self, call_id: str, stream: Stream) -> Iterator[Piece]:
        """Give what is on record of a stream.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            AuditCorrupt: `CHAIN_BROKEN`, `DIGEST_MISMATCH`.
        """
        return self._read_stream(call_id, self.entries(call_id, 1), stream)

    def open_recording(self, call_id: str) -> RecordingReader:
        """Open the recording of a call, live or not.

        Raises:
            NotFound: `RECORD_NOT_FOUND`, `CONTENT_REMOVED`.
        """
        for _ in range(3):  # it may move to its digest between looking and opening
            reader = open_recording(
                self._blobs,
                call_id,
                self.recording_digest(call_id),
                lambda: self._locker.vault.key(call_id),
            )
            if reader is not None:
                return reader
        removal = self._index.removal(call_id)
        if removal is not None:
            raise content_removed(call_id, removal)
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
            raise no_record(call_id)
        return row

    def held(self, call_id: str, stream: Stream) -> tuple[int, bytes] | None:
        """Give what a live call holds back of a stream, and where it begins; None once it ended."""
        live = self._live.get(call_id)
        return live.recorder.held(stream) if live is not None else None

    def _replay(self, call_id: str, entries: Iterator[StoredEntry]) -> Iterator[CallEvent]:
        with contextlib.closing(_Frames(self, call_id)) as frames:
            ahead: dict[Stream, _Ahead] = {}

            def take(ref: FrameRef) -> Iterator[Piece]:
                if ref.redacted is None:
                    return pieces_of(ref, frames.read(ref))
                if ref.stream not in ahead:
                    ahead[ref.stream] = _Ahead(self, call_id, ref, frames)
                return ahead[ref.stream].take(ref.offset, ref.offset + ref.length)

            for entry in entries:
                for event in events_of(entry, take, self._blobs):
                    yield self._with_digests(event, entry)

    def _with_digests(self, event: CallEvent, entry: StoredEntry) -> CallEvent:
        if not isinstance(event.event, Finished):
            return event
        caller = self._existing(entry.call_id).summary.caller.name
        finished = self._locker.restored(entry.call_id, caller, event.event, entry.body())
        return replace(event, event=finished)

    def _read_stream(
        self, call_id: str, entries: Iterator[StoredEntry], stream: Stream
    ) -> Iterator[Piece]:
        with contextlib.closing(_Frames(self, call_id)) as frames:
            for entry in entries:
                if entry.kind == Kind.OUTPUT:
                    ref = FrameRef.from_json(entry.body())
                    if ref.stream is stream:
                        yield from pieces_of(ref, frames.read(ref))


class _Frames:
    """The recording of a call, opened when the first frame is read."""

    def __init__(self, records: Records, call_id: str) -> None:
        self._records = records
        self._call_id = call_id
        self._reader: RecordingReader | None = None

    def read(self, ref: FrameRef) -> bytes:
        if ref.is_empty:
            return b""
        if self._reader is None:
            self._reader = self._records.open_recording(self._call_id)
        return self._reader.read(ref)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


class _Ahead:
    """The bytes of a redacted stream, read ahead of the entries that say when they came, from
    `first` on. Of a live call, what is held back comes as it was."""

    def __init__(self, records: Records, call_id: str, first: FrameRef, frames: _Frames) -> None:
        self._records = records
        self._call_id = call_id
        self._stream = first.stream
        self._frames = frames
        self._end = first.offset
        self._told = -1
        self._current: Piece | None = None
        self._pieces = self._read()

    def take(self, at: int, end: int) -> Iterator[Piece]:
        """Give what is known of [at, end): one piece where there is no secret in it. The mark of a
        secret is given once, where the first of its bytes that are asked for came."""
        clear: list[bytes] = []
        begin = at
        while at < end and (piece := self._piece(at)) is not None and piece.offset < end:
            if piece.found is None and piece.offset <= at:
                stop = min(end, piece.end)
                clear.append(piece.data[at - piece.offset : stop - piece.offset])
                at = stop
                continue
            if clear:
                yield Piece(offset=begin, end=at, data=b"".join(clear))
                clear = []
            at = max(at, piece.offset)  # what is before it is not on record
            if piece.found is not None:
                if piece.end > self._told:
                    self._told = piece.end
                    yield replace(piece, offset=at)
                at = piece.end
            begin = at
        if clear:
            yield Piece(offset=begin, end=at, data=b"".join(clear))

    def _piece(self, at: int) -> Piece | None:
        while self._current is None or self._current.end <= at:
            self._current = next(self._pieces, None)
            if self._current is None:
                return None
        return self._current

    def _read(self) -> Iterator[Piece]:
        sequence = 1
        while True:
            # First what is held back, then the entries: what is no longer held is in these.
            held, before = self._records.held(self._call_id, self._stream), sequence
            for entry in self._records.entries(self._call_id, sequence + 1):
                sequence = entry.sequence
                ref = FrameRef.from_json(entry.body()) if entry.kind == Kind.OUTPUT else None
                if ref is not None and ref.stream is self._stream and ref.end > self._end:
                    yield from self._not_given(pieces_of(ref, self._frames.read(ref)))
            if held is None:
                return
            begin, data = held
            piece = Piece(offset=begin, end=begin + len(data), data=data)
            if piece.end > self._end:
                yield from self._not_given([piece])
            elif sequence == before:
                return

    def _not_given(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if piece.end > self._end:
                self._end = piece.end
                yield piece


def no_record(call_id: str) -> NotFound:
    """Make the error for a call that is not on record, or that its reader may not see."""
    return NotFound(
        "RECORD_NOT_FOUND",
        f"there is no record of call {brief(call_id)!r}",
        hint="those that you may read: stockade audit ls",
    )
