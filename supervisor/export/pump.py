"""The pump of one sink: entries out of the log, events into the sink, in order, at least once.

The cursor moves when the other side has acknowledged all events of an entry, or refused one for
ever, which then is a dead letter. Where nobody acknowledges, it stays behind what may not have
arrived (`Sink.trails`), and follows once that is proven. A sink that does not take a batch gets the
same one again, after a wait that grows; one that keeps failing is tried with one event at a time
until it takes that (half-open), so that who comes back is not met by all that waited.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import random
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from supervisor.audit.entry import Kind
from supervisor.export.event import Entry, Event, Format, Head, Opening, uid_of_entry
from supervisor.export.letters import Letter
from supervisor.export.sink import Refused, Rejected, Sink, SinkError
from supervisor.export.tail import Tail

OPENINGS_MAX = 4096
"""Of calls, that are held at a time; others are looked up again."""

ENTRIES_MAX = 50_000
"""In a batch, of which few or none may be events."""

_ENDS = frozenset({Kind.INTENT, Kind.OUTCOME})

OPEN_AFTER = 5
"""Failures in a row, after which events are tried one at a time."""

REFUSED_MAX = 100
"""Events in a row that are refused, after which the other side is taken for ill: from then on they
are tried one at a time, with waits between, so that not all that comes becomes a dead letter."""

REFUSED_WAIT_S = 1.0
"""At most, between those: a tool that has found what is refused must not hold up what follows."""

BUG_TRIES = 3
"""Of a batch on which a sink fails in a way that it should not, before that is taken for a
refusal."""

PROVEN_EVERY_S = 0.25
"""How often it is looked whether what trails has arrived by now."""

log = logging.getLogger("stockade.export")


class Circuit(enum.StrEnum):
    """How a sink does: batches go through; none does, for now; one event is tried."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class PumpOptions:
    """Bounds of a batch, whichever is reached first, and how long to wait after a failure.

    `linger_s` is how old the first entry of a batch may get in waiting for more; `deadline_s` is
    how long a sink may take for one, more than it gives itself.
    """

    batch_events: int = 500
    batch_bytes: int = 1 << 20
    linger_s: float = 0.2
    deadline_s: float = 30.0
    wait_min_s: float = 0.2
    wait_max_s: float = 60.0


class Keeper(Protocol):
    """Who keeps what a pump must not forget, and knows the log."""

    async def durable(self, beyond: int) -> int:
        """Give how many entries of the log are durable, once there are more than `beyond`."""

    async def head(self) -> Head:
        """Give the newest signed head."""

    async def opening(self, call: str) -> Opening | None:
        """Give the INTENT of a call; None where the log has none."""

    async def acknowledged(self, index: int, leaf: str) -> None:
        """Keep that everything below `index` is delivered; `leaf` is of the entry before it."""

    async def refused(self, letters: Sequence[Letter]) -> None:
        """Keep dead letters, durably."""


@dataclass(slots=True, kw_only=True)
class PumpState:
    """What is told of a pump: everything below `sent` was sent, everything below `acknowledged` has
    arrived. Times in seconds since 1970, 0.0 for never."""

    circuit: Circuit = Circuit.CLOSED
    failing_since: float = 0.0
    failures: int = 0
    why: str = ""
    sent: int = 0
    acknowledged: int = 0
    acknowledged_at: float = 0.0
    events: int = 0
    retries: int = 0
    dead: int = 0
    segment: int = 0
    offset: int = 0
    waiting_since: float = 0.0


@dataclass(slots=True)
class _Mark:
    """How far a batch goes: entries from `begin`, below `end`, of which the last has the hash
    `leaf` and ends at `place`, a segment and an offset there. Its first entry is of `since`, in
    seconds since 1970; `taken` is how many events the sink had taken with its last."""

    since: float = 0.0
    begin: int = 0
    end: int = 0
    leaf: str = ""
    place: tuple[int, int] = (0, 0)
    taken: int = 0


@dataclass(slots=True)
class _Batch:
    """Events of whole entries, up to the mark."""

    events: list[Event] = field(default_factory=list)
    size: int = 0
    mark: _Mark = field(default_factory=lambda: _Mark())


