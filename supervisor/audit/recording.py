"""A call's recording: its input and output as independent zstd frames in one file.

Each frame holds at most a mebibyte of one stream and is named by one `output` entry of the log,
which knows where the frame lies and the SHA-256 of its bytes; so any part can be read, and
checked, alone, also while the call still writes. While the call lives, the file lies under
`blobs/part/`; after its outcome, under the SHA-256 of itself.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

import zstandard

from supervisor.audit.blobs import BlobStore, Fail, damaged, record_full, write_all
from supervisor.audit.parts import PartFolder
from supervisor.audit.segment import read_exactly
from supervisor.audit.shortage import open_to_read, shortage, unavailable
from supervisor.audit.space import NO_SPACE
from supervisor.call.types import Digest, Json, Stream

log = logging.getLogger(__name__)

FRAME_BYTES_MAX = 1 << 20
"""Of a stream, before compression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRef:
    """What an `output` entry says: which bytes of which stream lie where in the recording."""

    stream: Stream
    offset: int
    length: int
    frame_offset: int
    frame_length: int
    frame_sha256: str

    def to_json(self) -> dict[str, Json]:
        """Give the body of the entry."""
        return {
            "stream": self.stream.value,
            "offset": self.offset,
            "length": self.length,
            "frame_offset": self.frame_offset,
            "frame_length": self.frame_length,
            "frame_sha256": self.frame_sha256,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Json]) -> FrameRef:
        """Read the body of an entry."""
        return cls(
            stream=Stream(str(body["stream"])),
            offset=_int(body["offset"]),
            length=_int(body["length"]),
            frame_offset=_int(body["frame_offset"]),
            frame_length=_int(body["frame_length"]),
            frame_sha256=str(body["frame_sha256"]),
        )

    @property
    def frame_end(self) -> int:
        """Give where the frame ends in the recording."""
        return self.frame_offset + self.frame_length


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A recording that takes no more frames: the digest is that of the file."""

    sha256: str
    size_bytes: int

    def to_json(self) -> dict[str, Json]:
        """Give it as the OUTCOME entry has it."""
        return {"sha256": self.sha256, "size_bytes": self.size_bytes}


class RecordingWriter:
    """The recording of a live call; the file is made with the first frame. Not thread-safe."""

    def __init__(self, blobs: BlobStore, call_id: str, fail: Fail) -> None:
        self._blobs = blobs
        self._call_id = call_id
        self._fail = fail
        self._fd = -1
        self._hasher = hashlib.sha256()
        self.size = 0
        self.sealed_sha256 = ""

    def write(self, frame: bytes) -> None:
        """Write a frame at the end; it counts only after `advance`.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        try:
            if self._fd < 0:
                self._fd = self._blobs.parts.create(self._call_id)
            done = os.pwrite(self._fd, frame, self.size)
            while done < len(frame):
                done += os.pwrite(self._fd, memoryview(frame)[done:], self.size + done)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise record_full("the output", error) from error
            if shortage("the output", error) is not None:
                raise unavailable("the output", error) from error
            raise self._fail("pwrite", error) from error

    def advance(self, frame: bytes) -> None:
        """Take the frame that was written last into the recording."""
        self._hasher.update(frame)
        self.size += len(frame)

    @property
    def begun(self) -> bool:
        """Say whether there is a file."""
        return self._fd >= 0

    def seal(self) -> Sealed | None:
        """Make the recording durable where it is; None where nothing was recorded.

        A recording that was deleted meanwhile is written again. Where there is no room for that,
        it is lost alone: the outcome names it, and verification tells.

        Raises:
            AuditUnavailable: `JOURNAL_UNAVAILABLE`.
        """
        if self._fd < 0:
            return None
        fd, self._fd = self._fd, -1
        self.sealed_sha256 = self._hasher.hexdigest()
        try:
            if self.size == 0 or os.fstat(fd).st_nlink or self._write_again(fd):
                seal_part(self._blobs.parts, self._call_id, fd, self.size)
        except OSError as error:
            if shortage("the recording", error) is None:
                raise self._fail("fdatasync", error) from error
            log.warning("call %s: its recording may not be durable: %s", self._call_id, error)
        finally:
            os.close(fd)
        return Sealed(sha256=self.sealed_sha256, size_bytes=self.size) if self.size else None

    def close(self) -> None:
        """Let go of the file as it is; the next daemon closes the call as interrupted."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write_again(self, fd: int) -> bool:
        """Copy what was deleted, and let `fd` be the copy; False where it is lost."""
        try:
            copy = self._blobs.parts.create(self._call_id)
            try:
                for offset in range(0, self.size, FRAME_BYTES_MAX):
                    length = min(FRAME_BYTES_MAX, self.size - offset)
                    write_all(copy, read_exactly(fd, length, offset))
                os.dup2(copy, fd, inheritable=False)
            finally:
                os.close(copy)
        except OSError as error:
            if error.errno not in NO_SPACE and shortage("the recording", error) is None:
                raise
            log.error("call %s: its recording was deleted and is lost: %s", self._call_id, error)
            return False
        log.warning("call %s: its recording was deleted; it was written again", self._call_id)
        return True


def seal_part(parts: PartFolder, name: str, fd: int, size: int) -> None:
    """Cut an unfinished recording to `size` and make it durable.

    It stays under `part/` until the outcome that names its digest is durable: whatever happens
    between the two, the call's id finds it.

    Raises:
        OSError: as the kernel says.
    """
    if size == 0:
        (parts.path / name).unlink(missing_ok=True)
        return
    os.ftruncate(fd, size)
    os.fdatasync(fd)
    parts.sync()


class RecordingReader:
    """Reads frames of a recording, and checks each."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decompressor = zstandard.ZstdDecompressor()

    def read(self, ref: FrameRef) -> bytes:
        """Give the bytes of one frame.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`.
        """
        frame = read_exactly(self._fd, ref.frame_length, ref.frame_offset)
        if hashlib.sha256(frame).hexdigest() != ref.frame_sha256:
            raise damaged(f"the frame at offset {ref.frame_offset} of the recording is damaged")
        if ref.length > FRAME_BYTES_MAX:
            raise damaged(f"the frame at offset {ref.frame_offset} claims {ref.length} bytes")
        try:
            data = self._decompressor.decompress(frame, max_output_size=FRAME_BYTES_MAX)
        except zstandard.ZstdError as error:
            raise damaged(f"the frame at offset {ref.frame_offset}: {error}") from error
        if len(data) != ref.length:
            raise damaged(f"the frame at offset {ref.frame_offset} has {len(data)} bytes")
        return data

    def digest(self) -> Digest:
        """Give the digest of the whole file."""
        hasher, size = hashlib.sha256(), 0
        while data := os.pread(self._fd, FRAME_BYTES_MAX, size):
            hasher.update(data)
            size += len(data)
        return Digest(sha256=hasher.hexdigest(), size_bytes=size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def open_recording(blobs: BlobStore, call_id: str, sha256: str = "") -> RecordingReader | None:
    """Open the recording of a call, wherever it lies; None where there is none.

    Raises:
        CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
    """
    paths = [blobs.part_directory / call_id]
    if sha256:
        paths.insert(0, blobs.recording_path(sha256))
    for path in paths:
        try:
            return RecordingReader(open_to_read(path))
        except FileNotFoundError:
            continue
    return None


def _int(value: Json) -> int:
    if not isinstance(value, int):
        raise TypeError(f"not a number: {value!r}")
    return value
