"""What a call's processes did, on its way to the record.

A sandbox chooses the arguments of its programs, and so how long it takes to look for secrets in
them: up to half a second for one entry. What may take a while is looked through in a thread, one
entry of a call after the other, in the order in which it was told. Calls take turns there. It goes
on record on the event loop again, so that whoever follows the call gets it in the record's order.
What waits is bounded, and so is how long a call that has ended waits for it: above that, it is
counted as lost. A call is sealed once nothing waits.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

from supervisor.audit.codec import process_bytes, process_kind
from supervisor.audit.recorder import SEARCHED_INLINE_BYTES, CallRecorder
from supervisor.call.events import CallEvent, Lost, Processes

T = TypeVar("T")

WAITING_BYTES_MAX = 4 << 20
"""Of one call, as they are written."""

DRAIN_S = 20.0
"""What waits of a call that has ended may take so long: less than a daemon has to stop."""

BEHIND = "REDACTION_BEHIND"
"""Why what processes did is lost where more came than could be looked through."""


class ProcessLane:
    """Takes what the processes of one call did. All but the looking belongs to the event loop."""

    def __init__(
        self,
        record: Callable[[], CallRecorder],
        executor: concurrent.futures.Executor,
        *,
        publish: Callable[[CallEvent], None],
        fail: Callable[[Exception], None],
    ) -> None:
        """Use `executor` to look; `fail` is told what cannot be recorded."""
        self._record = record
        self._executor = executor
        self._publish = publish
        self._fail = fail
        self._waiting: collections.deque[tuple[Processes, int]] = collections.deque()
        self._bytes = 0
        self._lost: collections.Counter[str] = collections.Counter()
        self._working: asyncio.Task[None] | None = None

    def take(self, processes: Processes) -> None:
        """Record and publish it, now or as soon as it was looked through."""
        size = sum(map(process_bytes, processes.events))
        if self._working is None and (not self._record().searches or size <= SEARCHED_INLINE_BYTES):
            self._try(self._record().processes, processes)
        elif self._bytes + size > WAITING_BYTES_MAX:
            self._lose(processes)
        else:
            self._waiting.append((processes, size))
            self._bytes += size
            if self._working is None:
                self._working = asyncio.ensure_future(self._work())

    async def drain(self) -> None:
        """Wait until all that was taken is on record, or is said to be lost."""
        if self._working is None:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                await asyncio.shield(self._working)
        except TimeoutError:
            for processes, size in self._waiting:
                self._lose(processes)
                self._bytes -= size
            self._waiting.clear()
            await asyncio.shield(self._working)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            processes, size = self._waiting.popleft()
            try:
                look = self._record().shown_processes
                shown = await loop.run_in_executor(self._executor, look, processes)
                self._publish(self._record().processes(processes, shown))
            except Exception as error:  # noqa: BLE001 (the call ends; what follows is tried all the same)
                self._fail(error)
            self._bytes -= size
            self._tell_lost()
        self._working = None

    def _lose(self, processes: Processes) -> None:
        self._lost.update(process_kind(event) for event in processes.events)

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, collections.Counter()
        for what, count in lost.items():
            self._try(self._record().lost, Lost(what=what, count=count, reason=BEHIND))

    def _try(self, recorded: Callable[[T], CallEvent], told: T) -> None:
        try:
            self._publish(recorded(told))
        except Exception as error:  # noqa: BLE001 (as above)
            self._fail(error)
