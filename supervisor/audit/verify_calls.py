"""Verification of what the entries say: each call's sequence, recording and streams, and every
blob that an entry names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from supervisor.audit.account import (
    blobs_named,
    digest_of,
    is_encrypted,
    kept_of,
    profile_of,
)
from supervisor.audit.blobs import BlobStore
from supervisor.audit.codec import finished_from_json
from supervisor.audit.entry import CALL_KINDS, UNMARKED_MODE, Kind, StoredEntry
from supervisor.audit.recording import FrameRef, RecordingReader, open_recording
from supervisor.audit.replay import pieces_of
from supervisor.audit.runs import Run
from supervisor.audit.sealed_blobs import check_sealed
from supervisor.audit.verify_keys import KeyCheck
from supervisor.audit.verify_log import Problem, Report
from supervisor.audit.verify_removed import Missing
from supervisor.call.events import Finished
from supervisor.call.outcome import Interrupted
from supervisor.call.types import Digest, Json, Stream, as_map, canonical_json
from supervisor.errors import AuditCorrupt, NotFound

_PLAIN = frozenset(
    kind.encode()
    for kind in CALL_KINDS - {Kind.INTENT, Kind.OUTPUT, Kind.TRUNCATED, Kind.LOST, Kind.OUTCOME}
)
"""Kinds of which nothing is checked but that they are in their place and say their call's mode."""

GONE = -1
"""The size of a blob that is not there."""

_Frames = list[tuple[StoredEntry, FrameRef]]


@dataclass(slots=True)
class _Open:
    """What was seen of a call so far."""

    intent: StoredEntry
    mode: str
    encrypted: bool = False
    last_sequence: int = 1
    frames: _Frames = field(default_factory=list)
    came: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    stored: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    gaps: dict[Stream, int] = field(default_factory=dict)
    lost_bytes: int = 0


