"""Read calls out of a state folder, without a daemon and without writing anything.

The log is read from its beginning and its chain is checked on the way, so what is given is what
`audit verify` would accept up to there. A daemon may write meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from supervisor.audit.account import profile_of
from supervisor.audit.blobs import BlobStore
from supervisor.audit.directory import BLOBS_NAME, LOG_NAME, is_locked
from supervisor.audit.entry import Kind, StoredEntry
from supervisor.audit.verify_log import LogCheck, Problem
from supervisor.errors import AuditCorrupt, InvariantError, NotFound, StockadeError


def read_calls(directory: Path, call_ids: Sequence[str]) -> dict[str, list[StoredEntry]]:
    """Give the entries of each of the calls, in order.

    Raises:
        NotFound: `RECORD_NOT_FOUND`.
        AuditCorrupt: `RECORD_DAMAGED`.
        OSError: the folder cannot be read.
    """
    found: dict[str, list[StoredEntry]] = {call_id: [] for call_id in call_ids}
    for entry in LogCheck(directory / LOG_NAME, _damaged, live=is_locked(directory)).entries():
        if entry.call_id and entry.call_id in found:  # what belongs to no call is of no call
            found[entry.call_id].append(entry)
    for call_id, entries in found.items():
        if not entries:
            raise NotFound("RECORD_NOT_FOUND", f"there is no record of call {call_id[:80]!r}")
    return found


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


def _damaged(problem: Problem) -> None:
    raise AuditCorrupt("RECORD_DAMAGED", str(problem), hint="stockade audit verify names it all")


def _never(what: str, error: OSError) -> StockadeError:
    return InvariantError("OFFLINE_WROTE", f"reading wrote: {what}: {error}")
