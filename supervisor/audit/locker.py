"""Content in and out of calls: where it is kept, under which key, and how it is found again.

Without encryption a blob is found by the digest of its content. With it, each call has a key of its
own, and its blobs are files that only that key opens: equal contents of two calls have nothing in
common. The log names such a file by its own digest, with the size of the content. What callers know
is the digest of the content; which file that is, for which caller, is known in memory alone, since
a digest on disk would let anybody try guesses. So after a restart an upload is not found any more,
and the caller uploads it again.

In the log the digests of what went through an encrypted call are sealed with its key.
"""

from __future__ import annotations

import base64
import binascii
import collections
import contextlib
import json
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from supervisor.audit.account import StoredRequest, is_inline
from supervisor.audit.blobs import CHUNK_BYTES, BlobReader, BlobStore, BlobWriter, damaged
from supervisor.audit.files import CallFiles, FileWriter, upload
from supervisor.audit.intake import Intake
from supervisor.audit.masks import Mask, Masks
from supervisor.audit.sealed_blobs import (
    SealedForm,
    SealedReader,
    content_digest,
    key_of,
    open_sealed,
)
from supervisor.audit.sealing import ContentKey
from supervisor.audit.vault import UPLOAD_HELD_S, Vault
from supervisor.call.events import Finished
from supervisor.call.types import (
    CallRequest,
    Digest,
    InputFile,
    Json,
    OutputFile,
    canonical_json,
)
from supervisor.errors import AuditCorrupt, CallStateError, InvariantError, NotFound

if TYPE_CHECKING:
    from supervisor.profile.model import EffectiveProfile

NAMES_MAX = 65_536
"""Contents that are found by their digest in memory; the oldest are forgotten first."""

UPLOAD_KEY = "upload."
UPLOAD_ID_BYTES = 16


@dataclass(slots=True, kw_only=True)
class SealedCall:
    """An encrypted call that lives: its key, and its contents by what they are."""

    caller: str
    key: ContentKey
    stored: dict[Digest, Digest] = field(default_factory=dict)
    uploads: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSealed(StoredRequest):
    """The same of an encrypted call, and what it has."""

    call: SealedCall


@dataclass(frozen=True, slots=True, kw_only=True)
class _Name:
    stored: Digest
    key_id: str


class SealedUpload:
    """An upload that is being sealed; nothing is taken out of it."""

    failed = ""

    def __init__(self, writer: BlobWriter) -> None:
        self._writer = writer
        self.write = writer.write
        self.close = writer.close

    @property
    def stored(self) -> Digest:
        """Give what it is found by, once it is committed."""
        return self._writer.stored

    def commit(self) -> None:
        """Make it durable; raises as `BlobWriter.commit`."""
        self._writer.commit()


class SealedFiles(CallFiles):
    """Stores files that an encrypted call left behind, as they are."""

    def __init__(
        self,
        blobs: BlobStore,
        mask: Mask | None,
        begin: Callable[[], contextlib.AbstractContextManager[BlobWriter]],
    ) -> None:
        super().__init__(blobs, mask)
        self._begin = begin

    def keep(self, chunks: Iterable[bytes]) -> Digest:
        """Store a file; give its digest. Blocks; raises as that of the others."""
        with self._begin() as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.commit()