class Pump:
    """Takes the log to one sink. `run` goes on until it is cancelled."""

    def __init__(
        self,
        tail: Tail,
        made_by: Format,
        sink: Sink,
        keeper: Keeper,
        options: PumpOptions,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._tail = tail
        self._format = made_by
        self._sink = sink
        self._keeper = keeper
        self._options = options
        self._clock = clock
        self._sleep = sleep
        self._openings: OrderedDict[str, Opening | None] = OrderedDict()
        self._entries: deque[Entry] = deque()
        self._head = Head(size=0, root="")
        self._wait_s = 0.0
        self._taken = 0  # Events, by the sink.
        self._refused_in_a_row = 0
        self._marks: deque[_Mark] = deque()  # Of batches that were sent.
        self._waiting: deque[_Mark] = deque()  # Of all that have an entry.
        self._proving = asyncio.Lock()
        self.turn = asyncio.Lock()
        """Of who uses the sink. Dead letters are sent again with this held."""
        self.state = PumpState()

    async def run(self) -> None:
        """Deliver what is durable, and what becomes so.

        Raises:
            TailError: the log cannot be read on.
            OSError: what has to be kept cannot be.
        """
        self.state.acknowledged = self.state.sent = self._tail.index
        self.state.segment, self.state.offset = self._tail.place
        ready: asyncio.Queue[_Batch] = asyncio.Queue(maxsize=1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fill(ready))
            tasks.create_task(self._drain(ready))
            tasks.create_task(self._prove())

    async def _fill(self, ready: asyncio.Queue[_Batch]) -> None:
        """Make batches, one ahead of what is being sent."""
        while True:
            await ready.put(await self._next_batch())

    async def _drain(self, ready: asyncio.Queue[_Batch]) -> None:
        while True:
            batch = await ready.get()
            await self._deliver(batch.events)
            self.state.events += len(batch.events)
            self.state.sent = batch.mark.end
            batch.mark.taken = self._taken
            self._marks.append(batch.mark)
            await self._acknowledge()

    async def _prove(self) -> None:
        """Follow what trails, while nothing is sent, too."""
        while True:
            await asyncio.sleep(PROVEN_EVERY_S)
            await self._acknowledge()

    async def _acknowledge(self) -> None:
        """Have kept how far everything has arrived."""
        async with self._proving:
            arrived = self._taken - self._sink.trails() if self._marks else 0
            found = None
            while self._marks and self._marks[0].taken <= arrived:
                found = self._marks.popleft()
            if found is not None:
                await self._keeper.acknowledged(found.end, found.leaf)
                self._tell_acknowledged(found)

    def _tell_acknowledged(self, mark: _Mark) -> None:
        while self._waiting and self._waiting[0].end <= mark.end:
            self._waiting.popleft()
        state = self.state
        state.acknowledged, state.acknowledged_at = mark.end, self._clock()
        state.segment, state.offset = mark.place
        state.waiting_since = self._waiting[0].since if self._waiting else 0.0

    async def _next_batch(self) -> _Batch:
        batch, until = _Batch(), None
        while True:
            if not self._entries:
                self._entries.extend(await self._more(until))
                if not self._entries:
                    return batch
                self._head = await self._keeper.head()
            if until is None:
                until = asyncio.get_running_loop().time() + self._options.linger_s
            while self._entries:
                if self._is_full(batch):
                    return batch
                entry, opening = self._entries.popleft(), None
                if entry.call:
                    if entry.kind not in _ENDS:
                        opening = self._openings.get(entry.call)
                    if opening is None:
                        opening = await self._opening(entry)
                if why := self._add(batch, entry, opening):
                    await self._bury([_letter(entry, self._clock(), why)])

    def _is_full(self, batch: _Batch) -> bool:
        return (
            len(batch.events) >= self._options.batch_events
            or batch.size >= self._options.batch_bytes
            or batch.mark.end - batch.mark.begin >= ENTRIES_MAX
        )

    async def _more(self, until: float | None) -> list[Entry]:
        """Give the next entries; where there are none, wait for them, but not longer than `until`
        by the loop's clock."""
        beyond = self._tail.index
        try:
            async with asyncio.timeout_at(until):
                durable = await self._keeper.durable(beyond)
        except TimeoutError:
            return []
        return await self._tail.read(durable)

    def _add(self, batch: _Batch, entry: Entry, opening: Opening | None) -> str:
        """Add the events of an entry; give why it has none that can be sent, "" where it has."""
        events: Sequence[Event] = ()
        why = ""
        try:
            events = self._format.encode(entry, opening, self._head)
        except Exception as error:
            log.exception("entry %d cannot be made into events", entry.index)
            why = f"it cannot be encoded: {error!r}"
        batch.events += events
        for event in events:
            batch.size += len(event.data)
        mark = batch.mark
        if not mark.end:
            mark.begin = entry.index
            mark.since = entry.time_ns / 1e9
            self._waiting.append(mark)
            self.state.waiting_since = self._waiting[0].since
        mark.end, mark.leaf = entry.index + 1, entry.leaf
        mark.place = entry.segment, entry.end
        return why

    async def _opening(self, entry: Entry) -> Opening | None:
        call = entry.call
        if entry.kind == Kind.INTENT:
            self._openings[call] = Opening(entry.index, entry.time_ns, entry.body)
        elif call not in self._openings:
            self._openings[call] = await self._keeper.opening(call)
        self._openings.move_to_end(call)
        opening = self._openings[call]
        if entry.kind == Kind.OUTCOME:
            del self._openings[call]
        elif len(self._openings) > OPENINGS_MAX:
            self._openings.popitem(last=False)
        return opening

    async def _deliver(self, events: Sequence[Event]) -> None:
        """Have a batch taken, or each of its events refused for ever."""
        bugs = 0
        while events:
            # One that comes back after long is not met with all that waited.
            part = events[:1] if self.state.circuit is not Circuit.CLOSED else events
            try:
                async with self.turn, asyncio.timeout(self._options.deadline_s):
                    rejected = await self._sink.send(part)
            except Refused as error:
                await self._refused(part, error)
            except (SinkError, TimeoutError, OSError) as error:
                await self._failed(error)
                continue
            except Exception as error:
                log.exception("a sink failed in a way that it should not")
                bugs += 1
                if bugs < BUG_TRIES:
                    await self._failed(SinkError(repr(error)))
                    continue
                await self._refused(part, Refused(f"the sink fails on it: {error!r}"))
            else:
                self._taken += len(part) - len(rejected)
                await self._bury_rejected(part, rejected)
                if len(rejected) == len(part):
                    await self._doubt(rejected)
                else:
                    self._worked()
            events, bugs = events[len(part) :], 0

    async def _refused(self, events: Sequence[Event], error: Refused) -> None:
        """Try each half of what was refused; an event that is refused alone is a dead letter."""
        if len(events) == 1:
            rejected = [Rejected(0, error.why)]
            await self._bury_rejected(events, rejected)
            await self._doubt(rejected)
            return
        middle = len(events) // 2
        await self._deliver(events[:middle])
        await self._deliver(events[middle:])

    async def _doubt(self, rejected: Sequence[Rejected]) -> None:
        """Note that all of a batch was refused: with many in a row, it is not they who are ill."""
        self._refused_in_a_row += len(rejected)
        if self._refused_in_a_row < REFUSED_MAX:
            self._answered()
        else:
            why = f"it has refused {self._refused_in_a_row} events in a row: {rejected[-1].why}"
            await self._failed(SinkError(why), REFUSED_WAIT_S)

    async def _failed(self, error: Exception, wait_max_s: float = math.inf) -> None:
        state = self.state
        state.failures += 1
        state.retries += 1
        state.why = str(error) or type(error).__name__
        state.failing_since = state.failing_since or self._clock()
        if state.failures == OPEN_AFTER:
            log.warning("it fails: %s", state.why)
        least, most = self._options.wait_min_s, min(self._options.wait_max_s, wait_max_s)
        self._wait_s = min(most, random.uniform(least, max(least, self._wait_s * 3)))  # noqa: S311
        asked_s = error.retry_after_s if isinstance(error, SinkError) else 0.0
        if state.failures >= OPEN_AFTER:
            state.circuit = Circuit.OPEN
        await self._sleep(min(max(self._wait_s, asked_s), most))
        if state.circuit is Circuit.OPEN:
            state.circuit = Circuit.HALF_OPEN

    def _worked(self) -> None:
        self._refused_in_a_row = 0
        self._answered()

    def _answered(self) -> None:
        state = self.state
        if state.failures >= OPEN_AFTER:
            log.info("it works again, after %.0f s", self._clock() - state.failing_since)
        state.circuit, state.failures, state.failing_since, state.why = Circuit.CLOSED, 0, 0.0, ""
        self._wait_s = 0.0

    async def _bury_rejected(self, events: Sequence[Event], rejected: Sequence[Rejected]) -> None:
        now = self._clock()
        await self._bury(
            [
                Letter(
                    index=events[one.position].index,
                    uid=events[one.position].uid,
                    why=one.why,
                    time_ns=round(now * 1e9),
                )
                for one in rejected
            ]
        )

    async def _bury(self, letters: Sequence[Letter]) -> None:
        if letters:
            await self._keeper.refused(letters)
            self.state.dead += len(letters)


def _letter(entry: Entry, now: float, why: str) -> Letter:
    return Letter(
        index=entry.index,
        uid=uid_of_entry(entry),
        why=why,
        time_ns=round(now * 1e9),
    )
