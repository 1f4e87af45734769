"""The files of blobs of encrypted calls: what is in them only opens with the key of the call.

    "STKSEAL1", length of the key's name, that name, 16 random bytes
    u32 length, a sealed zstd frame: at most a mebibyte of the content; as often as needed
    u32 of ones, u64 size of the content, u32 how many frames, the content's SHA-256, sealed

The 16 bytes make every file another one, so that equal contents have nothing in common. Each part
is bound to its file and its place in it, the last one says that it is the last and how long the
content is: nothing can be cut off, moved or repeated. The file is named by its own SHA-256, which
is what the log says, so that whoever has no key can still tell that it is whole.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO, Self

import zstandard

from supervisor.audit.blobs import (
    CHUNK_BYTES,
    SEALED_SUFFIX,
    BlobStore,
    damaged,
    missing,
)
from supervisor.audit.compression import compress, decompress, stored_bytes_max
from supervisor.audit.entry import CALL_ID
from supervisor.audit.sealing import SEAL_BYTES, ContentKey
from supervisor.audit.shortage import open_to_read
from supervisor.call.types import Digest
from supervisor.errors import AuditCorrupt

MAGIC = b"STKSEAL1"
FILE_ID_BYTES = 16
PART_BYTES_MAX = CHUNK_BYTES + (64 << 10) + SEAL_BYTES
"""A frame of a mebibyte that does not compress is a little longer than that."""

_LENGTH = struct.Struct(">I")
_COUNTS = struct.Struct(">QI")
_END = 0xFFFFFFFF
_END_BYTES = _LENGTH.size + _COUNTS.size + SEAL_BYTES + hashlib.sha256().digest_size

Place = list[str | int]
Keys = Callable[[str], ContentKey]


class SealedForm:
    """Writes such a file."""

    suffix = SEALED_SUFFIX

    def __init__(self, key: ContentKey) -> None:
        self._key = key
        self._file_id = secrets.token_bytes(FILE_ID_BYTES)
        self._file = hashlib.sha256()
        self._parts = 0

    def begin(self) -> bytes:
        """Give what tells whose key it is."""
        name = self._key.key_id.encode()
        return self._written(MAGIC + bytes([len(name)]) + name + self._file_id)

    def chunk(self, data: memoryview) -> bytes:
        """Give a sealed zstd frame."""
        sealed = self._key.seal(_part(self._file_id, self._parts), compress(data))
        self._parts += 1
        return self._written(_LENGTH.pack(len(sealed)) + sealed)

    def end(self, content: Digest) -> bytes:
        """Give the sealed digest of the content."""
        place = _end(self._file_id, self._parts, content.size_bytes)
        sealed = self._key.seal(place, bytes.fromhex(content.sha256))
        counts = _COUNTS.pack(content.size_bytes, self._parts)
        return self._written(_LENGTH.pack(_END) + counts + sealed)

    def name(self, content: Digest) -> str:
        """Give the digest of the file."""
        return self._file.hexdigest()

    def _written(self, data: bytes) -> bytes:
        self._file.update(data)
        return data


class SealedReader:
    """Such a file that is being read, from its beginning; a part that is not what was written
    raises."""

    def __init__(self, file: BinaryIO, keys: Keys) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor()
        self._size = self._parts = 0
        self._left = b""
        self._ended = False
        self.key_id, self._file_id = _read_head(file)
        self._key = keys(self.key_id)

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
            AuditCorrupt: `DIGEST_MISMATCH`.
        """
        while not self._left and not self._ended:
            self._left = self._next()
        data, self._left = self._left[:size], self._left[size:]
        return data

    def chunks(self) -> Iterator[bytes]:
        """Give the content in pieces of at most a mebibyte."""
        while data := self.read():
            yield data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _next(self) -> bytes:
        (length,) = _LENGTH.unpack(_exactly(self._file, _LENGTH.size))
        if length == _END:
            self._take_end()
            return b""
        if length > PART_BYTES_MAX:
            raise damaged("a sealed blob claims a part that is too long")
        sealed = _exactly(self._file, length)
        frame = self._key.open(_part(self._file_id, self._parts), sealed)
        self._parts += 1
        try:
            data = decompress(self._decompressor, frame, CHUNK_BYTES)
        except zstandard.ZstdError as error:
            raise damaged(f"a sealed blob cannot be decompressed: {error}") from error
        self._size += len(data)
        return data

    def _take_end(self) -> None:
        counts = _COUNTS.unpack(_exactly(self._file, _COUNTS.size))
        if counts != (self._size, self._parts):
            raise damaged(f"a sealed blob has {self._size} bytes, and says {counts[0]}")
        self._key.open(_end(self._file_id, self._parts, self._size), self._file.read(_END_BYTES))
        self._ended = True


