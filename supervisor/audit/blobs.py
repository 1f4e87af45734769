"""Blobs: contents under their own SHA-256, compressed, checked when they are read.

    blobs/sha256/ab/abcd….zst   a blob: zstd frames; the digest is that of the content
    blobs/sha256/ab/abcd….seal  one of an encrypted call: the digest is that of the file itself
    blobs/sha256/ab/abcd…       a sealed recording: the digest is that of the file itself
    blobs/part/                 what is not finished

A blob ends with a skippable zstd frame that holds the CRC-32C of all before it: not every bit of a
zstd frame changes what comes out of it, and verification is to find any that was flipped.

A blob comes into its place complete and durable: written under `part/`, fdatasync, rename, fsync
of the folder. All 256 folders are made at the start, so that nothing needs a new folder when the
disk is full.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import google_crc32c
import zstandard

from supervisor.audit.compression import compress, stored_bytes_max
from supervisor.audit.originals import Original, Originals
from supervisor.audit.parts import PartFolder
from supervisor.audit.shortage import SHORTAGES, open_to_read, shortage
from supervisor.audit.space import NO_SPACE, sync_directory
from supervisor.call.types import Digest
from supervisor.errors import (
    AuditCorrupt,
    AuditUnavailable,
    InvalidRequest,
    NotFound,
    StockadeError,
)

CHUNK_BYTES = 1 << 20
HASHES_NAME = "sha256"
BLOB_SUFFIX = ".zst"
SEALED_SUFFIX = ".seal"
WHOLE_BYTES_MAX = 64 << 20
"""Of a blob that is read at once: requests and lists of files are smaller."""

_TRAILER = struct.Struct("<III")
_TRAILER_MAGIC = 0x184D2A50
"""A skippable frame (RFC 8878, section 3.1.2); its four bytes are the checksum."""

Fail = Callable[[str, OSError], StockadeError]
"""Latches a failure of the disk and gives the error to raise."""


class Form(Protocol):
    """How the file of a blob is written."""

    suffix: str

    def begin(self) -> bytes:
        """Give what the file begins with."""
        ...

    def chunk(self, data: memoryview) -> bytes:
        """Give what stands for at most a mebibyte of the content."""
        ...

    def end(self, content: Digest) -> bytes:
        """Give what the file ends with."""
        ...

    def name(self, content: Digest) -> str:
        """Give the digest that the file is named by, once it is written to its end."""
        ...


class PlainForm:
    """Zstd frames and their checksum, under the digest of the content."""

    suffix = BLOB_SUFFIX

    def __init__(self) -> None:
        self._checksum = 0

    def begin(self) -> bytes:
        """Begin with nothing."""
        return b""

    def chunk(self, data: memoryview) -> bytes:
        """Give a zstd frame."""
        frame = compress(data)
        self._checksum = google_crc32c.extend(self._checksum, frame)
        return frame

    def end(self, content: Digest) -> bytes:
        """Give the checksum."""
        return _TRAILER.pack(_TRAILER_MAGIC, 4, self._checksum)

    def name(self, content: Digest) -> str:
        """Give the digest of the content."""
        return content.sha256


class BlobStore:
    """The content-addressed files of one state directory."""

    def __init__(self, directory: Path, fail: Fail) -> None:
        self._directory = directory
        self._fail = fail
        self.naming = threading.Lock()
        """Held while a file comes into its place, and while one that nobody needs goes."""
        self.parts = PartFolder(directory)
        self.originals = Originals()

    @classmethod
    def at(cls, directory: Path, fail: Fail) -> BlobStore:
        """Give the store in `directory`, and make its folders where they are missing."""
        store = cls(directory, fail)
        hashes = directory / HASHES_NAME
        for folder in (directory, hashes):
            folder.mkdir(mode=0o700, exist_ok=True)  # parents=True would ignore the mode
        store.parts.hold()
        if not (hashes / "ff").is_dir():
            for number in range(256):
                (hashes / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
            sync_directory(hashes)
            sync_directory(directory)
        return store

    @property
    def part_directory(self) -> Path:
        """Give the folder of what is not finished."""
        return self.parts.path

    def close(self) -> None:
        """Let go of the folders; nothing is written afterwards."""
        self.parts.close()

    def recording_path(self, sha256: str) -> Path:
        """Give where a sealed recording lies."""
        return self._directory / HASHES_NAME / sha256[:2] / sha256

    def blob_path(self, sha256: str) -> Path:
        """Give where a blob lies."""
        return self._directory / HASHES_NAME / sha256[:2] / (sha256 + BLOB_SUFFIX)

    def sealed_path(self, sha256: str) -> Path:
        """Give where a blob of an encrypted call lies."""
        return self._directory / HASHES_NAME / sha256[:2] / (sha256 + SEALED_SUFFIX)

    def is_sealed(self, digest: Digest) -> bool:
        """Say whether there is a blob of an encrypted call with this digest of its file."""
        return _is_sha256(digest.sha256) and self.sealed_path(digest.sha256).is_file()

    def has(self, digest: Digest) -> bool:
        """Say whether there is a blob with this hash; its size is not looked at.

        Whoever asks is about to name it, so that it counts as in use for a while (`discard`).
        """
        return _is_sha256(digest.sha256) and self._touch(self.blob_path(digest.sha256))

    def has_sealed(self, digest: Digest) -> bool:
        """Say the same of a blob of an encrypted call, by the digest of its file."""
        return _is_sha256(digest.sha256) and self._touch(self.sealed_path(digest.sha256))

    def holds(self, digest: Digest) -> bool:
        """Say whether `open` gives the content: it is here, or something else with what it takes to
        restore it."""
        if self.has(digest):
            return True
        original = self.originals.get(digest)
        return original is not None and original.stored is not None and self.has(original.stored)

    def put(self, data: bytes) -> Digest:
        """Keep `data` and make it durable.

        Raises:
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        digest = Digest.of(data)
        if not self.has(digest):
            with self.writer(digest) as writer:
                for begin in range(0, len(data), CHUNK_BYTES):
                    writer.write(data[begin : begin + CHUNK_BYTES])
                writer.commit()
        return digest

    def writer(self, expected: Digest | None = None, form: Form | None = None) -> BlobWriter:
        """Begin a blob whose content comes in pieces.

        `expected`, where given, is what `commit` checks the content against; `form`, how the file
        is written, where not plainly.

        Raises:
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        return BlobWriter(self, self._fail, expected, form or PlainForm())

    def open(self, digest: Digest) -> BlobReader:
        """Open a blob for reading; one of which something else is stored is given as it was.

        Raises:
            NotFound: `BLOB_NOT_FOUND`.
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
        """
        try:
            return BlobReader(self._open(digest), digest.sha256)
        except NotFound:
            original = self.originals.get(digest)
            if original is None or original.stored is None:
                raise
            return RestoredReader(self._open(original.stored), original)

    def get(self, digest: Digest) -> bytes:
        """Give a whole blob that is known to be small.

        Raises:
            NotFound: `BLOB_NOT_FOUND`.
            AuditCorrupt: `DIGEST_MISMATCH`.
        """
        parts, size = [], 0
        with self.open(digest) as reader:
            for chunk in reader.chunks():
                size += len(chunk)
                if size > WHOLE_BYTES_MAX:
                    raise damaged(f"blob {digest.sha256} is larger than such a blob can be")
                parts.append(chunk)
        return b"".join(parts)

    def check_file(self, digest: Digest) -> None:
        """Check that the file of a blob has the bytes that were written; `open` checks content.

        Raises:
            NotFound: `BLOB_NOT_FOUND`.
            AuditCorrupt: `DIGEST_MISMATCH`.
        """
        with os.fdopen(self._open(digest), "rb") as file:
            left = os.fstat(file.fileno()).st_size - _TRAILER.size
            if left > stored_bytes_max(digest.size_bytes):
                raise damaged(f"the file of blob {digest.sha256} is longer than its content")
            checksum = 0
            while left > 0 and (data := file.read(min(CHUNK_BYTES, left))):
                checksum = google_crc32c.extend(checksum, data)
                left -= len(data)
            if file.read() != _TRAILER.pack(_TRAILER_MAGIC, 4, checksum):
                raise damaged(f"the file of blob {digest.sha256} is damaged")

    def place_recording(self, call_id: str, sha256: str) -> bool:
        """Move a sealed recording to its digest; False where it has to stay for now.

        The name need not be durable: after a crash the file is found in either place.
        """
        source, target = self.part_directory / call_id, self.recording_path(sha256)
        try:
            if not target.parent.is_dir():
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.naming:
                os.utime(source)
                source.rename(target)
        except FileNotFoundError:
            return True  # somebody deleted it, which verification tells
        except OSError as error:
            if error.errno not in NO_SPACE | SHORTAGES:
                raise self._fail("rename", error) from error
            return False
        return True

    def touched_ns(self, name: str) -> int:
        """Give when a file was last asked for, by its path in the folder; 0 where there is none."""
        try:
            return (self._directory / name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def size_of(self, name: str) -> int:
        """Give how many bytes a file has, by its path in the folder; 0 where there is none."""
        try:
            return (self._directory / name).stat().st_size
        except FileNotFoundError:
            return 0

    def discard(self, name: str, is_unused: Callable[[int], bool]) -> bool:
        """Remove a file by its path in the folder, unless it is in use by the time that it was last
        asked for; say whether it is gone. `sync_names` makes that durable.

        Raises:
            AuditUnavailable: `JOURNAL_UNAVAILABLE`.
        """
        with self.naming:
            touched_ns = self.touched_ns(name)
            if touched_ns and not is_unused(touched_ns):
                return False
            try:
                (self._directory / name).unlink(missing_ok=True)
            except OSError as error:
                raise self._fail("unlink", error) from error
        return True

    def sync_names(self, folder: str) -> None:
        """Make durable which names a folder has, where it is there.

        Raises:
            AuditUnavailable: `JOURNAL_UNAVAILABLE`.
        """
        try:
            sync_directory(self._directory / folder)
        except FileNotFoundError:
            return  # then none of them is
        except OSError as error:
            raise self._fail("fsync", error) from error

    def _touch(self, path: Path) -> bool:
        """Say of a file, where it is there, that it is in use from now on."""
        with self.naming:
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
        return True

    def sweep(self) -> None:
        """Remove unfinished blobs of a former daemon; recordings stay."""
        for path in self.part_directory.glob("blob.*"):
            path.unlink()

    def open_folder(self, sha256: str) -> int:
        """Open the folder of a blob, made again where it is gone, to sync it later.

        Raises:
            OSError: as the kernel says.
        """
        folder = self.blob_path(sha256).parent
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return os.open(folder, flags)
        except FileNotFoundError:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(folder.parent)
            return os.open(folder, flags)

    def _open(self, digest: Digest) -> int:
        if not _is_sha256(digest.sha256):
            raise missing(digest)
        try:
            return open_to_read(self.blob_path(digest.sha256))
        except FileNotFoundError as error:
            raise missing(digest) from error


class BlobWriter:
    """A blob that is being written. Leaving the block without `commit` leaves nothing behind."""

    def __init__(self, store: BlobStore, fail: Fail, expected: Digest | None, form: Form) -> None:
        self._store = store
        self._fail = fail
        self._expected = expected
        self._form = form
        self._hasher = hashlib.sha256()
        self._size = 0
        self.content = self.stored = Digest(sha256="", size_bytes=0)
        """Of the content; and what the blob is found by, with the size of the content. Both once
        it is committed."""

        name = f"blob.{secrets.token_hex(16)}"
        self._path = store.part_directory / name
        try:
            self._fd = store.parts.create(name)
        except OSError as error:
            raise self._error("open", error) from error
        try:
            self._put(form.begin())
        except StockadeError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def size_bytes(self) -> int:
        """Give how much was written so far."""
        return self._size

    def write(self, data: bytes) -> None:
        """Add a piece.

        Raises:
            InvalidRequest: `DIGEST_MISMATCH`, as soon as there is more than was announced.
            CapacityError: `MEMORY_EXHAUSTED`.
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        self._hasher.update(data)
        self._size += len(data)
        if self._expected is not None and self._size > self._expected.size_bytes:
            raise mismatch(self._expected, Digest(sha256="", size_bytes=self._size))
        view = memoryview(data)
        for begin in range(0, len(data), CHUNK_BYTES):
            self._put(self._form.chunk(view[begin : begin + CHUNK_BYTES]))

    def commit(self) -> Digest:
        """Make the blob durable under its name, and give the digest of its content.

        Raises:
            InvalidRequest: `DIGEST_MISMATCH`.
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        digest = Digest(sha256=self._hasher.hexdigest(), size_bytes=self._size)
        if self._expected is not None and digest != self._expected:
            raise mismatch(self._expected, digest)
        self._put(self._form.end(digest))
        name = self._form.name(digest)
        try:
            # Opened first: once it has its name, nothing may fail for want of a descriptor.
            folder = self._store.open_folder(name)
        except OSError as error:
            raise self._error("open", error) from error
        try:
            os.fdatasync(self._fd)
            with self._store.naming:
                self._path.rename(self._store.blob_path(name).with_suffix(self._form.suffix))
            os.fsync(folder)
        except OSError as error:
            raise self._error("fdatasync", error) from error
        finally:
            os.close(folder)
        os.close(self._fd)
        self._fd = -1
        self.content, self.stored = digest, Digest(sha256=name, size_bytes=self._size)
        return digest

    def close(self) -> None:
        """Remove what was written; does nothing after `commit`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink(missing_ok=True)

    def _put(self, data: bytes) -> None:
        try:
            write_all(self._fd, data)
        except OSError as error:
            raise self._error("write", error) from error

    def _error(self, what: str, error: OSError) -> StockadeError:
        if error.errno in NO_SPACE:
            return record_full("a blob", error)
        return shortage("a blob", error) or self._fail(what, error)


