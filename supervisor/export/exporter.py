"""The daemon's side of its sinks: a process for each, what it may know of the log, and what it must
not forget.

The process of a sink that ends is started again, after a wait that grows. Cursors are kept twice a
second: a daemon that is killed sends again what was taken since. What a sink's process says of
itself is told by `states`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from supervisor.audit.cursors import Cursor, CursorError, CursorMissing, Cursors
from supervisor.audit.space import make_folder
from supervisor.errors import StockadeError
from supervisor.export.build import Order
from supervisor.export.channel import Channel, ChannelClosed, Message, pair
from supervisor.export.event import Head
from supervisor.export.letters import Letter, Letters
from supervisor.linux import process
from supervisor.linux.fds import wait_readable

LOOK_S = 0.05
"""How often it is looked whether the log has grown."""

KEEP_S = 0.5
AGAIN_MIN_S, AGAIN_MAX_S = 1.0, 60.0
LETTERS_NAME = "export"
PATIENCE_S = 5.0
"""For the process of a sink to part from the other side, before it is killed."""

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_END_FD = 3
_ENTRY = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from supervisor.export import worker; worker.main()"
)
"""The process imports this very package, wherever the daemon was started."""

log = logging.getLogger("stockade.export")


class LogSource(Protocol):
    """The log, as far as exporting needs it. `opening` reads the disk."""

    def durable(self) -> int:
        """Give how many entries are durable."""

    def head(self) -> Head:
        """Give the newest signed head."""

    def firsts(self) -> Sequence[int]:
        """Give the first indices of all segments."""

    def open(self, first: int) -> int:
        """Open a segment for reading."""

    def opening(self, call: str) -> tuple[int, int, Mapping[str, Any]] | None:
        """Give index, time and body of the INTENT of a call."""


@dataclass(slots=True, kw_only=True)
class SinkState:
    """How a sink does. `said` is what its process told last; `why` says why there is none, or why
    it cannot go on."""

    name: str
    index: int
    letters: int = 0
    running: bool = False
    why: str = ""
    said: Mapping[str, Any] = field(default_factory=dict)


class Exporter:
    """All sinks of a daemon. Belongs to one event loop."""

    def __init__(self, orders: Sequence[Order], source: LogSource, state: Path) -> None:
        """Keep cursors and dead letters in the state folder `state`."""
        self._source = source
        folder = state / LETTERS_NAME
        make_folder(folder)
        cursors = Cursors(state)
        self._links = [
            _Link(order, source, cursors, Letters(folder / f"{order.name}.dead"))
            for order in orders
        ]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def states(self) -> Sequence[SinkState]:
        """Give how each sink does."""
        return [link.state for link in self._links]

    def start(self) -> None:
        """Start all sinks."""
        self._tasks = [asyncio.create_task(link.run()) for link in self._links]
        self._tasks.append(asyncio.create_task(self._follow()))

    async def close(self) -> None:
        """End all processes, and keep how far they came."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._links:
            await link.keep()

    async def _follow(self) -> None:
        """Tell sinks when the log has grown."""
        last: tuple[int, Head] | None = None
        kept = time.monotonic()
        while True:
            now = self._source.durable(), self._source.head()
            for link in self._links:
                link.grown(*now, news=now != last)
            last = now
            if time.monotonic() - kept >= KEEP_S:
                for link in self._links:
                    await link.keep()
                kept = time.monotonic()
            await asyncio.sleep(LOOK_S)


