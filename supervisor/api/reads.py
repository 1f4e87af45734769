"""Who reads the record is on record, before the answer is given.

One entry speaks for a request and for the pages that follow it, for a while: a page is a request of
its own, and anybody can ask for a later page first. So a page without an entry of the same process
for the same thing gets one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol

from supervisor.api import callers
from supervisor.audit.chosen import Chosen
from supervisor.audit.codec import caller_to_json
from supervisor.call.types import Json, canonical_json

SPAN_S = 60.0
"""How long an entry speaks for the pages that follow."""

SPANS_MAX = 1024
"""Reads that are known to have an entry; beyond it, the oldest is forgotten, and noted again."""

TEXT_MAX = 256
"""Characters of what a caller looked for: the beginning tells enough, and an entry is small."""


class Writer(Protocol):
    """Where reads are written: `audit.own.OwnEntries`."""

    chosen: Chosen

    async def note_read(self, body: Mapping[str, Json]) -> None: ...  # noqa: D102


class Reads:
    """Writes `read` entries. `clock_s` never goes back."""

    def __init__(self, writer: Writer, clock_s: Callable[[], float]) -> None:
        self._writer = writer
        self._clock_s = clock_s
        self._spans: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._spans)

    async def note(self, rpc: str, of: Mapping[str, Json], *, following: int | str = "") -> None:
        """Make durable that the caller of this request reads `of` by `rpc`.

        `following` says from where on, where it is a page that follows another; none is needed
        then if there is an entry of that one.

        Raises:
            AuditUnavailable: `RECORD_FULL`, `JOURNAL_UNAVAILABLE`; the read is to be refused.
        """
        body: dict[str, Json] = {
            "caller": caller_to_json(callers.current().caller),
            "rpc": rpc,
            "of": dict(of),
        }
        key = hashlib.sha256(canonical_json(body)).digest()
        body["of"] = _clip(self._writer.chosen.json(dict(of)))
        if following and self._clock_s() < self._spans.get(key, 0.0):
            return  # the entry of the first page says so
        if following:
            body["from"] = following
        await self._writer.note_read(body)
        self._remember(key)

    def _remember(self, key: bytes) -> None:
        self._spans.pop(key, None)
        if len(self._spans) >= SPANS_MAX:
            del self._spans[next(iter(self._spans))]
        self._spans[key] = self._clock_s() + SPAN_S


def _clip(value: Json) -> Json:
    if isinstance(value, str):
        return value if len(value) <= TEXT_MAX else value[:TEXT_MAX] + "…"
    return {name: _clip(one) for name, one in value.items()} if isinstance(value, dict) else value
