"""What is known of contents that went, or may go: for whoever asks the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from supervisor.audit.blobs import SEALED_SUFFIX
from supervisor.audit.entry import Kind
from supervisor.audit.holdings import blob_name
from supervisor.audit.index import Index
from supervisor.audit.own import OwnEntries
from supervisor.audit.retention import Plan, Retention
from supervisor.audit.vault import Removal, content_erased, content_removed
from supervisor.call.types import Digest, Json
from supervisor.errors import CallStateError


class Contents:
    """The contents of one open state directory; `retention` is None where everything is kept.
    `turn` is had by whoever erases a call, too."""

    def __init__(
        self, index: Index, own: OwnEntries, retention: Retention | None, turn: asyncio.Lock
    ) -> None:
        self._index = index
        self._own = own
        self._retention = retention
        self._turn = turn

    def start(self) -> None:
        """Begin to remove what is not to be kept."""
        if self._retention is not None:
            self._retention.start()

    def close(self) -> None:
        """Remove nothing any more. Blocks, for as long as one step takes."""
        if self._retention is not None:
            self._retention.close()

    def plan(self) -> Plan:
        """Say what would be removed now, and why not more. Reads the disk.

        Raises:
            CallStateError: `RETENTION_OFF`.
        """
        if self._retention is None or not self._retention.is_on:
            raise CallStateError(
                "RETENTION_OFF",
                "everything is kept: the configuration has no `record: {retain: …}`",
            )
        return self._retention.plan()

    async def hold(self, call_id: str, body: Mapping[str, Json], *, release: bool = False) -> int:
        """Write, durably, that the contents of a call are held once more, or once less; give how
        often they are then. At 0 they may go again.

        Raises:
            CallStateError: `CONTENT_REMOVED`, `CONTENT_ERASED`, where there is nothing left to
                hold; `NOT_HELD`, where there is nothing to release.
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`.
        """
        async with self._turn:
            await asyncio.to_thread(self._write_hold, call_id, body, release)
            holds = self._index.holds(call_id)
        await self._own.commit()
        return holds

    def _write_hold(self, call_id: str, body: Mapping[str, Json], release: bool) -> None:
        deciding = self._retention.deciding if self._retention else contextlib.nullcontext()
        with deciding:  # what goes next is decided with this in the log
            if release:
                self._require_held(call_id)
            else:
                self._require_content(call_id)
            kind, change = (Kind.RELEASED, -1) if release else (Kind.HELD, 1)
            told = {"call": call_id, **body, "why": self._own.chosen.json(body["why"])}
            self._index.change_holds(
                call_id, change, lambda: self._own.append(kind, told, reserved=True).index
            )

    def _require_held(self, call_id: str) -> None:
        if not self._index.holds(call_id):
            raise CallStateError(
                "NOT_HELD", f"nobody holds what call {call_id} left: there is nothing to release"
            )

    def _require_content(self, call_id: str) -> None:
        removed, erased = self._index.removal(call_id), self._index.erasure(call_id)
        if removed is not None:
            told = content_removed(call_id, removed)
        elif erased is not None:
            told = content_erased(call_id, erased)
        else:
            return
        raise CallStateError(told.reason, f"{told.message}: there is nothing to hold")

    def removal(self, call_id: str) -> Removal | None:
        """Give when and why the contents of a call were removed; None where they were not."""
        return self._index.removal(call_id)

    def blob_removal(self, digest: Digest) -> Removal | None:
        """Give when and why a blob was removed; None where it was not. It may be there again."""
        plain, sealed = blob_name(digest.sha256), digest.sha256 + SEALED_SUFFIX
        return self._index.removal(plain) or self._index.removal(sealed)
