"""Content in and out: uploads that are only kept if their digest holds, downloads that were
granted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator

from supervisor.api import translate
from supervisor.api.paging import in_thread, to_end
from supervisor.audit.files import told_of
from supervisor.audit.store import Store
from supervisor.call.types import BLOB_CHUNK_BYTES_MAX, Digest, Json
from supervisor.errors import (
    CapacityError,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    OutOfRange,
)
from supervisor.v1 import tool_pb2

UPLOADS_MAX = 64
"""Uploads that are open at a time: each has a descriptor, and a file that is not finished."""

UPLOADS_PER_CALLER = 16
UPLOAD_IDLE_S = 30.0
"""An upload ends where the next message takes longer."""

UPLOADS_RETRY_S = 1.0


class BlobDoor:
    """The store's blobs as one caller sees them: its uploads, what its calls were given, and what
    they left behind.

    A blob of somebody else is not there, so that nobody learns from a digest what others have.
    """

    def __init__(self, store: Store, *, blob_bytes_max: int) -> None:
        self._store = store
        self._locker = store.locker
        self._blob_bytes_max = blob_bytes_max
        self._uploads: Counter[str] = Counter()

    def require(self, caller: str, digests: Iterable[Digest]) -> None:
        """Refuse digests that `caller` does not have, also for their size alone.

        Raises:
            NotFound: `BLOB_NOT_FOUND`.
        """
        for digest in digests:
            if not self._store.may_read_blob(digest, caller):
                raise _missing(digest)
            if not self._locker.has(caller, digest):
                removal = self._store.contents.blob_removal(digest)
                raise _missing(digest, f"; it was {removal.told()}") if removal else _lost(digest)

    def stored(self, caller: str, digest: Digest) -> Digest:
        """Give what the record calls content that `caller` has: the digest of its file, where it
        is encrypted.

        Raises:
            NotFound: `BLOB_NOT_FOUND`.
        """
        self.require(caller, [digest])
        stored = self._store.records.blob_named(digest, caller)
        if stored is None:  # its key went meanwhile
            raise _missing(digest)
        return stored

    async def write(
        self, caller: str, requests: AsyncIterator[tool_pb2.WriteBlobRequest]
    ) -> Digest:
        """Store an upload and grant it to `caller`; durable when this returns.

        Raises:
            InvalidRequest: `DIGEST_INVALID`, `DIGEST_MISMATCH`, `BLOB_TOO_LARGE`,
                `BLOB_CHUNK_TOO_LARGE`.
            CapacityError: `UPLOADS_LIMIT`; `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`; `JOURNAL_FULL`,
                where no call would be taken either.
            DeadlineExceeded: `UPLOAD_IDLE`.
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        self._store.check_admission(0)
        with self._place(caller):
            digest, stored, told = await self._take(caller, aiter(requests))
        self._store.grant_blob(stored, caller, told)
        await to_end(self._locker.uploaded, caller, digest, stored)
        return digest

    @contextlib.contextmanager
    def _place(self, caller: str) -> Iterator[None]:
        """Have one of the uploads that may be open at a time."""
        if self._uploads[caller] >= UPLOADS_PER_CALLER:
            raise _too_many("caller", UPLOADS_PER_CALLER)
        if self._uploads.total() >= UPLOADS_MAX:
            raise _too_many("daemon", UPLOADS_MAX)
        self._uploads[caller] += 1
        try:
            yield
        finally:
            self._uploads[caller] -= 1
            if not self._uploads[caller]:
                del self._uploads[caller]

    async def _take(
        self, caller: str, requests: AsyncIterator[tool_pb2.WriteBlobRequest]
    ) -> tuple[Digest, Digest, dict[str, Json]]:
        first = await _next(requests)
        if first is None or not first.HasField("digest"):
            raise InvalidRequest("DIGEST_INVALID", "the first message carries the digest")
        digest = translate.digest(first.digest)
        if digest.size_bytes > self._blob_bytes_max:
            raise InvalidRequest(
                "BLOB_TOO_LARGE",
                f"the blob has {digest.size_bytes} bytes and {self._blob_bytes_max} are taken",
                metadata={"limit_bytes": str(self._blob_bytes_max)},
            )
        store = self._store
        writer = await to_end(
            self._locker.upload, caller, store.masks, digest, undo=lambda late: late.close()
        )
        try:
            await to_end(writer.write, _chunk(first.data))
            while (request := await _next(requests)) is not None:
                if request.HasField("digest"):
                    raise InvalidRequest("DIGEST_INVALID", "only the first message has a digest")
                await to_end(writer.write, _chunk(request.data))
            original = await to_end(writer.commit)
            if writer.failed:
                raise InvalidRequest(
                    "REDACTION_FAILED",
                    "it cannot be told what of the content is secret: it is not stored",
                    hint="hand it over within a call, or leave the secrets out",
                )
        finally:
            await to_end(writer.close)
        return digest, writer.stored, told_of(original)

    async def content(self, caller: str, digest: Digest) -> Digest | None:
        """Give the digest of the content where `digest` is that of an encrypted file; else None.

        Raises:
            NotFound: `BLOB_NOT_FOUND`, `CONTENT_ERASED`; CallStateError: `CONTENT_LOCKED`.
            AuditCorrupt: `DIGEST_MISMATCH`, `KEY_MISSING`, `KEY_DAMAGED`.
        """
        self.require(caller, [digest])
        return await to_end(self._locker.content, caller, digest)

    async def read(self, caller: str, digest: Digest, offset: int) -> AsyncGenerator[bytes, None]:
        """Give the content from `offset` on, in pieces of at most 1 MiB.

        Raises:
            NotFound: `BLOB_NOT_FOUND`, `CONTENT_ERASED`.
            CallStateError: `CONTENT_LOCKED`.
            OutOfRange: `BLOB_OFFSET`.
            AuditCorrupt: `DIGEST_MISMATCH`, where the disk gave back something else;
                `KEY_MISSING`, `KEY_DAMAGED`.
        """
        self.require(caller, [digest])
        if offset > digest.size_bytes:
            raise OutOfRange("BLOB_OFFSET", f"the blob has {digest.size_bytes} bytes")
        reader = await to_end(self._locker.open, caller, digest, undo=lambda late: late.close())
        try:
            position = 0
            # Read from the start even where less is wanted: the digest covers all of it.
            async with contextlib.aclosing(in_thread(reader.chunks())) as parts:
                async for data in parts:
                    end = position + len(data)
                    if end > offset:
                        yield data[max(0, offset - position) :]
                    position = end
        finally:
            reader.close()


