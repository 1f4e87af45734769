"""Follow one call: first what is on record, then what happens.

A reader that is slow holds the program up through a bounded queue; one that takes nothing for too
long is let go with a Lost event, since the record has everything and it can attach again.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace

from supervisor.call.events import (
    SLOW_SUBSCRIBER,
    Accepted,
    CallEvent,
    Denied,
    Finished,
    Flow,
    KeepAlive,
    Lost,
    Output,
    Processes,
)
from supervisor.errors import StockadeError

OVERFULL_BYTES = 8 << 20
REPLAY_EVENTS = 64
EVENT_BYTES = 256
"""What an event counts for without what a sandbox chose of it."""


def size_of(event: CallEvent) -> int:
    """Give what an event counts for in a queue, in bytes."""
    match event.event:
        case Output(data=data):
            return EVENT_BYTES + len(data)
        case Processes(events=events):
            return EVENT_BYTES * (1 + len(events))
        case Denied(detail=detail):
            return EVENT_BYTES + len(detail)
        case Flow(name=name, reason=reason):
            return EVENT_BYTES + len(name) + len(reason)
    return EVENT_BYTES


def _has_entry(event: CallEvent) -> bool:
    """Say whether the sequence is the event's own; the others repeat the last."""
    match event.event:
        case Output(truncated=truncated):
            return not truncated
        case KeepAlive() | Lost():
            return False
    return True


def _batch(recorded: Iterator[CallEvent]) -> list[CallEvent]:
    events: list[CallEvent] = []
    for event in recorded:
        events.append(event)
        if len(events) >= REPLAY_EVENTS or isinstance(event.event, Output):
            break
    return events


class Queue:
    """What waits for one reader."""

    def __init__(self, bytes_max: int) -> None:
        self._events: collections.deque[CallEvent] = collections.deque()
        self._bytes_max = bytes_max
        self._bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._taken = 0
        self.ended = False
        self.failure: StockadeError | None = None

    def put(self, event: CallEvent) -> None:
        """Add an event; `room` waits where that was more than fits."""
        if self.ended:
            return
        self._events.append(event)
        self._bytes += size_of(event)
        if self._bytes > self._bytes_max:
            self._room.clear()
        self._changed.set()

    @property
    def overfull(self) -> bool:
        """Say whether far more waits than fits: events that nobody held up for this reader."""
        return self._bytes > self._bytes_max + OVERFULL_BYTES

    def let_go(self, last: CallEvent) -> None:
        """Throw away what waits and say so: the record has it, and the reader can attach again."""
        lost = Lost(what="output", count=len(self._events), reason=SLOW_SUBSCRIBER)
        self._events.clear()
        self._bytes = 0
        self._room.set()
        event = replace(last, event=lost)
        self._events.append(event)
        self._bytes += size_of(event)
        self._changed.set()
        self.end()

    def expire(self, stall_s: float, last: CallEvent, seen: int | None = None) -> None:
        """Let an ended reader go that takes nothing for so long."""
        if not self._events or len(self._events) == 1:
            return
        if seen == self._taken:
            self.let_go(last)
            return
        loop = asyncio.get_running_loop()
        loop.call_later(stall_s, self.expire, stall_s, last, self._taken)

    def end(self, failure: StockadeError | None = None) -> None:
        """Say that nothing comes any more, and why; the first word stands."""
        if not self.ended:
            self.ended, self.failure = True, failure
        self._room.set()
        self._changed.set()

    @property
    def has_room(self) -> bool:
        """Say whether more can be put without waiting."""
        return self._room.is_set()

    async def room(self, timeout_s: float) -> bool:
        """Wait for room; say whether there is any."""
        if self._room.is_set():
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._room.wait()
        except TimeoutError:
            return False
        return True

    async def get(self, timeout_s: float) -> CallEvent | None:
        """Take the next event; None where none came in time.

        Raises:
            StopAsyncIteration: nothing comes any more.
        """
        if not self._events and not self.ended:
            self._changed.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return None
        if self._events:
            event = self._events.popleft()
            self._taken += 1
            self._bytes -= size_of(event)
            if self._bytes <= self._bytes_max:
                self._room.set()
            return event
        if self.failure is not None:
            raise self.failure
        raise StopAsyncIteration