class Locker:
    """The contents of calls in one state directory. Methods may be called from any thread."""

    def __init__(self, blobs: BlobStore, vault: Vault) -> None:
        self.vault = vault
        self._blobs = blobs
        self._intake = Intake(blobs)
        self._lock = threading.Lock()
        self._calls: dict[str, SealedCall] = {}
        self._names: collections.OrderedDict[tuple[str, Digest], _Name] = collections.OrderedDict()
        self._used: dict[str, set[str]] = {}

    def has_work(self, request: CallRequest, canonical: bytes, profile: EffectiveProfile) -> bool:
        """Say whether `keep` would touch the disk."""
        return self.vault.locks or self._intake.has_work(request, canonical, profile)

    def keep(
        self,
        call_id: str,
        caller: str,
        request: CallRequest,
        canonical: bytes,
        profile: EffectiveProfile,
        files: CallFiles,
    ) -> StoredRequest:
        """Make the inputs of a call durable, and its key where there is one. Blocks. `canonical` is
        the request as it goes on record; `files` stores what is not encrypted.

        Raises:
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
            NotFound: `BLOB_NOT_FOUND`, of an upload that is gone.
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        if not self.vault.locks:
            self._intake.keep(request, canonical, profile, files)
            return replace(plainly(request, canonical), more=files.told())
        self._intake.keep_profile(profile)
        key, key_sha256 = self.vault.create(call_id)
        try:
            return self._seal(SealedCall(caller=caller, key=key), request, canonical, key_sha256)
        except BaseException:
            self.vault.discard(call_id)
            raise

    def begin(self, call_id: str, kept: StoredRequest) -> ContentKey | None:
        """Hold what a call has while it lives; give its key."""
        if not isinstance(kept, StoredSealed):
            return None
        with self._lock:
            self._calls[call_id] = kept.call
            for upload in kept.call.uploads:
                self._used.setdefault(upload, set()).add(call_id)
        for digest, stored in kept.call.stored.items():
            self._learn(kept.call.caller, digest, stored, call_id)
        self.vault.begin(kept.call.key)
        return kept.call.key

    def end(self, call_id: str) -> None:
        """Let go of a call that has ended."""
        with self._lock:
            self._calls.pop(call_id, None)
        self.vault.end(call_id)

    def files(self, call_id: str, caller: str, mask: Mask | None) -> CallFiles:
        """Give what stores the files of a call: without secrets, or sealed as they are."""
        if not self.vault.locks:
            return CallFiles(self._blobs, mask, caller)
        return SealedFiles(self._blobs, mask, lambda: self.left_behind(call_id))

    def upload(self, caller: str, masks: Masks, expected: Digest) -> FileWriter | SealedUpload:
        """Begin a blob that a caller uploads.

        Raises:
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        if not self.vault.locks:
            return upload(self._blobs, masks, expected, caller)
        key = ContentKey.new(UPLOAD_KEY + secrets.token_hex(UPLOAD_ID_BYTES))
        self.vault.hold(key, UPLOAD_HELD_S)
        return SealedUpload(self._blobs.writer(expected, SealedForm(key)))

    def uploaded(self, caller: str, digest: Digest, stored: Digest) -> None:
        """Let a caller find what it uploaded by its digest."""
        if self._blobs.is_sealed(stored):
            self._learn(caller, digest, stored, key_of(self._blobs, stored))

    @contextlib.contextmanager
    def left_behind(self, call_id: str) -> Iterator[BlobWriter]:
        """Begin a file that a call left behind; once committed, it is the call's.

        Raises:
            InvariantError: `CALL_NOT_OPEN`, where its key is not held any more.
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
            AuditUnavailable: `RECORD_FULL`, `RECORD_UNAVAILABLE`, `JOURNAL_UNAVAILABLE`.
        """
        with self._lock:
            call = self._calls.get(call_id)
        if call is None and self.vault.locks:
            raise InvariantError("CALL_NOT_OPEN", f"call {call_id} has ended: no key for its files")
        form = SealedForm(call.key) if call is not None else None
        with self._blobs.writer(form=form) as writer:
            yield writer
            if call is not None and writer.stored.sha256:
                call.stored[writer.content] = writer.stored
                self._learn(call.caller, writer.content, writer.stored, call_id)

    def open(self, caller: str, digest: Digest, call_id: str = "") -> BlobReader | SealedReader:
        """Open content by the digest that `caller` knows it by, or that the log has; of a live call
        what it was given first.

        Raises:
            NotFound: `BLOB_NOT_FOUND`, `CONTENT_ERASED`.
            CallStateError: `CONTENT_LOCKED`.
            AuditCorrupt: `KEY_MISSING`, `KEY_DAMAGED`.
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
        """
        stored = self._stored(caller, digest, call_id)
        if self._blobs.is_sealed(stored):
            return open_sealed(self._blobs, stored, self.vault.key)
        return self._blobs.open(stored)

    def has(self, caller: str, digest: Digest) -> bool:
        """Say whether there is such content, which may still be locked or erased."""
        stored = self._stored(caller, digest, "")
        return self._blobs.holds(stored) or self._blobs.has_sealed(stored)

    def known(self, caller: str, digest: Digest) -> Digest | None:
        """Give the digest of the file, where a caller has content of this digest under a key that
        is there."""
        with self._lock:
            name = self._names.get((caller, digest))
        return name.stored if name is not None and self.vault.opens(name.key_id) else None

    def content(self, caller: str, digest: Digest) -> Digest | None:
        """Give the digest of the content where `digest` is that of a sealed file; else None.

        Raises:
            StockadeError: as `open`.
        """
        stored = self._stored(caller, digest, "")
        if stored != digest or not self._blobs.is_sealed(stored):
            return None
        return content_digest(self._blobs, stored, self.vault.key)

    def forget(self, call_id: str) -> None:
        """Forget the contents of a call, and the uploads that it was given."""
        with self._lock:
            uploads = {one for one, calls in self._used.items() if call_id in calls}
            gone = {call_id, *uploads}
            for name in [key for key, name in self._names.items() if name.key_id in gone]:
                del self._names[name]
            for upload in uploads:
                del self._used[upload]
        for key_id in gone:
            self.vault.forget(key_id)

    def recorded(self, call_id: str, finished: Finished) -> tuple[Finished, dict[str, Json]]:
        """Give the end of a call as the log has it, and what OUTCOME says beside it."""
        call = self._calls.get(call_id)
        if call is None:
            return finished, {}
        streams = {one.stream.value: one.digest.sha256 for one in finished.streams}
        outputs = tuple(
            replace(one, digest=call.stored.get(one.digest, unnamed(one.digest)))
            for one in finished.outputs
        )
        told = replace(finished, streams=without_digests(finished).streams, outputs=outputs)
        sealed = _sealed(call.key, "outcome", {"streams": dict(streams)})
        return told, {"encrypted": {"digests": sealed}}

    def restored(
        self, call_id: str, caller: str, finished: Finished, body: Mapping[str, Any]
    ) -> Finished:
        """Give the end of a call with the digests of its contents, out of the body of its OUTCOME,
        where its key is there; else as the log has it. Reads the disk.

        Raises:
            AuditCorrupt: `DIGEST_MISMATCH`, `KEY_MISSING`, `KEY_DAMAGED`.
        """
        sealed = _digests(body)
        if sealed is None or not self.vault.opens(call_id):
            return finished
        try:
            key = self.vault.key(call_id)
        except (CallStateError, NotFound):
            return finished  # it is for other identities, or has just been erased
        told = _opened(key, "outcome", sealed)["streams"]
        streams = tuple(
            replace(one, digest=replace(one.digest, sha256=str(told.get(one.stream.value, ""))))
            for one in finished.streams
        )
        outputs = tuple(self._restored_file(call_id, caller, one) for one in finished.outputs)
        return replace(finished, streams=streams, outputs=outputs)

    def fingerprint(self, call_id: str, intent: Mapping[str, Any]) -> str:
        """Give the fingerprint of the request of a call, out of the body of its INTENT.

        Raises:
            NotFound: `CONTENT_ERASED`; CallStateError: `CONTENT_LOCKED`.
            AuditCorrupt: `DIGEST_MISMATCH`, `KEY_MISSING`, `KEY_DAMAGED`.
        """
        sealed = _digests(intent)
        if sealed is None:
            return str(intent["fingerprint"])
        return str(_opened(self.vault.key(call_id), "intent", sealed)["fingerprint"])

    def _restored_file(self, call_id: str, caller: str, file: OutputFile) -> OutputFile:
        try:
            digest = content_digest(self._blobs, file.digest, self.vault.key)
        except (NotFound, AuditCorrupt):
            return file  # whoever reads it is told
        self._learn(caller, digest, file.digest, call_id)
        return replace(file, digest=digest)

    def _seal(
        self, call: SealedCall, request: CallRequest, canonical: bytes, key_sha256: str
    ) -> StoredSealed:
        files = tuple(self._keep_file(call, file) for file in request.files)
        document = json.loads(canonical)
        for told, stored in zip(document["files"], files, strict=True):
            told["sha256"] = stored.sha256
        stdin_sha256, document["stdin"]["sha256"] = document["stdin"]["sha256"], ""
        told_digests: dict[str, Json] = {
            "fingerprint": request.fingerprint(),
            "stdin": stdin_sha256,
        }
        recorded = canonical_json(document)
        encrypted: dict[str, Json] = {
            "to": list(self.vault.recipients),
            "key_sha256": key_sha256,
            "digests": _sealed(call.key, "intent", told_digests),
        }
        more: dict[str, Json] = {"encrypted": encrypted}
        request_blob = None
        if not is_inline(recorded):
            request_blob = self._put(call, recorded)
            names: Json = [{"sha256": f.sha256, "size_bytes": f.size_bytes} for f in files]
            listed = self._blobs.put(canonical_json({"files": names}))
            more["request_files"] = {"sha256": listed.sha256, "size_bytes": listed.size_bytes}
        return StoredSealed(
            canonical=recorded,
            fingerprint=(request_blob or Digest.of(recorded)).sha256,
            files=files,
            request_blob=request_blob,
            more=more,
            call=call,
        )

    def _keep_file(self, call: SealedCall, file: InputFile) -> Digest:
        known = call.stored.get(file.digest)
        if known is not None:
            return known
        if file.data is not None:
            stored = self._put(call, file.data)
        else:
            with self.open(call.caller, file.digest) as reader:
                if isinstance(reader, SealedReader) and reader.key_id.startswith(UPLOAD_KEY):
                    call.uploads.add(reader.key_id)
                with self._blobs.writer(form=SealedForm(call.key)) as writer:
                    for chunk in reader.chunks():
                        writer.write(chunk)
                    writer.commit()
                    stored = writer.stored
        call.stored[file.digest] = stored
        return stored

    def _put(self, call: SealedCall, data: bytes) -> Digest:
        with self._blobs.writer(form=SealedForm(call.key)) as writer:
            for begin in range(0, len(data), CHUNK_BYTES):
                writer.write(data[begin : begin + CHUNK_BYTES])
            writer.commit()
            return writer.stored

    def _stored(self, caller: str, digest: Digest, call_id: str) -> Digest:
        with self._lock:
            call = self._calls.get(call_id)
            if call is not None and digest in call.stored:
                return call.stored[digest]
        return self.known(caller, digest) or digest

    def _learn(self, caller: str, digest: Digest, stored: Digest, key_id: str) -> None:
        with self._lock:
            known = self._names.pop((caller, digest), None)
            if known is not None and self._is_upload(known.key_id) and not self._is_upload(key_id):
                self._names[caller, digest] = known  # an upload is what was named
                return
            self._names[caller, digest] = _Name(stored=stored, key_id=key_id)
            while len(self._names) > NAMES_MAX:
                self._names.popitem(last=False)

    def _is_upload(self, key_id: str) -> bool:
        return key_id.startswith(UPLOAD_KEY) and self.vault.opens(key_id)


