"""The daemon's own entries in memory, and the log as who exports it knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from supervisor.audit.chosen import Chosen
from supervisor.audit.entry import Head, Position, StoredEntry, encode_entry, leaf_hash
from supervisor.audit.masks import Masks
from supervisor.audit.own import OwnFilter
from supervisor.call.types import Json

START_NS = 1_700_000_000_000_000_000
NANOS = 10**9


class FakeOwn:
    """The daemon's own entries; `failure` is why none can be written, `fail` why none read."""

    def __init__(self, fail: Callable[[], None] = lambda: None) -> None:
        self._fail = fail
        self.written: list[tuple[str, dict[str, Any]]] = []
        self.chosen = Chosen(Masks(b"k" * 32))
        self.failure: Exception | None = None

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [body for found, body in self.written if found == kind]

    def append(self, kind: str, body: Mapping[str, Json]) -> None:
        if self.failure is not None:
            raise self.failure
        self.written.append((kind, dict(body)))

    def find(self, wanted: OwnFilter, *, limit: int, token: str) -> tuple[list[StoredEntry], str]:
        self._fail()
        wanted.check()
        before = int(token) if token else len(self.written)
        entries = [
            _own_entry(index, kind, body)
            for index, (kind, body) in enumerate(self.written[:before])
            if wanted.kind in ("", kind)
        ][::-1]
        found = entries[:limit]
        return found, str(found[-1].index) if len(entries) > limit else ""

    async def note_read(self, body: Mapping[str, Json], *, kind: str = "read") -> None:
        self.append(kind, body)

    async def note(self, kind: str, body: Mapping[str, Json]) -> StoredEntry:
        self.append(kind, body)
        return _own_entry(len(self.written) - 1, kind, body)


def _own_entry(index: int, kind: str, body: Mapping[str, Json]) -> StoredEntry:
    head = Head(index=index, prev=bytes(32), time_ns=START_NS, kind=kind, call="", sequence=0)
    json = encode_entry(head, body)
    return StoredEntry(
        head=head, json=json, leaf=leaf_hash(json).hex(), position=Position(segment=0, offset=0)
    )


class FakeOutlet:
    """The log as exporters know it: an entry each second, that of a call where it is odd."""

    def __init__(self, entries: int) -> None:
        self.entries = entries

    def since(self, time_ns: int) -> int | None:
        index = max(0, -((START_NS - time_ns) // NANOS))
        return index if index < self.entries else None

    def told(self, index: int) -> tuple[str, str]:
        return ("output", f"call-{index}") if index % 2 else ("read", "")