def open_sealed(blobs: BlobStore, digest: Digest, keys: Keys) -> SealedReader:
    """Open a sealed blob by the digest of its file; `keys` gives the key of that name.

    Raises:
        NotFound: `BLOB_NOT_FOUND`; CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
        StockadeError: as `keys` says, where it does not give the key.
    """
    file = _open(blobs, digest)
    try:
        return SealedReader(file, keys)
    except BaseException:
        file.close()
        raise


def check_sealed(blobs: BlobStore, digest: Digest) -> int:
    """Check that a sealed blob is the file that it was, which needs no key; give the size of its
    content, as it says.

    Raises:
        NotFound: `BLOB_NOT_FOUND`.
        AuditCorrupt: `DIGEST_MISMATCH`.
    """
    hasher, tail = hashlib.sha256(), b""
    with _open(blobs, digest) as file:
        _read_head(file)
        if os.fstat(file.fileno()).st_size > stored_bytes_max(digest.size_bytes):
            raise damaged(f"the file of blob {digest.sha256} is longer than its content")
        file.seek(0)
        while data := file.read(CHUNK_BYTES):
            hasher.update(data)
            tail = (tail + data)[-_END_BYTES:]
    if hasher.hexdigest() != digest.sha256 or len(tail) < _END_BYTES:
        raise damaged(f"the file of blob {digest.sha256} is damaged")
    return int(_COUNTS.unpack_from(tail, _LENGTH.size)[0])


def content_digest(blobs: BlobStore, stored: Digest, keys: Keys) -> Digest:
    """Give the digest of the content of a sealed blob, which its key alone tells.

    Raises:
        StockadeError: as `open_sealed`; AuditCorrupt: `DIGEST_MISMATCH`.
    """
    with _open(blobs, stored) as file:
        key_id, file_id = _read_head(file)
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END_BYTES))
        end = _exactly(file, _END_BYTES)
    size, parts = _COUNTS.unpack_from(end, _LENGTH.size)
    sha256 = keys(key_id).open(_end(file_id, parts, size), end[_LENGTH.size + _COUNTS.size :])
    return Digest(sha256=sha256.hex(), size_bytes=size)


def key_of(blobs: BlobStore, digest: Digest) -> str:
    """Give the name of the key that opens a sealed blob.

    Raises:
        NotFound: `BLOB_NOT_FOUND`; AuditCorrupt: `DIGEST_MISMATCH`.
    """
    with _open(blobs, digest) as file:
        return _read_head(file)[0]


def _open(blobs: BlobStore, digest: Digest) -> BinaryIO:
    if not blobs.is_sealed(digest):
        raise missing(digest)
    return os.fdopen(open_to_read(blobs.sealed_path(digest.sha256)), "rb")


def _read_head(file: BinaryIO) -> tuple[str, bytes]:
    if _exactly(file, len(MAGIC)) != MAGIC:
        raise damaged("a sealed blob does not begin as one")
    name = _exactly(file, _exactly(file, 1)[0]).decode("latin-1")
    if not CALL_ID.fullmatch(name):
        raise damaged("a sealed blob names no key")
    return name, _exactly(file, FILE_ID_BYTES)


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise _short()
    return data


def _short() -> AuditCorrupt:
    return damaged("a sealed blob ends too soon")


def _part(file_id: bytes, number: int) -> Place:
    return ["blob", file_id.hex(), number]


def _end(file_id: bytes, parts: int, size: int) -> Place:
    return ["blob end", file_id.hex(), parts, size]