class BlobReader:
    """A blob that is being read; the end of it raises where the content is not what it should
    be."""

    def __init__(self, fd: int, sha256: str) -> None:
        self._sha256 = sha256
        self._file = os.fdopen(fd, "rb")
        self._stream = zstandard.ZstdDecompressor().stream_reader(
            self._file, read_across_frames=True
        )
        self._hasher = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Give up to `size` bytes; b"" at the end.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`, at the end or where it cannot be decompressed.
        """
        try:
            data = self._stream.read(size)
        except zstandard.ZstdError as error:
            raise damaged(f"blob {self._sha256} cannot be decompressed: {error}") from error
        self._hasher.update(data)
        if not data and self._hasher.hexdigest() != self._sha256:
            raise damaged(f"blob {self._sha256} has another content")
        return data

    def chunks(self) -> Iterator[bytes]:
        """Give the content in pieces of at most a mebibyte."""
        while data := self.read():
            yield data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RestoredReader(BlobReader):
    """A redacted file that is being read as it was."""

    def __init__(self, fd: int, original: Original) -> None:
        super().__init__(fd, original.stored.sha256 if original.stored is not None else "")
        self._original = original

    def chunks(self) -> Iterator[bytes]:
        """Give the content in pieces of at most a mebibyte.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`.
        """
        hasher = hashlib.sha256()
        for data in self._original.restored(super().chunks()):
            hasher.update(data)
            for begin in range(0, len(data), CHUNK_BYTES):
                yield data[begin : begin + CHUNK_BYTES]
        if hasher.hexdigest() != self._original.digest.sha256:
            raise damaged(f"blob {self._original.digest.sha256} cannot be restored")


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` at the file's position.

    Raises:
        OSError: as the kernel says.
    """
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def damaged(message: str) -> AuditCorrupt:
    """Make the error for contents that are not what their digest says."""
    return AuditCorrupt("DIGEST_MISMATCH", message, hint="run `stockade audit verify`")


def record_full(what: str, error: OSError) -> AuditUnavailable:
    """Make the error for contents that no longer fit on the disk."""
    return AuditUnavailable(
        "RECORD_FULL",
        f"there is no room for {what} on record: {error.strerror}",
        hint="make room on the filesystem of the state directory",
        retry_after_s=5.0,
    )


def missing(digest: Digest) -> NotFound:
    """Make the error for a blob that is not there."""
    # No digest in a message: it goes into the daemon's log, and the content may be encrypted.
    return NotFound(
        "BLOB_NOT_FOUND",
        f"there is no blob with this digest, of {digest.size_bytes} bytes",
        metadata={"sha256": digest.sha256},
    )


def mismatch(expected: Digest, found: Digest) -> InvalidRequest:
    """Make the error for contents that are not what was announced."""
    return InvalidRequest(
        "DIGEST_MISMATCH",
        f"announced {expected.size_bytes} bytes, got {found.size_bytes} bytes"
        + (" with another SHA-256" if found.sha256 else ""),
        metadata={"announced": expected.sha256, "got": found.sha256},
    )


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)
