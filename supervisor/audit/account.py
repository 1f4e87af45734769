"""The two entries that hold a call's account together: INTENT and OUTCOME. Their bodies are made
and read here.

What does not fit into an entry goes to a blob, and the entry keeps the blob's digest and a
preview: a request with long arguments, a long list of files that the call left behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from supervisor.audit.files import stored_instead
from supervisor.audit.index import BlobRef, CallRow, CallSummary
from supervisor.audit.recording import Sealed
from supervisor.audit.search import Trail
from supervisor.audit.vault import Erasure, Removal
from supervisor.call.events import Finished
from supervisor.call.outcome import Failed, Interrupted
from supervisor.call.types import (
    Caller,
    CallRequest,
    Digest,
    Json,
    as_list,
    as_map,
    canonical_json,
    text,
    untext,
)
from supervisor.errors import AuditUnavailable, CapacityError

if TYPE_CHECKING:
    from supervisor.audit.masked import Kept
    from supervisor.profile.model import EffectiveProfile

REQUEST_INLINE_BYTES_MAX = 24 * 1024
OUTCOME_FILES_BYTES_MAX = 32 * 1024
CORRELATION_PREVIEW_CHARACTERS = 256
MESSAGE_CHARACTERS_MAX = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request as the log has it: `canonical`, in a blob where it is long, which is found by
    `request_blob`, or by its own digest; `files` are its input files as they are stored, and `more`
    is what INTENT says beside it."""

    canonical: bytes
    fingerprint: str
    files: tuple[Digest, ...] = ()
    request_blob: Digest | None = None
    more: Mapping[str, Json] = field(default_factory=dict)


