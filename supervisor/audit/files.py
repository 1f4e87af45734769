"""Files on their way onto the record: their secrets are replaced before a byte is written.

Digests are those of the files as they were, as for streams. What is stored of a file that holds a
secret has a digest of its own, which the entry names beside the file's; `Originals` knows what was
replaced. Where redaction fails, the digest alone is kept.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from supervisor.audit.blobs import BlobStore, mismatch
from supervisor.audit.masks import Mask, Masks
from supervisor.audit.originals import Original, Patch
from supervisor.audit.redaction.found import Found
from supervisor.audit.redaction.literals import RedactionFailed
from supervisor.call.types import Digest, Json
from supervisor.errors import CapacityError, NotFound
from supervisor.profile.model import Redact

STEP_BYTES = 64 * 1024
FILE_SECRETS_MAX = 20_000
FILE_SECRET_BYTES_MAX = 4 * 1024 * 1024
FILES_TOLD_MAX = 64
"""Changed files of one call: each is told in its entry, which has little room."""

TOLD = "redacted_files"

log = logging.getLogger("stockade.audit")


class FileWriter:
    """A file that is being stored. Leaving the block without `commit` leaves nothing behind."""

    def __init__(
        self,
        blobs: BlobStore,
        mask: Mask | None,
        expected: Digest | None = None,
        *,
        owner: str = "",
    ) -> None:
        self._blobs = blobs
        self._owner = owner
        self._expected = expected
        self._hasher = hashlib.sha256()
        self._size = 0
        self._window = bytearray()
        self._window_at = 0
        self._patches: list[Patch] = []
        self._secret_bytes = 0
        self._shift = 0
        self.failed = mask.failed if mask is not None else ""
        self._redactor = mask.stream() if mask is not None and not mask.failed else None
        self._writer = blobs.writer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

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
        if self.failed:
            return
        if self._redactor is None:
            self._writer.write(data)
            return
        for begin in range(0, len(data), STEP_BYTES):
            step = data[begin : begin + STEP_BYTES]
            self._window += step
            self._clean(step)

    def commit(self) -> Original | None:
        """Make what is stored durable; give what has to be told where that is not the file as it
        was. `digest` is that of the file.

        Raises:
            InvalidRequest: `DIGEST_MISMATCH`.
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        if self._expected is not None and self.digest != self._expected:
            raise mismatch(self._expected, self.digest)
        if self._redactor is not None and not self.failed:
            self._clean(None)
        if self.failed:
            log.error("a file is not stored, only its digest: %s", self.failed)
            original = Original(digest=self.digest, stored=None)
        else:
            stored = self._writer.commit()
            if stored == self.digest:
                return None
            original = Original(digest=self.digest, stored=stored, patches=tuple(self._patches))
        self._blobs.originals.put(original, self._owner)
        return original

    @property
    def digest(self) -> Digest:
        """Give the digest of what was written so far, as it was."""
        return Digest(sha256=self._hasher.hexdigest(), size_bytes=self._size)

    @property
    def stored(self) -> Digest:
        """Give what the file is found by: its digest, as it was."""
        return self.digest

    def close(self) -> None:
        """Remove what was written; does nothing after `commit`."""
        self._writer.close()

    def _clean(self, step: bytes | None) -> None:
        """Write what is known to be clean now; None ends the file."""
        redactor = self._redactor
        if redactor is None or self.failed:
            return
        try:
            out = redactor.finish() if step is None else redactor.feed(step)
            for one in redactor.found:
                self._take(one)
            redactor.found.clear()
            if len(self._patches) != redactor.found_total:
                raise RedactionFailed("there are more secrets than can be told")
        except RedactionFailed as error:
            self.failed = str(error)
            self._window.clear()
            return
        gone = redactor.settled - self._window_at
        del self._window[:gone]
        self._window_at += gone
        self._writer.write(out)

    def _take(self, one: Found) -> None:
        begin = one.offset - self._window_at
        secret = bytes(self._window[begin : begin + one.length])
        self._secret_bytes += len(secret)
        if len(self._patches) >= FILE_SECRETS_MAX or self._secret_bytes > FILE_SECRET_BYTES_MAX:
            raise RedactionFailed("the file has more secrets than can be kept apart from it")
        at, mark_bytes = one.offset + self._shift, len(one.mark)
        self._patches.append(Patch(at=at, mark_bytes=mark_bytes, secret=secret))
        self._shift += mark_bytes - one.length


class CallFiles:
    """Stores files of one call of `owner`, and knows what its entries have to tell of them."""

    def __init__(self, blobs: BlobStore, mask: Mask | None, owner: str = "") -> None:
        self._blobs = blobs
        self.mask = mask
        self._owner = owner
        self._told: list[Original] = []

    def keep(self, chunks: Iterable[bytes]) -> Digest:
        """Store a file; give its digest, as it was. Blocks.

        Raises:
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`, `REDACTED_FILES_LIMIT`.
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        with FileWriter(self._blobs, self.mask, owner=self._owner) as writer:
            for chunk in chunks:
                writer.write(chunk)
            original = writer.commit()
            if original is not None:
                self._tell([original])
            return writer.digest

    def name(self, digests: Iterable[Digest]) -> None:
        """Take note of files that were stored before.

        Raises:
            CapacityError: `REDACTED_FILES_LIMIT`.
        """
        self._tell(self._blobs.originals.told(digests))

    def told(self) -> dict[str, Json]:
        """Give what an entry says of the files since the last one."""
        told, self._told = self._told, []
        return {TOLD: list[Json](one.to_json() for one in told)} if told else {}

    def _tell(self, originals: list[Original]) -> None:
        known = {one.digest for one in self._told}
        self._told += [one for one in originals if one.digest not in known]
        if len(self._told) > FILES_TOLD_MAX:
            raise CapacityError(
                "REDACTED_FILES_LIMIT",
                f"secrets would have to be replaced in more than {FILES_TOLD_MAX} files of a call",
                hint="pack the files into one, or leave the secrets out of them",
            )


def upload(blobs: BlobStore, masks: Masks, expected: Digest, owner: str) -> FileWriter:
    """Begin a file that a caller sends before it is known for which call: the pack of rules is all
    that can be looked for."""
    return FileWriter(blobs, masks.make(Redact(), {}), expected, owner=owner)


def told_of(original: Original | None) -> dict[str, Json]:
    """Give what an entry says of one file."""
    return {TOLD: [original.to_json()]} if original is not None else {}


def stored_as(body: Mapping[str, Json], digest: Digest, name: str) -> tuple[Digest, bool]:
    """Give what an entry says is stored of a file, and whether its secrets are replaced in that.

    Raises:
        NotFound: `OUTPUT_NOT_STORED`.
    """
    instead = stored_instead(body)
    if digest.sha256 not in instead:
        return digest, False
    stored = instead[digest.sha256]
    if stored is None:
        raise NotFound(
            "OUTPUT_NOT_STORED",
            f"only the digest of {name!r} is on record: nobody could tell what in it is secret",
        )
    return stored, True


def stored_instead(body: Mapping[str, Json]) -> dict[str, Digest | None]:
    """Read in an entry what is stored instead of which files, by their SHA-256."""
    told = body.get(TOLD)
    stored: dict[str, Digest | None] = {}
    for one in told if isinstance(told, list) else ():
        match one:
            case [str(sha256), int(), str(other), int(size), int()]:
                stored[sha256] = Digest(sha256=other, size_bytes=size) if other else None
            case _:
                raise TypeError(f"not what is stored of a file: {one!r}")
    return stored
