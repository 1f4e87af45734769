"""Dead letters, sent again once what they were refused for is gone.

Each entry is read again from the log and made into events anew, so that a letter needs none of its
bytes, and gets those of the format as it is now. Letters go one by one, in the order of the log:
what is refused again is refused alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from supervisor.export.event import Entry, Format, Head, Opening
from supervisor.export.letters import Letter
from supervisor.export.sink import Refused, Sink, SinkError
from supervisor.export.tail import Segments, Tail, TailError

SEND_S = 60.0
PROVEN_S = 60.0
"""How long it is waited for that nothing trails any more, where nobody acknowledges."""

LOOK_S = 0.05

log = logging.getLogger("stockade.export")


class Log(Segments, Protocol):
    """The log as the process of a sink knows it."""

    async def head(self) -> Head:
        """Give the newest signed head."""

    async def opening(self, call: str) -> Opening | None:
        """Give the INTENT of a call; None where the log has none."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of letters: `delivered` are uids, `refused` the letters that were refused again,
    with the new why. `stopped` says why the others were not tried, or cannot be told; "" where all
    were."""

    delivered: list[str] = field(default_factory=list)
    refused: list[Letter] = field(default_factory=list)
    stopped: str = ""


async def send_again(
    letters: Sequence[Letter],
    source: Log,
    made_by: Format,
    sink: Sink,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Outcome:
    """Send letters; they are kept by who calls. Stops at the first that may be taken later."""
    outcome = Outcome()
    tail = Tail(source)
    entry: Entry | None = None
    try:
        for letter in sorted(letters, key=lambda one: (one.index, one.uid)):
            if entry is None or entry.index != letter.index:
                entry, why = await _read(letter.index, tail)
            if entry is not None:
                why = await _one(letter, entry, source, made_by, sink)
            if why:
                outcome.refused.append(replace(letter, why=why, time_ns=clock_ns()))
            else:
                outcome.delivered.append(letter.uid)
        await _arrived(sink)
    except (SinkError, TimeoutError, OSError) as error:
        outcome.stopped = str(error) or "nothing came of it in time"
        if sink.trails():  # They may not have arrived.
            outcome.delivered.clear()
    finally:
        tail.close()
    return outcome


async def _read(index: int, tail: Tail) -> tuple[Entry | None, str]:
    """Read an entry; where that cannot be, say why."""
    try:
        await tail.seek(index)
        (entry,) = await tail.read(index + 1)
    except TailError as error:
        return None, f"its entry cannot be read: {error}"
    return entry, ""


async def _one(letter: Letter, entry: Entry, source: Log, made_by: Format, sink: Sink) -> str:
    """Send what a letter is of; give why it is refused, "" where it is not."""
    opening, head = await source.opening(entry.call) if entry.call else None, await source.head()
    try:
        made = made_by.encode(entry, opening, head)
    except Exception as error:
        log.exception("entry %d cannot be made into events", letter.index)
        return f"it cannot be encoded: {error!r}"
    events = [event for event in made if letter.is_of(event.uid)]
    if not events:
        return "its entry makes no such event any more"
    for event in events:
        try:
            async with asyncio.timeout(SEND_S):
                rejected = await sink.send([event])
        except Refused as error:
            return error.why
        if rejected:
            return rejected[0].why
    return ""


async def _arrived(sink: Sink) -> None:
    """Wait until nothing of what was sent trails."""
    async with asyncio.timeout(PROVEN_S):
        while sink.trails():  # noqa: ASYNC110 (time alone proves it)
            await asyncio.sleep(LOOK_S)