def intent_body(
    caller: Caller,
    request: CallRequest,
    profile: EffectiveProfile,
    host: Mapping[str, Json],
    kept: Kept,
    stored: StoredRequest,
) -> dict[str, Json]:
    """Give the body of INTENT; the profile's own digest is that of the blob that holds it. `kept`
    says how the request is masked, and `stored` what of it is on record, and where."""
    canonical = stored.canonical
    digest = stored.request_blob or Digest.of(canonical)
    body: dict[str, Json] = {
        **stored.more,
        "caller": caller_to_json(caller),
        "fingerprint": stored.fingerprint,
        "profile": {
            "name": profile.name,
            "digest": profile.digest,
            "size_bytes": len(profile.canonical),
            "mode": profile.mode,
            "egress": bool(profile.egress),
        },
        "host": dict(host),
    }
    if kept.told is not None:
        body["redaction"] = kept.told
    shown = json.loads(canonical)
    if is_inline(canonical):
        body["request"] = shown
        return body
    correlation: dict[str, Json] = {
        name: str(value)[:CORRELATION_PREVIEW_CHARACTERS]
        for name, value in shown["correlation"].items()
    }
    body["request_blob"] = {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
    body["request_preview"] = {
        "request_id": request.request_id,
        "profile": request.profile,
        "argv": [text(one) for one in clip_argv([untext(one) for one in shown["argv"]])],
        "correlation": correlation,
        # A replay needs it, and not everybody who may see one may read the blob.
        **({"terminal": terminal} if (terminal := shown.get("terminal")) else {}),
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
    request = as_map(body.get("request") or body["request_preview"])
    profile = as_map(body["profile"])
    argv = request["argv"]
    summary = CallSummary(
        call_id=entry.call_id,
        request_id=str(request["request_id"]),
        fingerprint=str(body["fingerprint"]),
        caller=caller_from_json(as_map(body["caller"])),
        profile=str(profile["name"]),
        profile_digest=str(profile["digest"]),
        mode=str(profile["mode"]),
        argv=clip_argv([untext(argument) for argument in argv]) if isinstance(argv, list) else (),
        accepted_ns=entry.time_ns,
        correlation=correlation_from_json(as_map(request["correlation"])),
        last_sequence=entry.sequence,
        denials=0,
        finished=None,
        encrypted=is_encrypted(body),
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


def refs_of(finished: Finished, caller: str, outcome: Mapping[str, Json]) -> list[BlobRef]:
    """Give the blobs that a call's caller may read: what the call left behind, and what the body of
    OUTCOME says is stored of it instead."""
    left = [ref_of(output.digest, caller) for output in finished.outputs]
    return [*left, *refs_instead(outcome, caller)]


def refs_instead(body: Mapping[str, Json], caller: str) -> list[BlobRef]:
    """Give the blobs that an entry says are stored of files with secrets: whoever may read such a
    file may read them."""
    return [ref_of(one, caller) for one in stored_instead(body).values() if one is not None]


def inputs_of(intent: Mapping[str, Json], files: Iterable[Digest]) -> list[BlobRef]:
    """Give the blobs that a call's caller may read and name again, since it gave them: the `files`
    of its request, and a long request itself."""
    caller = str(as_map(intent["caller"])["name"])
    whole = [digest_of(as_map(intent["request_blob"]))] if "request_blob" in intent else []
    given = [ref_of(digest, caller) for digest in (*whole, *files)]
    return [*given, *refs_instead(intent, caller)]


def files_of(intent: Mapping[str, Json], blobs: BlobStore) -> list[Digest]:
    """Give the input files that the body of INTENT names. Blocks where the request is long.

    Raises:
        NotFound: `BLOB_NOT_FOUND`, AuditCorrupt: `DIGEST_MISMATCH`, for a long request.
    """
    if "request" in intent:
        request = as_map(intent["request"])
    elif "request_files" in intent:
        listed = json.loads(blobs.get(digest_of(as_map(intent["request_files"]))))
        return [digest_of(as_map(file)) for file in as_list(as_map(listed)["files"])]
    else:
        request = as_map(json.loads(blobs.get(digest_of(as_map(intent["request_blob"])))))
    return [digest_of(as_map(file)) for file in as_list(request["files"])]


def ref_of(digest: Digest, caller: str) -> BlobRef:
    """Give what lets a caller read a blob, by its hash and its true size."""
    return BlobRef(sha256=digest.sha256, size_bytes=digest.size_bytes, caller=caller)


def blobs_named(kind: str, body: Mapping[str, Json]) -> Iterator[Digest]:
    """Give the blobs that an entry says are kept."""
    return kept_of(body, _named(kind, body))


def kept_of(body: Mapping[str, Json], digests: Iterable[Digest]) -> Iterator[Digest]:
    """Give what is kept of contents that the entry names: with secrets in them, something else, or
    nothing."""
    instead = stored_instead(body)
    for digest in digests:
        kept = instead.get(digest.sha256, digest)
        if kept is not None:
            yield kept


def _named(kind: str, body: Mapping[str, Json]) -> Iterator[Digest]:
    if kind == Kind.INTENT:
        yield profile_of(body)
        if "request_blob" in body:
            yield digest_of(as_map(body["request_blob"]))
        if "request_files" in body:
            yield digest_of(as_map(body["request_files"]))
        files = as_map(body["request"])["files"] if "request" in body else []
        yield from (digest_of(as_map(file)) for file in as_list(files))
    elif kind == Kind.OUTCOME:
        if "files_blob" in body:
            yield digest_of(as_map(body["files_blob"]))
        yield from (digest_of(as_map(output)) for output in as_list(body["outputs"]))
    elif kind == Kind.BLOB:
        yield digest_of(body)
    elif kind == Kind.POLICY and "policy_blob" in body:
        yield digest_of(as_map(body["policy_blob"]))


def removals_of(entry: StoredEntry) -> list[Removal]:
    """Give what a `removed` entry says is gone: the contents of calls, and files."""
    body = entry.body()
    return [
        Removal(name=str(name), time_ns=entry.time_ns, why=str(body["why"]))
        for name in (*as_list(body["calls"]), *as_list(body["files"]))
    ]


def has_egress(intent: Mapping[str, Json]) -> bool:
    """Say whether the profile in the body of INTENT let the call out; where it does not say so, it
    was written by a daemon that had no way to."""
    return as_map(intent["profile"]).get("egress", False) is True


def is_encrypted(intent: Mapping[str, Json]) -> bool:
    """Say whether the body of INTENT is that of a call whose content is encrypted."""
    return "encrypted" in intent


def erased_body(call_id: str, caller: Caller, why: str) -> dict[str, Json]:
    """Give the body of the entry that says that the content of a call is erased."""
    return {"caller": caller_to_json(caller), "call": call_id, "why": why}


def erasure_of(entry: StoredEntry) -> tuple[str, Erasure]:
    """Read such an entry: the call, and by whom, when and why."""
    body = entry.body()
    by = str(as_map(body["caller"])["name"])
    return str(body["call"]), Erasure(by=by, time_ns=entry.time_ns, why=str(body["why"]))


def profile_of(intent: Mapping[str, Json]) -> Digest:
    """Read out of the body of INTENT which blob holds the profile."""
    profile = as_map(intent["profile"])
    return Digest(sha256=str(profile["digest"]), size_bytes=_int(profile["size_bytes"]))


def digest_of(data: Mapping[str, Json]) -> Digest:
    """Read a digest out of a body."""
    return Digest(sha256=str(data["sha256"]), size_bytes=_int(data["size_bytes"]))


def _int(value: Json) -> int:
    if not isinstance(value, int):
        raise TypeError(f"not a whole number: {value!r}")
    return value
