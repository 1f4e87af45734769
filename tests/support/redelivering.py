"""Dead letters sent again by a test itself, without the process of a sink in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from supervisor.export.event import Format, Head, Opening
from supervisor.export.letters import Letters
from supervisor.export.redeliver import Log, Outcome, send_again
from supervisor.export.sink import Sink


class Source(Protocol):
    """The log as the daemon knows it; `opening` reads the disk."""

    def head(self) -> tuple[int, str]:
        """Give the newest signed head: how many entries, and their root in hexadecimal."""

    def firsts(self) -> Sequence[int]:
        """Give the first indices of all segments."""

    def open(self, first: int) -> int:
        """Open a segment for reading."""

    def opening(self, call: str) -> tuple[int, int, Mapping[str, Any]] | None:
        """Give index, time and body of the INTENT of a call."""


async def redeliver(
    letters: Letters, uids: Sequence[str] | None, source: Log, made_by: Format, sink: Sink
) -> Outcome:
    """Send letters that wait, those of `uids` or all of them, and note what became of each. Nobody
    else may use the sink meanwhile.

    Raises:
        KeyError: a uid is of no letter that waits.
        OSError: what became of them cannot be noted; they are as they were.
        ValueError: the file of the letters is damaged.
    """
    waiting = {letter.uid: letter for letter in await asyncio.to_thread(letters.waiting)}
    chosen = list(waiting.values()) if uids is None else [waiting[uid] for uid in uids]
    outcome = await send_again(chosen, source, made_by, sink)
    await asyncio.to_thread(letters.delivered, outcome.delivered, time.time_ns())
    await asyncio.to_thread(letters.add, outcome.refused)
    return outcome


class Direct:
    """A `Log` of what the daemon knows."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def firsts(self) -> Sequence[int]:
        """Give the first indices of all segments."""
        return self._source.firsts()

    async def open(self, first: int) -> int:
        """Open a segment for reading."""
        return self._source.open(first)

    async def head(self) -> Head:
        """Give the newest signed head."""
        return Head(*self._source.head())

    async def opening(self, call: str) -> Opening | None:
        """Look up the INTENT of a call."""
        found = await asyncio.to_thread(self._source.opening, call)
        return None if found is None else Opening(*found)
