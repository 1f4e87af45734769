"""Read calls out of a state folder, without a daemon and without writing anything.

The log is read from its beginning and its chain is checked on the way, so what is given is what
`audit verify` would accept up to there. A daemon may write meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from supervisor.audit.account import erasure_of, finished_of, profile_of
from supervisor.audit.blobs import BlobStore
from supervisor.audit.directory import BLOBS_NAME, KEYS_NAME, LOG_NAME, is_locked
from supervisor.audit.entry import Kind, StoredEntry
from supervisor.audit.files import stored_as
from supervisor.audit.recording import FrameRef, open_recording
from supervisor.audit.sealed_blobs import open_sealed
from supervisor.audit.sealing import ContentKey
from supervisor.audit.segment import MAGIC, BadFrame, read_frames, segment_name
from supervisor.audit.shortage import open_to_read
from supervisor.audit.vault import content_erased, content_locked, read_key
from supervisor.audit.verify_log import LogCheck, Problem
from supervisor.call.texts import brief
from supervisor.call.types import Digest, Stream
from supervisor.errors import AuditCorrupt, InvariantError, NotFound, StockadeError


def read_calls(directory: Path, call_ids: Sequence[str]) -> dict[str, list[StoredEntry]]:
    """Give the entries of each of the calls, in order.

    Raises:
        NotFound: `RECORD_NOT_FOUND`.
        AuditCorrupt: `RECORD_DAMAGED`.
        OSError: the folder cannot be read.
    """
    found: dict[str, list[StoredEntry]] = {call_id: [] for call_id in call_ids}
    for entry in _entries(directory):
        if entry.call_id and entry.call_id in found:  # what belongs to no call is of no call
            found[entry.call_id].append(entry)
    for call_id, entries in found.items():
        if not entries:
            raise _no_record(call_id)
    return found


def leaf_at(directory: Path, index: int) -> str | None:
    """Give the leaf hash of one entry, in hexadecimal; None where the log has it not. Only its own
    segment is read.

    Raises:
        AuditCorrupt: `RECORD_DAMAGED`.
        OSError: the folder cannot be read.
    """
    log = directory / LOG_NAME
    firsts = [int(path.stem) for path in log.glob("*.seg") if path.stem.isdecimal()]
    segment = max((first for first in firsts if first <= index), default=None)
    if segment is None:
        return None
    fd = open_to_read(log / segment_name(segment))
    try:
        for frame in read_frames(fd, len(MAGIC), os.fstat(fd).st_size):
            if frame.head.index == index:
                return frame.leaf.hex()
    except BadFrame as bad:
        if is_locked(directory) and bad.head is None:
            return None  # a daemon is writing it right now, and has space before it
        raise AuditCorrupt("RECORD_DAMAGED", f"{segment_name(segment)}: {bad.why}") from bad
    finally:
        os.close(fd)
    return None


def read_profile(directory: Path, intent: StoredEntry) -> bytes:
    """Give the canonical JSON of the profile that a call ran under, as it was then.

    Raises:
        NotFound: `BLOB_NOT_FOUND`.
        AuditCorrupt: `DIGEST_MISMATCH`.
    """
    if intent.kind != Kind.INTENT:
        raise InvariantError("NO_INTENT", f"entry {intent.index} is of kind {intent.kind}")
    try:
        digest = profile_of(intent.body())
    except (KeyError, TypeError, ValueError) as error:
        raise AuditCorrupt("RECORD_DAMAGED", f"entry {intent.index} names no profile") from error
    return BlobStore(directory / BLOBS_NAME, _never).get(digest)


class Folder:
    """One call in a state folder, read with `identities` where it is encrypted."""

    def __init__(self, directory: Path, call_id: str, identities: Sequence[str]) -> None:
        """Find the call.

        Raises:
            NotFound: `RECORD_NOT_FOUND`, `CONTENT_ERASED`.
            AuditCorrupt: `RECORD_DAMAGED`.
        """
        self._keys = directory / KEYS_NAME
        self._identities = tuple(identities)
        self._blobs = BlobStore(directory / BLOBS_NAME, _never)
        self._call_id = call_id
        self._entries: list[StoredEntry] = []
        for entry in _entries(directory):
            if call_id and entry.call_id == call_id:
                self._entries.append(entry)
            if entry.kind == Kind.ERASED and (erased := erasure_of(entry))[0] == call_id:
                raise content_erased(*erased)
        if not self._entries:
            raise _no_record(call_id)
        last = self._entries[-1]
        self.finished = finished_of(last, self._blobs) if last.kind == Kind.OUTCOME else None

    def stream(self, stream: Stream) -> Iterator[bytes]:
        """Give the recorded bytes of a stream, in order.

        Raises:
            CallStateError: `CONTENT_LOCKED`.
            AuditCorrupt: `DIGEST_MISMATCH`, `KEY_MISSING`, `KEY_DAMAGED`.
            NotFound: `RECORD_NOT_FOUND`, where the recording is gone.
        """
        refs = [FrameRef.from_json(e.body()) for e in self._entries if e.kind == Kind.OUTPUT]
        refs = [ref for ref in refs if ref.stream is stream]
        recording = self._entries[-1].body().get("recording")
        sha256 = str(recording["sha256"]) if isinstance(recording, dict) else ""
        reader = open_recording(self._blobs, self._call_id, sha256, self._key) if refs else None
        if reader is None:
            if refs:
                raise NotFound("RECORD_NOT_FOUND", "the recording of the call is gone")
            return
        try:
            for ref in refs:
                yield reader.read(ref)
        finally:
            reader.close()

    def stored(self, path: bytes) -> tuple[Digest, bool]:
        """Find what is on record of a file that the call left behind; say whether its secrets are
        replaced in that.

        Raises:
            NotFound: `OUTPUT_NOT_FOUND`, `OUTPUT_NOT_STORED`.
        """
        outputs = self.finished.outputs if self.finished is not None else ()
        digest = next((file.digest for file in outputs if file.path == path), None)
        if digest is None:
            raise NotFound(
                "OUTPUT_NOT_FOUND", f"the call left no file {os.fsdecode(path)!r} behind"
            )
        return stored_as(self._entries[-1].body(), digest, os.fsdecode(path))

    def output(self, digest: Digest) -> Iterator[bytes]:
        """Give what is on record of a file.

        Raises:
            NotFound: `BLOB_NOT_FOUND`; the rest as `stream`.
        """
        sealed = self._blobs.is_sealed(digest)
        with (
            open_sealed(self._blobs, digest, lambda _: self._key())
            if sealed
            else self._blobs.open(digest)
        ) as reader:
            yield from reader.chunks()

    def _key(self) -> ContentKey:
        key = read_key(self._keys, self._call_id, self._identities) if self._identities else None
        if key is None:
            raise content_locked(self._call_id, offline=True, tried=bool(self._identities))
        return key


def _entries(directory: Path) -> Iterator[StoredEntry]:
    yield from LogCheck(directory / LOG_NAME, _damaged, live=is_locked(directory)).entries()


def _no_record(call_id: str) -> NotFound:
    return NotFound("RECORD_NOT_FOUND", f"there is no record of call {brief(call_id)!r}")


def _damaged(problem: Problem) -> None:
    raise AuditCorrupt("RECORD_DAMAGED", str(problem), hint="stockade audit verify names it all")


def _never(what: str, error: OSError) -> StockadeError:
    return InvariantError("OFFLINE_WROTE", f"reading wrote: {what}: {error}")