class Subscription:
    """The events of one call, from a sequence on. Iterate over it; close it."""

    def __init__(
        self,
        call_id: str,
        *,
        recorded: Iterable[CallEvent],
        queue: Queue | None,
        keep_alive_s: float,
        attached: bool,
        first: int = 1,
        on_close: Callable[[], None],
    ) -> None:
        self.call_id = call_id
        self.attached = attached
        self._in_memory = isinstance(recorded, tuple)
        self._recorded = iter(recorded)
        self._queue = queue
        self._keep_alive_s = keep_alive_s
        self._on_close = on_close
        self._first = first
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[CallEvent]:
        """Give the events in order; the last is Finished, or Lost where the reader was let go."""
        sequence = 0
        async for event in self._replay():
            sequence = event.sequence
            yield self._mark(event)
        if self._queue is None:
            return
        while True:
            try:
                following = await self._queue.get(self._keep_alive_s)
            except StopAsyncIteration:
                return
            if following is None:
                now = time.time_ns()
                following = CallEvent(
                    call_id=self.call_id, sequence=sequence, time_ns=now, event=KeepAlive()
                )
            sequence = following.sequence
            if sequence < self._first and _has_entry(following):
                continue  # recorded before, and published only now
            yield self._mark(following)
            if isinstance(following.event, Finished):
                return

    async def _replay(self) -> AsyncIterator[CallEvent]:
        """Read the record in a thread: it may be long, and others' entries lie in between."""
        if self._in_memory:
            for event in self._recorded:
                yield event
            return
        while batch := await asyncio.to_thread(_batch, self._recorded):
            for event in batch:
                yield event

    def _mark(self, event: CallEvent) -> CallEvent:
        if self.attached and isinstance(event.event, Accepted):
            return replace(event, event=replace(event.event, attached=True))
        return event

    async def close(self) -> None:
        """Stop following. Where the call was to end with its caller, it ends now."""
        if not self._closed:
            self._closed = True
            self._on_close()


class Subscribers:
    """The readers of one live call."""

    def __init__(self, bytes_max: int, stall_s: float) -> None:
        self._queues: list[Queue] = []
        self._bytes_max = bytes_max
        self._stall_s = stall_s
        self._ended = False
        self._failure: StockadeError | None = None
        self.last_sequence = 0

    def add(self) -> Queue:
        """Add a reader; it gets what is published from now on."""
        queue = Queue(self._bytes_max)
        if self._ended:
            queue.end(self._failure)
        self._queues.append(queue)
        return queue

    def remove(self, queue: Queue) -> None:
        """Let a reader go."""
        if queue in self._queues:
            self._queues.remove(queue)
        queue.end()

    def put(self, event: CallEvent) -> None:
        """Give an event to every reader."""
        self.last_sequence = max(self.last_sequence, event.sequence)
        for queue in list(self._queues):
            queue.put(event)
            if queue.overfull:
                self._let_go(queue, event)

    async def room(self, last: CallEvent) -> None:
        """Wait until every reader has room, and let those go that take nothing meanwhile.

        All of them have the same time: many slow readers hold a call up no longer than one.
        """
        queues = [queue for queue in self._queues if not queue.has_room]
        for queue, found in zip(
            queues,
            await asyncio.gather(*(queue.room(self._stall_s) for queue in queues)),
            strict=True,
        ):
            if not found:
                self._let_go(queue, last)

    def _let_go(self, queue: Queue, last: CallEvent) -> None:
        queue.let_go(last)
        self.remove(queue)

    def close(self, last: CallEvent) -> None:
        """Publish the last event; a reader that does not come for it does not keep the rest."""
        self.put(last)
        for queue in self._queues:
            queue.expire(self._stall_s, last)

    def end(self, failure: StockadeError | None = None) -> None:
        """Say to every reader that nothing comes any more, and why; the first word stands."""
        if not self._ended:
            self._ended, self._failure = True, failure
        for queue in self._queues:
            queue.end(failure)
