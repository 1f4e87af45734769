"""Erasing the content of a call: its key goes, and an entry says by whom and why.

The entry is durable first. Where the daemon dies between the two, the next one reads the entry and
destroys the key before it does anything else: until then, the place from which the log is read
again does not go past the entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.audit.account import erased_body, erasure_of, is_encrypted
from supervisor.audit.entry import Kind, StoredEntry
from supervisor.audit.locker import Locker
from supervisor.audit.own import OwnEntries
from supervisor.audit.records import Records
from supervisor.audit.vault import Erasure
from supervisor.call.types import Caller
from supervisor.errors import CallStateError

InThread = Callable[[Callable[[], None]], asyncio.Future[None]]


class Eraser:
    """Erases, one call at a time; `remember` puts an erasure into the index."""

    def __init__(
        self,
        own: OwnEntries,
        records: Records,
        locker: Locker,
        in_thread: InThread,
        remember: Callable[[str, Erasure], None],
    ) -> None:
        self._own = own
        self._records = records
        self._locker = locker
        self._in_thread = in_thread
        self._remember = remember
        self.turn = asyncio.Lock()
        """Had by whoever erases a call, or holds what it left."""
        self.pending: list[StoredEntry] = []
        """Entries whose keys may still be there."""

    async def erase(self, call_id: str, caller: Caller, why: str) -> Erasure:
        """Erase the content of a call that has ended: the entry that says so is durable when this
        returns, and the key is gone. Who did it first did it for good.

        Raises:
            NotFound: `RECORD_NOT_FOUND`.
            CallStateError: `CALL_NOT_CLOSED`, `NOT_ENCRYPTED`, `CONTENT_HELD`.
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
            AuditCorrupt: `CHAIN_BROKEN`.
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`; the next start destroys the key.
        """
        intent = self._records.intent(call_id)
        row = self._records.row(call_id)
        if row is None or row.summary.finished is None:
            raise CallStateError(
                "CALL_NOT_CLOSED",
                f"call {call_id} has not ended: what it does is still being recorded",
                hint="stop it, or erase it once it has ended",
            )
        if not is_encrypted(intent.body()):
            raise CallStateError(
                "NOT_ENCRYPTED",
                f"the content of call {call_id} was kept without a key: there is none to delete",
                hint="record: {recipients: […]} in the configuration encrypts what comes next",
            )
        async with self.turn:
            return await self._erase(call_id, caller, why)

    async def _erase(self, call_id: str, caller: Caller, why: str) -> Erasure:
        vault = self._locker.vault
        known = vault.erasure(call_id)
        if known is not None:
            if vault.has(call_id):  # it could not be destroyed then
                await self._in_thread(lambda: vault.destroy(call_id))
            return known
        holds = self._records.holds(call_id)
        if holds:
            raise content_held(call_id, holds)
        body = erased_body(call_id, caller, self._own.chosen.text(why))
        entry = await self._own.note(Kind.ERASED, body, began=self.pending.append)
        _, erased = erasure_of(entry)
        # Known as erased first: who reads the key of the disk meanwhile looks at that again, once
        # it is where `forget` finds it.
        self._remember(call_id, erased)
        self._locker.forget(call_id)
        await self._in_thread(lambda: vault.destroy(call_id))
        self.pending.remove(entry)
        return erased


def content_held(call_id: str, holds: int) -> CallStateError:
    """Make the error for content that somebody holds."""
    return CallStateError(
        "CONTENT_HELD",
        f"what call {call_id} left is held{f', {holds} times' if holds > 1 else ''}: it is not "
        "erased",
        hint=f"release it first: stockade audit release --why … {call_id}; who holds it, and why: "
        "stockade audit log --kind held",
        metadata={"call_id": call_id, "holds": str(holds)},
    )