def plainly(request: CallRequest, canonical: bytes) -> StoredRequest:
    """Give what an unencrypted call has on record, `canonical`."""
    return StoredRequest(
        canonical=canonical,
        fingerprint=request.fingerprint(),
        files=tuple(file.digest for file in request.files),
    )


def unnamed(digest: Digest) -> Digest:
    """Give a digest of which the record has the size alone."""
    return Digest(sha256="", size_bytes=digest.size_bytes)


def without_digests(finished: Finished) -> Finished:
    """Give the end of a call without what would tell guesses from what went through its streams."""
    streams = tuple(replace(one, digest=unnamed(one.digest)) for one in finished.streams)
    return replace(finished, streams=streams)


def without_any_digest(finished: Finished) -> Finished:
    """Give it without those of its files as well: for who may follow the call and not read it."""
    outputs = tuple(replace(one, digest=unnamed(one.digest)) for one in finished.outputs)
    return replace(without_digests(finished), outputs=outputs)


def _digests(body: Mapping[str, Any]) -> str | None:
    encrypted = body.get("encrypted")
    return str(encrypted["digests"]) if isinstance(encrypted, dict) else None


def _sealed(key: ContentKey, kind: str, value: dict[str, Json]) -> str:
    return base64.b64encode(key.seal(["entry", kind], canonical_json(value))).decode()


def _opened(key: ContentKey, kind: str, text: str) -> dict[str, Any]:
    try:
        sealed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise damaged(f"the digests of call {key.key_id} are no base64") from error
    value = json.loads(key.open(["entry", kind], sealed))
    if not isinstance(value, dict):
        raise damaged(f"the digests of call {key.key_id} are none")
    return value