class CallCheck:
    """Takes the entries of a log in order, and reports what does not fit."""

    def __init__(
        self,
        blobs: BlobStore,
        report: Report,
        *,
        live: bool,
        expect: Mapping[str, str],
        keys: KeyCheck | None = None,
    ) -> None:
        self._blobs = blobs
        self._report = report
        self._live = live
        self._keys = keys
        self._expect = dict(expect)
        self._open: dict[str, _Open] = {}
        self._closed: set[str] = set()
        self._orphans: set[str] = set()
        self._sizes: dict[str, int | None] = {}
        self._missing = Missing(report)

    @property
    def removed(self) -> int:
        """Give of how many calls the contents were removed, as an entry says."""
        return len(self._missing.removed)

    @property
    def calls(self) -> int:
        """Give how many calls were seen."""
        return len(self._closed) + len(self._open)

    @property
    def open_calls(self) -> tuple[str, ...]:
        """Give the calls without an outcome."""
        return tuple(self._open)

    def take_run(self, run: Run) -> None:
        """Check the entries of a run."""
        for place, (call, kind, sequence) in enumerate(run.calls):
            if kind in _PLAIN:
                opened = self._open.get(call.decode())
                if (
                    opened is not None
                    and sequence == opened.last_sequence + 1
                    and _mode_of(run.body(place)) == opened.mode
                ):
                    opened.last_sequence += 1
                    continue
            self.take(run.entry(place))

    def take(self, entry: StoredEntry) -> None:
        """Check one entry."""
        try:
            if entry.call_id:
                self._take_call(entry)
            elif entry.kind in CALL_KINDS or entry.sequence:
                self._problem(entry, "it belongs to no call")
            else:
                self._missing.take(entry, self._closed)
            if self._keys is not None:
                self._keys.take(entry)
            for digest in self._blobs_of(entry):
                self._check_blob(entry, digest)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            self._problem(entry, f"its body is not that of its kind: {error!r}")
        except PermissionError:
            raise
        except OSError as error:
            self._problem(entry, f"what it names cannot be read: {error.strerror}")

    def finish(self) -> None:
        """Check what is left when all entries were seen."""
        for call_id, opened in self._open.items():
            try:
                self._check_frames(call_id, opened, None)
            except PermissionError:
                raise
            except OSError as error:
                self._problem(opened.intent, f"what it names cannot be read: {error.strerror}")
        self._missing.finish()
        if self._keys is not None:
            self._keys.finish()
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
        elif entry.kind == Kind.TRUNCATED:
            self._take_truncated(entry, opened)
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
        mode = str(as_map(body["profile"])["mode"])
        encrypted = is_encrypted(body)
        self._open[entry.call_id] = _Open(intent=entry, mode=mode, encrypted=encrypted)
        self._check_mark(entry, mode)
        if "request" in body:
            digest = hashlib.sha256(canonical_json(body["request"])).hexdigest()
        else:
            digest = digest_of(as_map(body["request_blob"])).sha256
        redaction = body.get("redaction")
        if isinstance(redaction, dict) and redaction.get("found"):
            return  # the fingerprint is that of the request as it was, which nobody has
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
        follows = ref.frame_offset == begin and ref.begin == opened.stored[ref.stream]
        if ref.redacted is None:
            came = opened.stored[ref.stream]
        else:
            # What came past a cap has no entries, and what was held back follows all the same.
            came = opened.came[ref.stream] if ref.length else ref.offset
            follows = follows and ref.begin <= ref.end
        if not follows or ref.offset != came:
            self._problem(entry, "it does not follow the output before it")
        opened.came[ref.stream] = ref.offset + ref.length
        opened.stored[ref.stream] = ref.end
        if ref.sealed != (opened.encrypted and not ref.is_empty):
            self._problem(entry, "it is sealed" if ref.sealed else "it is not sealed")
        opened.frames.append((entry, ref))

    def _take_truncated(self, entry: StoredEntry, opened: _Open) -> None:
        """Take note of a gap, where its end is told; the tail of the stream follows it."""
        body = entry.body()
        stream = Stream(str(body["stream"]))
        if "length" not in body:
            return
        begin, length = body["offset"], body["length"]
        if not isinstance(begin, int) or not isinstance(length, int):
            raise TypeError("offset and length are numbers")
        if begin != opened.stored[stream] or length < 0 or stream in opened.gaps:
            self._problem(entry, f"the gap does not follow what is on record of {stream}")
        opened.gaps[stream] = opened.came[stream] = opened.stored[stream] = begin + length

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
            lost = sum(ref.end - ref.begin for _, ref in opened.frames[len(frames) :])
            if lost > opened.lost_bytes:
                self._problem(where, f"{lost} bytes of output are not in the recording")
        elif outcome and (digest.size_bytes if digest else 0) != _end(frames):
            self._problem(where, "the recording is not as long as its entries say")
        hashers = self._read_frames(call_id, where, frames, digest)
        if finished is not None and hashers is not None:
            self._check_streams(where, finished, frames, {} if opened.encrypted else hashers)
            self._check_tails(where, finished, frames, opened.gaps)

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
        if _end(frames):
            reader = self._open_recording(call_id, digest)
            if reader is None:
                if digest is not None:
                    self._missing.add(where, digest.sha256, "its recording is missing")
                elif not self._live:
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
            if ref.sealed:
                reader.check(ref)  # its streams have no digest that can be told without the key
                return True
            data = reader.read(ref)
            for _ in pieces_of(ref, data):
                pass  # that its bytes stand for what the entry says is all that is asked
            hashers[ref.stream].update(data)
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
        if not reader.is_whole(digest):
            self._problem(where, f"its recording is not the file with digest {digest.sha256}")

    def _check_streams(
        self,
        where: StoredEntry,
        finished: Finished,
        frames: _Frames,
        hashers: Mapping[Stream, str],
    ) -> None:
        """Hold what OUTCOME says of the streams to what was read: lengths, and the digests of
        `hashers`, none for an encrypted call, whose digests are sealed."""
        stored, redactions = dict.fromkeys(Stream, 0), dict.fromkeys(Stream, 0)
        for _, ref in frames:
            stored[ref.stream] += ref.end - ref.begin
            redactions[ref.stream] += len(ref.redacted.found) if ref.redacted else 0
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
            elif summary.redactions != redactions[stream]:
                self._problem(
                    where,
                    f"{redactions[stream]} secrets of {stream} were redacted, not "
                    f"{summary.redactions}",
                )
            elif summary.redactions:
                continue  # the digest is that of the stream as it was, which nobody has
            elif hashers and not summary.truncated and hashers[stream] != summary.digest.sha256:
                self._problem(where, f"the digest of {stream} is not that of the recording")

    def _check_tails(
        self,
        where: StoredEntry,
        finished: Finished,
        frames: _Frames,
        gaps: Mapping[Stream, int],
    ) -> None:
        """Hold what OUTCOME says of the ends of streams to what lies behind their gaps."""
        for summary in finished.streams:
            stream, begin = summary.stream, gaps.get(summary.stream)
            behind = [ref for _, ref in frames if ref.stream is stream]
            behind = [ref for ref in behind if begin is not None and ref.begin >= begin]
            length = sum(ref.end - ref.begin for ref in behind)
            if summary.tail_bytes != length:
                self._problem(
                    where, f"the last {length} bytes of {stream} are on record, "
                    f"not {summary.tail_bytes}"
                )  # fmt: skip
            elif length and behind[-1].end != summary.digest.size_bytes:
                self._problem(where, f"{stream} does not end with what is behind its gap")

    def _blobs_of(self, entry: StoredEntry) -> list[Digest]:
        if entry.kind not in (Kind.INTENT, Kind.OUTCOME, Kind.BLOB, Kind.POLICY):
            return []
        body = entry.body()
        named = list(blobs_named(entry.kind, body))
        files: dict[str, Json] | None = None
        if entry.kind == Kind.INTENT and "request_files" in body:
            listed = self._json_blob(digest_of(as_map(body["request_files"])))
            named += [digest_of(as_map(file)) for file in _list((listed or {}).get("files"))]
        elif entry.kind == Kind.INTENT and "request_blob" in body:
            files = self._json_blob(digest_of(as_map(body["request_blob"])))
            given = [digest_of(as_map(file)) for file in _list((files or {}).get("files"))]
            named += kept_of(body, given)
        if entry.kind == Kind.OUTCOME and "files_blob" in body:
            files = self._json_blob(digest_of(as_map(body["files_blob"])))
            left = [digest_of(as_map(file)) for file in _list((files or {}).get("outputs"))]
            named += kept_of(body, left)
        return named

    def _json_blob(self, digest: Digest) -> dict[str, Json] | None:
        """Read a blob that names others; None where it is damaged, which `_check_blob` tells."""
        try:
            value = json.loads(self._blobs.get(digest))
        except (AuditCorrupt, NotFound, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def _check_blob(self, entry: StoredEntry, digest: Digest) -> None:
        """Check a blob, once, and the size that each entry says it has."""
        if digest.sha256 not in self._sizes:
            self._sizes[digest.sha256] = self._read_blob(entry, digest)
        size = self._sizes[digest.sha256]
        if size == GONE:
            is_content = digest not in _kept_for_good(entry)
            holder = None if is_content else ""
            self._missing.add(entry, digest.sha256, f"there is no blob {digest.sha256}", holder)
            return
        if size is not None and size != digest.size_bytes:
            self._problem(entry, f"blob {digest.sha256} has {size} bytes, not {digest.size_bytes}")

    def _read_blob(self, entry: StoredEntry, digest: Digest) -> int | None:
        """Give the size of a blob, `GONE` where it is not there; None where it cannot be read,
        which is told."""
        try:
            if self._blobs.is_sealed(digest):
                return check_sealed(self._blobs, digest)
            self._blobs.check_file(digest)
            with self._blobs.open(digest) as reader:
                return sum(len(chunk) for chunk in reader.chunks())
        except NotFound:
            return GONE
        except AuditCorrupt as error:
            self._problem(entry, error.message)
            return None

    def _problem(self, entry: StoredEntry, message: str) -> None:
        self._report(Problem.of(entry, message))


def _mode_of(body: bytes) -> Json:
    """Give which mode an entry says, "" where its body is none or has to be looked at closer."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    return fields.get("mode", UNMARKED_MODE) if type(fields) is dict else ""


def _kept_for_good(entry: StoredEntry) -> list[Digest]:
    """Give the blobs of an entry that are no contents: what entries are read with."""
    body = entry.body()
    if entry.kind == Kind.INTENT:
        return [profile_of(body)]
    if entry.kind == Kind.OUTCOME and "files_blob" in body:
        return [digest_of(as_map(body["files_blob"]))]
    return list(blobs_named(entry.kind, body)) if entry.kind == Kind.POLICY else []


def _end(frames: _Frames) -> int:
    return frames[-1][1].frame_end if frames else 0


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