async def _next(
    requests: AsyncIterator[tool_pb2.WriteBlobRequest],
) -> tool_pb2.WriteBlobRequest | None:
    try:
        async with asyncio.timeout(UPLOAD_IDLE_S):
            return await anext(requests, None)
    except TimeoutError as error:
        raise DeadlineExceeded(
            "UPLOAD_IDLE",
            f"no message of the upload came for {UPLOAD_IDLE_S:g} seconds",
            hint="begin again, and send without a pause",
        ) from error


def _too_many(scope: str, limit: int) -> CapacityError:
    return CapacityError(
        "UPLOADS_LIMIT",
        f"{limit} uploads are open, which is the limit of one {scope}",
        hint="end some of them first",
        metadata={"scope": scope, "limit": str(limit)},
        retry_after_s=UPLOADS_RETRY_S,
    )


def _missing(digest: Digest, why: str = "") -> NotFound:
    # Messages go into the daemon's log, which is kept: no digest of what may be encrypted.
    return NotFound(
        "BLOB_NOT_FOUND",
        f"there is no blob with this digest, of {digest.size_bytes} bytes{why}",
        hint="upload it with WriteBlob first",
        metadata={"sha256": digest.sha256},
    )


def _lost(digest: Digest) -> NotFound:
    # It was there, and nothing says that it was removed.
    return NotFound(
        "BLOB_NOT_FOUND",
        f"a blob with this digest, of {digest.size_bytes} bytes, is not on record as it was: its "
        "secrets were replaced, and the daemon has forgotten them, or the file is lost",
        hint="`stockade audit cat --output` gives what is on record; upload it anew to use it",
        metadata={"sha256": digest.sha256, "redacted": "true"},
    )


def _chunk(data: bytes) -> bytes:
    if len(data) > BLOB_CHUNK_BYTES_MAX:
        raise InvalidRequest(
            "BLOB_CHUNK_TOO_LARGE", f"a message carries at most {BLOB_CHUNK_BYTES_MAX} bytes"
        )
    return data