class _Link:
    """One sink, and its process."""

    def __init__(self, order: Order, source: LogSource, cursors: Cursors, letters: Letters) -> None:
        self._order = order
        self._source = source
        self._cursors = cursors
        self._letters = letters
        self._channel: Channel | None = None
        self._fresh = True
        self._cursor = Cursor(index=0)
        self._kept: Cursor | None = None
        self.state = SinkState(name=order.name, index=0)

    async def run(self) -> None:
        """Keep a process running, for ever."""
        try:
            self._begin()
        except (CursorError, OSError, ValueError) as error:
            self.state.why = str(error)
            log.critical("sink %s: %s: it does not run", self._order.name, error)
            return
        wait_s = AGAIN_MIN_S
        while True:
            began = time.monotonic()
            try:
                await self._one_life()
            except Exception as error:
                log.exception("sink %s", self._order.name)
                self.state.why = f"a bug: {error!r}"
            if time.monotonic() - began > AGAIN_MAX_S:
                wait_s = AGAIN_MIN_S
            log.warning("sink %s: %s", self._order.name, self.state.why)
            await asyncio.sleep(wait_s)
            wait_s = min(AGAIN_MAX_S, wait_s * 2)

    def grown(self, durable: int, head: Head, *, news: bool) -> None:
        """Tell the process how far the log is, where that is new to it."""
        if self._channel is None or not (news or self._fresh):
            return
        with contextlib.suppress(ChannelClosed):  # `run` sees that it has gone
            self._channel.tell("log", durable=durable, size=head.size, root=head.root)
            self._fresh = False

    async def keep(self) -> None:
        """Keep the cursor, where it has moved."""
        cursor = self._cursor
        if self._kept is None or cursor.index <= self._kept.index:
            return
        try:
            await asyncio.to_thread(self._cursors.advance, self._order.name, cursor)
        except (CursorError, OSError, StockadeError) as error:
            log.error("sink %s: its cursor cannot be kept: %s", self._order.name, error)
            return
        self._kept = cursor

    def _begin(self) -> None:
        try:
            self._cursor = self._cursors.read(self._order.name)
        except CursorMissing:
            self._cursors.advance(self._order.name, self._cursor)
        self._kept = self._cursor
        self.state.index = self._cursor.index
        self.state.letters = len(self._letters.waiting())

    async def _one_life(self) -> None:
        """Start the process, and be there for it until it ends."""
        ours, theirs = pair()
        channel = Channel(ours, self._handle)
        order = replace(self._order, index=self._cursor.index, leaf=self._cursor.leaf)
        try:
            pid = _spawn(theirs.fileno())
        except OSError as error:
            self.state.why = f"its process cannot be started: {error.strerror}"
            channel.close()
            return
        finally:
            theirs.close()
        pidfd = os.pidfd_open(pid)
        serving = asyncio.create_task(channel.run())
        try:
            self.state.why = ""
            fd = order.write()
            try:
                channel.tell("order", fd=fd)
            finally:
                os.close(fd)
            self._channel, self._fresh, self.state.running = channel, True, True
            await wait_readable(pidfd)
            self.state.why = self.state.why or "its process ended"
        finally:
            self._channel, self.state.running = None, False
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            channel.close()  # It parts from the other side then.
            await _end(pidfd)

    async def _handle(self, message: Message, fds: Sequence[int]) -> Mapping[str, Any] | None:
        match message.get("ask") or message.get("tell"):
            case "segments":
                return {"firsts": list(self._source.firsts())}
            case "open":
                return {"fd": self._source.open(int(message["first"]))}
            case "opening":
                found = await asyncio.to_thread(self._source.opening, str(message["call"]))
                return {"opening": found}
            case "refused":
                letter = Letter(**message["letter"])
                await asyncio.to_thread(self._letters.add, [letter])
                self.state.letters += 1
                log.warning(
                    "sink %s: entry %d is a dead letter: %s",
                    self._order.name, letter.index, letter.why,
                )  # fmt: skip
            case "acknowledged":
                index = int(message["index"])
                if index > self._cursor.index:
                    self._cursor = Cursor(index=index, leaf=str(message["leaf"]))
                    self.state.index = index
            case "state":
                self.state.said = message
            case "broken":
                self.state.why = str(message["why"])
        return None


def _spawn(end: int) -> int:
    argv = [sys.executable, "-I", "-c", _ENTRY, os.fspath(_PACKAGE_PARENT), str(_END_FD)]
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return process.spawn(argv, fds={0: null, 1: null, 2: 2, _END_FD: end})
    finally:
        os.close(null)


async def _end(pidfd: int) -> None:
    """Wait for a process that was let go, and kill it where it stays."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await wait_readable(pidfd)
        process.send_signal(pidfd, signal.SIGKILL)
        await process.wait(pidfd)
    finally:
        os.close(pidfd)
