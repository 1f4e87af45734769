"""What a store without encryption has of what encryption needs."""

from __future__ import annotations

from typing import Any

from supervisor.audit.files import FileWriter, upload
from supervisor.audit.index import CallSummary
from supervisor.audit.masks import Masks
from supervisor.audit.vault import Erasure
from supervisor.call.types import Caller, Digest

ERASED_NS = 10**18


class FakeRecords:
    """Records of calls without encryption."""

    def __init__(self) -> None:
        self.sealed: dict[Digest, Digest] = {}
        self.secret: dict[str, CallSummary] = {}

    def restored(self, summary: CallSummary) -> CallSummary:
        return self.secret.get(summary.call_id, summary)

    def blob_named(self, digest: Digest, caller: str) -> Digest | None:
        return self.sealed.get(digest, digest)


class FakeEraser:
    """Erases once, and remembers what it was asked."""

    def __init__(self) -> None:
        self.erased: dict[str, Erasure] = {}

    async def erase(self, call_id: str, caller: Caller, why: str) -> Erasure:
        return self.erased.setdefault(call_id, Erasure(by=caller.name, time_ns=ERASED_NS, why=why))


class FakeLocker:
    """Contents of calls without encryption: whatever the store's blobs are now."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def upload(self, caller: str, masks: Masks, expected: Digest) -> FileWriter:
        return upload(self._store.blobs, masks, expected, caller)

    def uploaded(self, caller: str, digest: Digest, stored: Digest) -> None:
        assert digest == stored

    def open(self, caller: str, digest: Digest) -> Any:
        return self._store.blobs.open(digest)

    def has(self, caller: str, digest: Digest) -> bool:
        return self._store.blobs.holds(digest)

    def content(self, caller: str, digest: Digest) -> Digest | None:
        return None
