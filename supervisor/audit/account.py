"""The two entries that hold a call's account together: INTENT and OUTCOME. Their bodies are made
and read here.

What does not fit into an entry goes to a blob, and the entry keeps the blob's digest and a
preview: a request with long arguments, a long list of files that the call left behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.audit.blobs import BlobStore
from supervisor.audit.codec import (
    caller_from_json,
    caller_to_json,
    clip_argv,
    correlation_from_json,
    finished_from_json,
    finished_to_json,
)
from supervisor.audit.entry import Kind, StoredEntry
from supervisor.audit.index import BlobRef, CallRow, CallSummary
from supervisor.audit.recording import Sealed
from supervisor.audit.search import Trail
from supervisor.call.events import Finished
from supervisor.call.outcome import Failed, Interrupted
from supervisor.call.types import (
    Caller,
    CallRequest,
    Digest,
    Json,
    canonical_json,
    text,
    untext,
)
from supervisor.errors import AuditUnavailable, CapacityError

if TYPE_CHECKING:
    from supervisor.profile.model import EffectiveProfile

REQUEST_INLINE_BYTES_MAX = 24 * 1024
OUTCOME_FILES_BYTES_MAX = 32 * 1024
CORRELATION_PREVIEW_CHARACTERS = 256
MESSAGE_CHARACTERS_MAX = 2048


def intent_body(
    caller: Caller,
    request: CallRequest,
    canonical: bytes,
    profile: EffectiveProfile,
    host: Mapping[str, Json],
) -> dict[str, Json]:
    """Give the body of INTENT; the profile's own digest is that of the blob that holds it."""
    digest = Digest.of(canonical)
    body: dict[str, Json] = {
        "caller": caller_to_json(caller),
        "fingerprint": digest.sha256,
        "profile": {
            "name": profile.name,
            "digest": profile.digest,
            "size_bytes": len(profile.canonical),
            "mode": profile.mode,
            "egress": bool(profile.egress),
        },
        "host": dict(host),
    }
    if is_inline(canonical):
        body["request"] = json.loads(canonical)
        return body
    correlation: dict[str, Json] = {
        name: str(value)[:CORRELATION_PREVIEW_CHARACTERS]
        for name, value in json.loads(canonical)["correlation"].items()
    }
    body["request_blob"] = {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
    body["request_preview"] = {
        "request_id": request.request_id,
        "profile": request.profile,
        "argv": [text(argument) for argument in clip_argv(request.argv)],
        "correlation": correlation,
    }
    return body


def is_inline(canonical: bytes) -> bool:
    """Say whether a request is kept in the entry itself."""
    return len(canonical) <= REQUEST_INLINE_BYTES_MAX


def row_of_intent(entry: StoredEntry) -> CallRow:
    """Give what the index knows of a call that has just begun."""
    body = entry.body()
    trail = Trail()
    trail.take(entry.kind, body)
    request = _map(body.get("request") or body["request_preview"])
    profile = _map(body["profile"])
    argv = request["argv"]
    summary = CallSummary(
        call_id=entry.call_id,
        request_id=str(request["request_id"]),
        fingerprint=str(body["fingerprint"]),
        caller=caller_from_json(_map(body["caller"])),
        profile=str(profile["name"]),
        profile_digest=str(profile["digest"]),
        mode=str(profile["mode"]),
        argv=clip_argv([untext(argument) for argument in argv]) if isinstance(argv, list) else (),
        accepted_ns=entry.time_ns,
        correlation=correlation_from_json(_map(request["correlation"])),
        last_sequence=entry.sequence,
        denials=0,
        finished=None,
    )
    return CallRow(
        summary=summary,
        first_index=entry.index,
        first=entry.position,
        last=entry.position,
        trail=trail,
    )


def outcome_body(
    finished: Finished, sealed: Sealed | None, *, record_full: bool, blobs: BlobStore
) -> tuple[dict[str, Json], Finished]:
    """Give the body of OUTCOME, and what of `finished` it holds.

    Blocks where the list of files has to go to a blob. Where that cannot be kept, on a full disk
    or without a descriptor, the list is cut, and the body says by how much.

    Raises:
        AuditUnavailable: `JOURNAL_UNAVAILABLE`.
    """
    finished = _clip(finished)
    body = finished_to_json(finished)
    body["recording"] = sealed.to_json() if sealed else None
    body["record_full"] = record_full
    files: dict[str, Json] = {"outputs": body["outputs"], "skipped": body["skipped"]}
    encoded = canonical_json(files)
    if len(encoded) <= OUTCOME_FILES_BYTES_MAX:
        return body, finished
    try:
        digest = blobs.put(encoded)
    except CapacityError:
        return _cut_files(body, finished)
    except AuditUnavailable as error:
        if error.reason == "JOURNAL_UNAVAILABLE":
            raise
        return _cut_files(body, finished)
    body["outputs"], body["skipped"] = [], []
    body["files_blob"] = {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
    return body, finished


def needs_blob(finished: Finished) -> bool:
    """Say whether `outcome_body` might write a blob."""
    paths = sum(len(output.path) + 160 for output in finished.outputs)
    paths += sum(len(skipped.path) + 64 for skipped in finished.skipped)
    return paths * 2 > OUTCOME_FILES_BYTES_MAX


def _cut_files(body: dict[str, Json], finished: Finished) -> tuple[dict[str, Json], Finished]:
    outputs, skipped = list(finished.outputs), list(finished.skipped)
    total = len(outputs) + len(skipped)
    while True:
        skipped = skipped[: len(skipped) // 2] if skipped else skipped
        outputs = outputs if skipped else outputs[: len(outputs) // 2]
        kept = replace(finished, outputs=tuple(outputs), skipped=tuple(skipped))
        files = finished_to_json(kept)
        body["outputs"], body["skipped"] = files["outputs"], files["skipped"]
        body["files_dropped"] = total - len(outputs) - len(skipped)
        if len(canonical_json([body["outputs"], body["skipped"]])) <= OUTCOME_FILES_BYTES_MAX:
            return body, kept


def _clip(finished: Finished) -> Finished:
    outcome = finished.outcome
    if isinstance(outcome, Failed | Interrupted) and len(outcome.message) > MESSAGE_CHARACTERS_MAX:
        outcome = replace(outcome, message=outcome.message[:MESSAGE_CHARACTERS_MAX])
        return replace(finished, outcome=outcome)
    return finished


def finished_of(entry: StoredEntry, blobs: BlobStore) -> Finished:
    """Read an OUTCOME entry.

    Raises:
        NotFound: `BLOB_NOT_FOUND`, AuditCorrupt: `DIGEST_MISMATCH`, for the list of files.
    """
    body = entry.body()
    blob = body.get("files_blob")
    if isinstance(blob, dict):
        body.update(json.loads(blobs.get(digest_of(blob))))
    return finished_from_json(body, record=entry.leaf, record_bytes=len(entry.json) + 1)


def refs_of(finished: Finished, caller: str) -> list[BlobRef]:
    """Give the blobs that a call's caller may read: what the call left behind."""
    return [ref_of(output.digest, caller) for output in finished.outputs]


def ref_of(digest: Digest, caller: str) -> BlobRef:
    """Give what lets a caller read a blob, by its hash and its true size."""
    return BlobRef(sha256=digest.sha256, size_bytes=digest.size_bytes, caller=caller)


def blobs_named(kind: str, body: Mapping[str, Json]) -> Iterator[Digest]:
    """Give the blobs that an entry says are kept."""
    if kind == Kind.INTENT:
        yield profile_of(body)
        if "request_blob" in body:
            yield digest_of(_map(body["request_blob"]))
        files = _map(body["request"])["files"] if "request" in body else []
        yield from (digest_of(_map(file)) for file in _list(files))
    elif kind == Kind.OUTCOME:
        if "files_blob" in body:
            yield digest_of(_map(body["files_blob"]))
        yield from (digest_of(_map(output)) for output in _list(body["outputs"]))
    elif kind == Kind.BLOB:
        yield digest_of(body)


def has_egress(intent: Mapping[str, Json]) -> bool:
    """Say whether the profile in the body of INTENT let the call out; where it does not say so, it
    was written by a daemon that had no way to."""
    return _map(intent["profile"]).get("egress", False) is True


def profile_of(intent: Mapping[str, Json]) -> Digest:
    """Read out of the body of INTENT which blob holds the profile."""
    profile = _map(intent["profile"])
    return Digest(sha256=str(profile["digest"]), size_bytes=_int(profile["size_bytes"]))


def digest_of(data: Mapping[str, Json]) -> Digest:
    """Read a digest out of a body."""
    return Digest(sha256=str(data["sha256"]), size_bytes=_int(data["size_bytes"]))


def _map(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise TypeError(f"not an object: {value!r}")
    return value


def _list(value: Json) -> list[Json]:
    if not isinstance(value, list):
        raise TypeError(f"not a list: {value!r}")
    return value


def _int(value: Json) -> int:
    if not isinstance(value, int):
        raise TypeError(f"not a whole number: {value!r}")
    return value
