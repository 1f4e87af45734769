"""A call's recording: its input and output as independent zstd frames in one file.

Each frame holds at most a mebibyte of one stream and is named by one `output` entry of the log,
which knows where the frame lies and the SHA-256 of its bytes; so any part can be read, and
checked, alone, also while the call still writes. While the call lives, the file lies under
`blobs/part/`; after its outcome, under the SHA-256 of itself.

Frames of an encrypted call are sealed with its key, each for its call, its stream and its place in
the stream; the SHA-256 is that of the sealed bytes, so that it can be checked without the key.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import zstandard

from supervisor.audit.blobs import (
    BlobStore,
    Fail,
    damaged,
    record_full,
    write_all,
)
from supervisor.audit.compression import compress, decompress
from supervisor.audit.parts import PartFolder
from supervisor.audit.redaction.found import Found, found_from_json, found_to_json
from supervisor.audit.sealing import ContentKey
from supervisor.audit.segment import read_exactly, write_exactly
from supervisor.audit.shortage import open_to_read, shortage, unavailable
from supervisor.audit.space import NO_SPACE
from supervisor.call.about import of_call
from supervisor.call.types import Digest, Json, Stream
from supervisor.errors import InvariantError

log = logging.getLogger(__name__)

FRAME_BYTES_MAX = 1 << 20
"""Of a stream, before compression."""

STORED_BYTES_MAX = FRAME_BYTES_MAX + (64 << 10)
"""Of a frame in the file: what does not shrink grows a little, and is sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redacted:
    """What a frame of a redacted stream holds: `size` bytes that stand for [begin, end) of the
    stream, with `found` replaced. It may hold nothing: what came is held back first."""

    begin: int
    end: int
    size: int
    found: tuple[Found, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Give it as it stands in the entry."""
        found = found_to_json(self.found)
        return {"begin": self.begin, "end": self.end, "size": self.size, "found": found}

    @classmethod
    def from_json(cls, body: Mapping[str, Json]) -> Redacted:
        """Read it from an entry."""
        return cls(
            begin=_int(body["begin"]),
            end=_int(body["end"]),
            size=_int(body["size"]),
            found=found_from_json(body["found"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRef:
    """What an `output` entry says: which bytes of which stream came, and what lies where in the
    recording: the same bytes, or with `redacted`, others."""

    stream: Stream
    offset: int
    length: int
    frame_offset: int
    frame_length: int
    frame_sha256: str
    redacted: Redacted | None = None
    sealed: bool = False

    @property
    def begin(self) -> int:
        """Give where in the stream that begins which the frame stands for."""
        return self.offset if self.redacted is None else self.redacted.begin

    @property
    def end(self) -> int:
        """Give where in the stream that ends which the frame stands for."""
        return self.offset + self.length if self.redacted is None else self.redacted.end

    @property
    def size(self) -> int:
        """Give how many bytes the frame holds, before compression."""
        return self.length if self.redacted is None else self.redacted.size

    @property
    def is_empty(self) -> bool:
        """Say whether there is no frame: all that came was held back, and a later one has it."""
        return self.redacted is not None and not self.frame_length

    def to_json(self) -> dict[str, Json]:
        """Give the body of the entry."""
        body = self._frame()
        return body if self.redacted is None else {**body, "redacted": self.redacted.to_json()}

    def _frame(self) -> dict[str, Json]:
        body: dict[str, Json] = {
            "stream": self.stream.value,
            "offset": self.offset,
            "length": self.length,
            "frame_offset": self.frame_offset,
            "frame_length": self.frame_length,
            "frame_sha256": self.frame_sha256,
        }
        return {**body, "sealed": True} if self.sealed else body

    @classmethod
    def from_json(cls, body: Mapping[str, Json]) -> FrameRef:
        """Read the body of an entry."""
        redacted = body.get("redacted")
        return cls(
            stream=Stream(str(body["stream"])),
            offset=_int(body["offset"]),
            length=_int(body["length"]),
            frame_offset=_int(body["frame_offset"]),
            frame_length=_int(body["frame_length"]),
            frame_sha256=str(body["frame_sha256"]),
            redacted=Redacted.from_json(redacted) if isinstance(redacted, dict) else None,
            sealed=body.get("sealed") is True,
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

    def __init__(
        self, blobs: BlobStore, call_id: str, fail: Fail, key: ContentKey | None = None
    ) -> None:
        self._blobs = blobs
        self._call_id = call_id
        self._fail = fail
        self._key = key
        self._fd = -1
        self._hasher = hashlib.sha256()
        self.size = 0
        self.sealed_sha256 = ""

    @property
    def sealed(self) -> bool:
        """Say whether the frames are sealed."""
        return self._key is not None

    def frame_of(self, stream: Stream, begin: int, end: int, data: bytes) -> bytes:
        """Give the frame that stands for [begin, end) of a stream, as it goes to the disk."""
        frame = compress(data)
        return frame if self._key is None else self._key.seal(_place(stream, begin, end), frame)

    def write(self, frame: bytes) -> None:
        """Write a frame at the end; it counts only after `advance`.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        try:
            if self._fd < 0:
                self._fd = self._blobs.parts.create(self._call_id)
            write_exactly(self._fd, frame, self.size)
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
            log.warning(
                "call %s: its recording may not be durable: %s",
                self._call_id, error, extra=of_call(self._call_id),
            )  # fmt: skip
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
            log.error(
                "call %s: its recording was deleted and is lost: %s",
                self._call_id, error, extra=of_call(self._call_id),
            )  # fmt: skip
            return False
        log.warning(
            "call %s: its recording was deleted; it was written again",
            self._call_id, extra=of_call(self._call_id),
        )  # fmt: skip
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
    """Reads frames of a recording, and checks each; `key` is asked for where they are sealed."""

    def __init__(self, fd: int, key: Callable[[], ContentKey] | None = None) -> None:
        self._fd = fd
        self._find_key = key
        self._key: ContentKey | None = None
        self._decompressor = zstandard.ZstdDecompressor()

    def check(self, ref: FrameRef) -> bytes:
        """Give one frame as it lies there.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`.
        """
        if ref.is_empty:
            return b""
        if ref.frame_length > STORED_BYTES_MAX:
            raise damaged(f"the frame at offset {ref.frame_offset} claims {ref.frame_length} bytes")
        frame = read_exactly(self._fd, ref.frame_length, ref.frame_offset)
        if hashlib.sha256(frame).hexdigest() != ref.frame_sha256:
            raise damaged(f"the frame at offset {ref.frame_offset} of the recording is damaged")
        if ref.size > FRAME_BYTES_MAX:
            raise damaged(f"the frame at offset {ref.frame_offset} claims {ref.size} bytes")
        return frame

    def read(self, ref: FrameRef) -> bytes:
        """Give the bytes of one frame.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`.
            StockadeError: a sealed one's key is not to be had.
        """
        frame = self.check(ref)
        if ref.is_empty:
            return b""
        if ref.sealed:
            frame = self._opened().open(_place(ref.stream, ref.begin, ref.end), frame)
        try:
            data = decompress(self._decompressor, frame, FRAME_BYTES_MAX)
        except zstandard.ZstdError as error:
            raise damaged(f"the frame at offset {ref.frame_offset}: {error}") from error
        if len(data) != ref.size:
            raise damaged(f"the frame at offset {ref.frame_offset} has {len(data)} bytes")
        return data

    def _opened(self) -> ContentKey:
        if self._key is None:
            if self._find_key is None:
                raise InvariantError("NO_KEY", "a sealed frame is read without a key")
            self._key = self._find_key()
        return self._key

    def is_whole(self, digest: Digest) -> bool:
        """Say whether the file has this digest; one of another length is not read."""
        return os.fstat(self._fd).st_size == digest.size_bytes and self.digest() == digest

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


def open_recording(
    blobs: BlobStore, call_id: str, sha256: str = "", key: Callable[[], ContentKey] | None = None
) -> RecordingReader | None:
    """Open the recording of a call, wherever it lies; None where there is none. `key` gives the
    call's, where it is encrypted and read.

    Raises:
        CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
    """
    paths = [blobs.part_directory / call_id]
    if sha256:
        paths.insert(0, blobs.recording_path(sha256))
    for path in paths:
        try:
            return RecordingReader(open_to_read(path), key)
        except FileNotFoundError:
            continue
    return None


def _place(stream: Stream, begin: int, end: int) -> list[str | int]:
    return ["recording", stream.value, begin, end]


def _int(value: Json) -> int:
    if not isinstance(value, int):
        raise TypeError(f"not a number: {value!r}")
    if not 0 <= value < 1 << 63:
        raise ValueError(f"no place or length in a file: {value}")
    return value
