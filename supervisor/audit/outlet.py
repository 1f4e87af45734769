"""The log for who exports it: how far it is durable and signed, its segments, and who began a call.

What is durable is given out once a signed head covers it, so that every event that leaves can be
proven. A key that cannot sign holds it up for `PATIENCE_S` and no longer.
"""

from __future__ import annotations

import bisect
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from supervisor.audit.entry import Position
from supervisor.audit.journal import Journal
from supervisor.audit.reading import read_log, read_payloads
from supervisor.audit.records import Records
from supervisor.audit.segment import MAGIC, segment_name
from supervisor.audit.tree import LogTree
from supervisor.call.types import Json
from supervisor.errors import NotFound

PATIENCE_S = 5.0


class Signing(NamedTuple):
    """How many entries are durable, how many the published head covers, and whether the key could
    not sign the one that was due."""

    durable: int
    signed: int
    unsigned: bool


class Outlet:
    """Reads one open log. `opening`, `since` and `told` read the disk; may be used from any
    thread."""

    def __init__(
        self,
        journal: Journal,
        tree: LogTree,
        records: Records,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._tree = tree
        self._records = records
        self._clock = clock
        self._signed = -1
        self._signed_at = 0.0

    @property
    def origin(self) -> str:
        """Give the log's name, as its heads have it."""
        return self._tree.key.name

    def durable(self) -> int:
        """Give how many entries may leave."""
        signed, settled = self._tree.published.size, self._journal.settled
        if signed != self._signed:
            self._signed, self._signed_at = signed, self._clock()
        if signed < settled and self._clock() - self._signed_at < PATIENCE_S:
            return signed
        return settled

    def signing(self) -> Signing:
        """Give how far the log is durable and signed."""
        signed = self._tree.published.size
        return Signing(self._journal.settled, signed, self._tree.unsigned is not None)

    def head(self) -> tuple[int, str]:
        """Give the newest head that is signed and published: how many entries, and their root in
        hexadecimal."""
        head = self._tree.published
        return head.size, head.root.hex()

    def firsts(self) -> Sequence[int]:
        """Give the first indices of all segments."""
        return self._journal.segments

    def open(self, first: int) -> int:
        """Open a segment for reading.

        Raises:
            OSError: as the kernel says.
        """
        path = self._journal.directory / segment_name(first)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def beyond(self, segment: int, offset: int) -> int:
        """Give how many bytes of the log lie behind a place in it.

        Raises:
            OSError: as the kernel says.
        """
        tail = self._journal.tail
        if (segment, offset) >= (tail.segment, tail.offset):
            return 0
        size = tail.offset - offset
        for first in self._journal.segments:
            if segment <= first < tail.segment:
                size += (self._journal.directory / segment_name(first)).stat().st_size
        return size

    def opening(self, call: str) -> tuple[int, int, Mapping[str, Json]] | None:
        """Give index, time and body of the INTENT of a call; None where there is none.

        Raises:
            AuditCorrupt: `CHAIN_BROKEN`.
        """
        try:
            intent = self._records.intent(call)
        except NotFound:
            return None
        return intent.index, intent.time_ns, intent.body()

    def since(self, time_ns: int) -> int | None:
        """Give the index of the first entry that was written at a time or later; None where there
        is none. Where the clock was set back, there may be earlier ones behind it.

        Raises:
            AuditCorrupt: `CHAIN_BROKEN`.
            CapacityError: `FDS_EXHAUSTED`, `MEMORY_EXHAUSTED`.
        """
        segments = self._journal.segments
        behind = bisect.bisect_left(segments, time_ns, key=self._begun)
        start = Position(segment=segments[max(0, behind - 1)], offset=len(MAGIC))
        entries = read_log(self._journal, start)
        return next((entry.index for entry in entries if entry.time_ns >= time_ns), None)

    def told(self, index: int) -> tuple[str, str]:
        """Give kind and call of an entry, "" for none; raises as `since`."""
        entry = json.loads(next(read_payloads(self._journal, index), b"{}"))
        return str(entry.get("kind", "")), str(entry.get("call", ""))

    def _begun(self, first: int) -> int:
        """Give when the first entry of a segment was written; nobody knows of one that is empty."""
        entries = read_log(self._journal, Position(segment=first, offset=len(MAGIC)))
        return next((entry.time_ns for entry in entries), sys.maxsize)
