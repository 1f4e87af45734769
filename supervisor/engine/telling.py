"""What the walls, the probes and the broker tell of a call: it goes on record, then to whoever
follows the call, in the order in which it was told, but for what processes did: that has an order
of its own (`processes`). What cannot be recorded ends the call."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from supervisor.audit.recorder import TOLD_AT_ONCE, CallRecorder, Told
from supervisor.call.events import CallEvent, Denied, Flow, Lost, Processes, Wall, Watched
from supervisor.call.outcome import Outcome, Stopped
from supervisor.engine.options import EngineObserver
from supervisor.engine.processes import ProcessLane
from supervisor.errors import StockadeError
from supervisor.profile.model import EffectiveProfile

Happening = Denied | Watched | Flow | Processes | Lost


class Teller:
    """Takes what is told of one call."""

    def __init__(
        self,
        profile: EffectiveProfile,
        observer: EngineObserver,
        record: Callable[[], CallRecorder],
        *,
        executor: concurrent.futures.Executor,
        publish: Callable[[CallEvent], None],
        fail: Callable[[Exception], None],
        stop: Callable[[Outcome], None],
    ) -> None:
        """Use `executor` for what may take long; `fail` and `stop` end the call."""
        self._profile = profile
        self._observer = observer
        self._record = record
        self._publish = publish
        self._fail = fail
        self._stop = stop
        self._processes = ProcessLane(record, executor, publish=publish, fail=fail)

    def denied(self, denied: Denied) -> None:
        """Record and publish a denial."""
        self.take([denied])

    def take(self, events: Sequence[Happening]) -> None:
        """Record and publish events."""
        for batch in _batches(events):
            for event in batch:
                self._observe(event)
            try:
                for recorded in self._recorded(batch):
                    self._publish(recorded)
            except StockadeError as error:
                self._fail(error)
            if any(map(self._kills, batch)):
                self._stop(Stopped(by="daemon", reason="SYSCALL_KILL"))

    def lose(self, count: int) -> None:
        """Record that denied system calls were gone before they could be read.

        Where some kill, one of these may have been among them, so the call ends.
        """
        self.take([Lost(what="denial", count=count, reason="THREAD_GONE")])
        if self._profile.syscalls.kill:
            self._stop(Stopped(by="daemon", reason="SYSCALL_KILL"))

    async def drain(self) -> None:
        """Wait until all that was told is on record."""
        await self._processes.drain()

    def _recorded(self, batch: Sequence[Happening]) -> Sequence[CallEvent]:
        match batch[0]:
            case Processes() as processes:
                self._processes.take(processes)
                return []
            case Lost() as lost:
                return [self._record().lost(lost)]
        return self._record().tell(cast("Sequence[Told]", batch))

    def _observe(self, event: Happening) -> None:
        match event:
            case Denied():
                self._observer.denied(event.wall.value, event.name, event.count)
            case Watched():
                self._observer.watched(event.name, event.count)
            case Flow():
                self._observer.flow(event.verdict.value, event.sent, event.received)
            case Lost():
                self._observer.lost(event.what, event.reason, event.count)

    def _kills(self, event: Happening) -> bool:
        """Say whether the profile has a call end that did this."""
        match event:
            case Denied():
                return event.wall is Wall.SYSCALL and event.name in self._profile.syscalls.kill
            case Watched():
                return event.killed
        return False


def _batches(events: Sequence[Happening]) -> Iterator[Sequence[Happening]]:
    """Give them in their order, those of one type that follow each other together."""
    for kind, group in itertools.groupby(events, type):
        many = list(group)
        most = 1 if kind in (Processes, Lost) else TOLD_AT_ONCE
        yield from (many[begin : begin + most] for begin in range(0, len(many), most))
