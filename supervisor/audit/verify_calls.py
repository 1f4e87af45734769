"""Verification of what the entries say: each call's sequence, recording and streams, and every
blob that an entry names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor.audit.account import blobs_named, digest_of
from supervisor.audit.blobs import BlobStore
from supervisor.audit.codec import finished_from_json
from supervisor.audit.entry import CALL_KINDS, UNMARKED_MODE, Kind, StoredEntry
from supervisor.audit.recording import FrameRef, RecordingReader, open_recording
from supervisor.audit.segment import segment_name
from supervisor.audit.verify_log import Problem, Report
from supervisor.call.events import Finished
from supervisor.call.outcome import Interrupted
from supervisor.call.types import Digest, Json, Stream, canonical_json
from supervisor.errors import AuditCorrupt, NotFound

_Frames = list[tuple[StoredEntry, FrameRef]]


@dataclass(slots=True)
class _Open:
    """What was seen of a call so far."""

    intent: StoredEntry
    mode: str
    last_sequence: int = 1
    frames: _Frames = field(default_factory=list)
    stored: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    lost_bytes: int = 0


class CallCheck:
    """Takes the entries of a log in order, and reports what does not fit."""

    def __init__(
        self, blobs: BlobStore, report: Report, *, live: bool, expect: Mapping[str, str]
    ) -> None:
        self._blobs = blobs
        self._report = report
        self._live = live
        self._expect = dict(expect)
        self._open: dict[str, _Open] = {}
        self._closed: set[str] = set()
        self._orphans: set[str] = set()
        self._sizes: dict[str, int | None] = {}

    @property
    def calls(self) -> int:
        """Give how many calls were seen."""
        return len(self._closed) + len(self._open)

    @property
    def open_calls(self) -> tuple[str, ...]:
        """Give the calls without an outcome."""
        return tuple(self._open)

    def take(self, entry: StoredEntry) -> None:
        """Check one entry."""
        try:
            if entry.call_id:
                self._take_call(entry)
            elif entry.kind in CALL_KINDS or entry.sequence:
                self._problem(entry, "it belongs to no call")
            for digest in self._blobs_of(entry):
                self._check_blob(entry, digest)
        except (KeyError, TypeError, ValueError) as error:
            self._problem(entry, f"its body is not that of its kind: {error!r}")

    def finish(self) -> None:
        """Check what is left when all entries were seen."""
        for call_id, opened in self._open.items():
            self._check_frames(call_id, opened, None)
        for call_id in self._expect:
            self._report(Problem(message=f"call {call_id} has no outcome on record", call=call_id))

    def _take_call(self, entry: StoredEntry) -> None:
        if entry.kind == Kind.INTENT:
            self._take_intent(entry)
            return
        opened = self._open.get(entry.call_id)
        if opened is None:
            self._take_orphan(entry)
            return
        if entry.sequence != opened.last_sequence + 1:
            self._problem(entry, f"its sequence is {entry.sequence} after {opened.last_sequence}")
        opened.last_sequence = entry.sequence
        self._check_mark(entry, opened.mode)
        if entry.kind == Kind.OUTPUT:
            self._take_output(entry, opened)
        elif entry.kind == Kind.LOST and entry.body()["reason"] == "RECORDING_TORN":
            opened.lost_bytes += int(str(entry.body()["count"]))
        elif entry.kind == Kind.OUTCOME:
            self._take_outcome(entry, opened)
        elif entry.kind not in CALL_KINDS:
            self._problem(entry, "a call has no entries of this kind")

    def _take_orphan(self, entry: StoredEntry) -> None:
        if entry.call_id in self._closed:
            self._problem(entry, "it comes after the outcome of its call")
        elif entry.call_id not in self._orphans:
            self._orphans.add(entry.call_id)
            self._problem(entry, "its call has no intent; nor have further entries of it")

    def _take_intent(self, entry: StoredEntry) -> None:
        if entry.call_id in self._open or entry.call_id in self._closed:
            self._problem(entry, "its call had begun before")
            return
        if entry.sequence != 1:
            self._problem(entry, f"its sequence is {entry.sequence}, not 1")
        body = entry.body()
        mode = str(_map(body["profile"])["mode"])
        self._open[entry.call_id] = _Open(intent=entry, mode=mode)
        self._check_mark(entry, mode)
        if "request" in body:
            digest = hashlib.sha256(canonical_json(body["request"])).hexdigest()
        else:
            digest = digest_of(_map(body["request_blob"])).sha256
        if digest != body["fingerprint"]:
            self._problem(entry, "its request has another fingerprint")

    def _check_mark(self, entry: StoredEntry, mode: str) -> None:
        """Check that an entry says, or leaves out, what its call's mode was."""
        mark = entry.body().get("mode", UNMARKED_MODE)
        if mark != mode:
            self._problem(entry, f"it says {mark!r} of a call whose mode was {mode!r}")

    def _take_output(self, entry: StoredEntry, opened: _Open) -> None:
        ref = FrameRef.from_json(entry.body())
        begin = opened.frames[-1][1].frame_end if opened.frames else 0
        if ref.offset != opened.stored[ref.stream] or ref.frame_offset != begin:
            self._problem(entry, "it does not follow the output before it")
        opened.stored[ref.stream] = ref.offset + ref.length
        opened.frames.append((entry, ref))

    def _take_outcome(self, entry: StoredEntry, opened: _Open) -> None:
        del self._open[entry.call_id]
        self._closed.add(entry.call_id)
        expected = self._expect.pop(entry.call_id, entry.leaf)
        if expected != entry.leaf:
            self._problem(entry, f"its leaf hash is {entry.leaf}, not {expected}")
        self._check_frames(entry.call_id, opened, entry)

    def _check_frames(self, call_id: str, opened: _Open, outcome: StoredEntry | None) -> None:
        """Check the recording of a call, frame by frame, and its streams."""
        where = outcome or opened.intent
        body = outcome.body() if outcome else {}
        recording = body.get("recording")
        digest = digest_of(recording) if isinstance(recording, dict) else None
        finished = finished_from_json(body, record="", record_bytes=0) if outcome else None
        interrupted = finished is not None and isinstance(finished.outcome, Interrupted)
        frames = opened.frames
        if interrupted:
            kept = digest.size_bytes if digest else 0
            frames = [frame for frame in frames if frame[1].frame_end <= kept]
            lost = sum(ref.length for _, ref in opened.frames[len(frames) :])
            if lost > opened.lost_bytes:
                self._problem(where, f"{lost} bytes of output are not in the recording")
        elif outcome and (digest.size_bytes if digest else 0) != _end(frames):
            self._problem(where, "the recording is not as long as its entries say")
        hashers = self._read_frames(call_id, where, frames, digest)
        if finished is not None and hashers is not None:
            self._check_streams(where, finished, frames, hashers)

    def _read_frames(
        self,
        call_id: str,
        where: StoredEntry,
        frames: _Frames,
        digest: Digest | None,
    ) -> dict[Stream, str] | None:
        """Read a recording; give the digest of what it holds of each stream, None where it
        cannot be read."""
        hashers = {stream: hashlib.sha256() for stream in Stream}
        if frames:
            reader = self._open_recording(call_id, digest)
            if reader is None:
                if digest is not None or not self._live:
                    self._problem(where, "its recording is missing")
                return None
            try:
                if digest is not None:
                    self._check_whole(where, reader, digest)
                bad = [frame for frame in frames if not self._take_frame(reader, frame, hashers)]
            finally:
                reader.close()
            if bad:
                return None
        return {stream: hasher.hexdigest() for stream, hasher in hashers.items()}

    def _take_frame(
        self,
        reader: RecordingReader,
        frame: tuple[StoredEntry, FrameRef],
        hashers: Mapping[Stream, hashlib._Hash],
    ) -> bool:
        entry, ref = frame
        try:
            hashers[ref.stream].update(reader.read(ref))
        except AuditCorrupt as error:
            self._problem(entry, error.message)
            return False
        return True

    def _open_recording(self, call_id: str, digest: Digest | None) -> RecordingReader | None:
        sha256 = digest.sha256 if digest else ""
        # A daemon may move it between the two places while we look.
        return open_recording(self._blobs, call_id, sha256) or open_recording(
            self._blobs, call_id, sha256
        )

    def _check_whole(self, where: StoredEntry, reader: RecordingReader, digest: Digest) -> None:
        if reader.digest() != digest:
            self._problem(where, f"its recording is not the file with digest {digest.sha256}")

    def _check_streams(
        self,
        where: StoredEntry,
        finished: Finished,
        frames: _Frames,
        hashers: Mapping[Stream, str],
    ) -> None:
        stored = dict.fromkeys(Stream, 0)
        for _, ref in frames:
            stored[ref.stream] += ref.length
        summaries = {summary.stream: summary for summary in finished.streams}
        for stream, length in stored.items():
            summary = summaries.get(stream)
            if summary is None:
                if length:
                    self._problem(where, f"it does not tell of {stream}, which is on record")
            elif summary.stored_bytes != length:
                self._problem(
                    where, f"{length} bytes of {stream} are on record, not {summary.stored_bytes}"
                )
            elif not summary.truncated and hashers[stream] != summary.digest.sha256:
                self._problem(where, f"the digest of {stream} is not that of the recording")

    def _blobs_of(self, entry: StoredEntry) -> list[Digest]:
        if entry.kind not in (Kind.INTENT, Kind.OUTCOME, Kind.BLOB):
            return []
        body = entry.body()
        named = list(blobs_named(entry.kind, body))
        files: dict[str, Json] | None = None
        if entry.kind == Kind.INTENT and "request_blob" in body:
            files = self._json_blob(digest_of(_map(body["request_blob"])))
            named += [digest_of(_map(file)) for file in _list((files or {}).get("files"))]
        if entry.kind == Kind.OUTCOME and "files_blob" in body:
            files = self._json_blob(digest_of(_map(body["files_blob"])))
            named += [digest_of(_map(file)) for file in _list((files or {}).get("outputs"))]
        return named

    def _json_blob(self, digest: Digest) -> dict[str, Json] | None:
        """Read a blob that names others; None where it is damaged, which `_check_blob` tells."""
        try:
            value = json.loads(self._blobs.get(digest))
        except (AuditCorrupt, NotFound, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _check_blob(self, entry: StoredEntry, digest: Digest) -> None:
        """Check a blob, once, and the size that each entry says it has."""
        if digest.sha256 not in self._sizes:
            self._sizes[digest.sha256] = self._read_blob(entry, digest)
        size = self._sizes[digest.sha256]
        if size is not None and size != digest.size_bytes:
            self._problem(entry, f"blob {digest.sha256} has {size} bytes, not {digest.size_bytes}")

    def _read_blob(self, entry: StoredEntry, digest: Digest) -> int | None:
        """Give the size of a blob; None where it cannot be read, which is told."""
        try:
            self._blobs.check_file(digest)
            with self._blobs.open(digest) as reader:
                return sum(len(chunk) for chunk in reader.chunks())
        except (AuditCorrupt, NotFound) as error:
            self._problem(entry, error.message)
            return None

    def _problem(self, entry: StoredEntry, message: str) -> None:
        self._report(
            Problem(
                message=message,
                segment=segment_name(entry.position.segment),
                offset=entry.position.offset,
                index=entry.index,
                call=entry.call_id,
                kind=entry.kind,
            )
        )


def _end(frames: _Frames) -> int:
    return frames[-1][1].frame_end if frames else 0


def _map(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise TypeError(f"not an object: {value!r}")
    return value


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
