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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from supervisor.audit.cursors import Cursor, CursorError, CursorMissing, Cursors
from supervisor.audit.space import make_folder
from supervisor.errors import StockadeError
from supervisor.export import told
from supervisor.export.build import Order
from supervisor.export.channel import Channel, ChannelClosed, Message, PeerMisbehaves, pair
from supervisor.export.event import Head
from supervisor.export.letters import WHY_CHARACTERS_MAX, Letter, Letters
from supervisor.export.place import Place
from supervisor.export.redeliver import PROVEN_S, SEND_S
from supervisor.linux import cgroup, idle, process
from supervisor.linux.fds import take_no_descriptors, wait_readable

LOOK_S = 0.05
"""How often it is looked whether the log has grown."""

KEEP_S = 0.5
AGAIN_MIN_S, AGAIN_MAX_S = 1.0, 60.0
LETTERS_NAME = "export"
STDOUT = "stdout"
LETTERS_AT_ONCE = 50
"""Of dead letters, that are sent again before others have their turn."""

LETTERS_S = LETTERS_AT_ONCE * SEND_S + 2 * PROVEN_S
"""For the process of a sink to say what became of those: longer than it may take by itself."""

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

    def head(self) -> tuple[int, str]:
        """Give the newest signed head: how many entries, and their root in hexadecimal."""

    def firsts(self) -> Sequence[int]:
        """Give the first indices of all segments."""

    def open(self, first: int) -> int:
        """Open a segment for reading."""

    def beyond(self, segment: int, offset: int) -> int:
        """Give how many bytes of the log lie behind a place in it. Reads the disk."""

    def opening(self, call: str) -> tuple[int, int, Mapping[str, Any]] | None:
        """Give index, time and body of the INTENT of a call."""


@dataclass(slots=True, kw_only=True)
class SinkState:
    """How a sink does. All below `index` is acknowledged. `said` is what its process told last;
    `why` says why there is none, or why it cannot go on. `replaying_from` is the entry from which
    it gets again what it had, until it has all of that. `acknowledged_at` is when `index` moved
    last, since the daemon's start, in seconds since 1970; 0.0 for never."""

    name: str
    kind: str
    format: str
    index: int
    replaying_from: int | None = None
    acknowledged_at: float = 0.0
    letters: int = 0
    running: bool = False
    why: str = ""
    said: Mapping[str, Any] = field(default_factory=dict)


class Lag(NamedTuple):
    """How far a sink is behind the log. The age is of the first entry that it has not acknowledged,
    0.0 where it has all; it is not known, and 0.0, of one whose process has not begun."""

    entries: int
    bytes: int
    seconds: float


class Changes(NamedTuple):
    """What became of the sinks by other orders, by their names."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]


class Exporter:
    """All sinks of a daemon. Belongs to one event loop."""

    def __init__(self, orders: Sequence[Order], source: LogSource, state: Path) -> None:
        """Keep cursors and dead letters in the state folder `state`."""
        self._source = source
        self._folder = state / LETTERS_NAME
        make_folder(self._folder)
        self._cursors = Cursors(state)
        self._links = {order.name: self._link(order) for order in orders}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._following: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    @property
    def states(self) -> Sequence[SinkState]:
        """Give how each sink does."""
        return [link.state for link in self._links.values()]

    def start(self) -> None:
        """Start all sinks."""
        for name, link in self._links.items():
            self._running[name] = asyncio.create_task(link.run())
        self._following = asyncio.create_task(self._follow())

    async def apply(self, orders: Sequence[Order]) -> Changes:
        """Have these sinks and no others from now on. One that is as before is left alone; one that
        changed goes on where it was, and so does one that had been there before."""
        async with self._turn:
            wanted = {order.name: order for order in orders}
            known = dict(self._links)
            removed = known.keys() - wanted.keys()
            added = wanted.keys() - known.keys()
            same = {name for name in wanted.keys() - added if known[name].order == wanted[name]}
            changed = wanted.keys() - added - same
            for name in removed | changed:
                await self._remove(name)
            self._links = {
                name: known[name] if name in same else self._link(order)
                for name, order in wanted.items()
            }
            for name in changed:
                self._links[name].replay_on(known[name].replaying)
                self._links[name].state.acknowledged_at = known[name].state.acknowledged_at
            for name in added | changed:
                self._running[name] = asyncio.create_task(self._links[name].run())
            return Changes(*(tuple(sorted(names)) for names in (added, removed, changed, same)))

    async def replay(self, name: str, index: int) -> None:
        """Have a sink get everything from an entry on again, and from that of a replay that is not
        over, where that lies before it. What it had acknowledged stays acknowledged; a daemon that
        ends meanwhile does not go on with it.

        Raises:
            KeyError: there is no such sink.
            ValueError: the entry is not in the log, or the sink is yet to come to it.
        """
        self._links[name].replay(index)

    def durable(self) -> int:
        """Give how many entries of the log may leave."""
        return self._source.durable()

    async def lag(self, name: str) -> Lag:
        """Say how far a sink is behind; raises KeyError."""
        state = self._links[name].state
        said = state.said
        entries = max(0, self._source.durable() - state.index)
        if not entries:
            return Lag(0, 0, 0.0)
        place = int(said.get("segment", 0)), int(said.get("offset", 0))
        size = await asyncio.to_thread(self._source.beyond, *place)
        since = float(said.get("waiting_since", 0.0))
        return Lag(entries, size, max(0.0, time.time() - since) if since else 0.0)

    def letters(self, name: str) -> list[Letter]:
        """Give the dead letters of a sink. Reads the disk; raises KeyError, and as
        `Letters.waiting`."""
        return self._links[name].letters.waiting()

    async def redeliver(
        self, name: str, uids: Sequence[str] | None = None
    ) -> Sequence[tuple[Letter, str]]:
        """Send dead letters of a sink again, those of `uids` or all; give each with the reason why
        it is one still, "" where it was delivered.

        Raises:
            KeyError: there is no such sink, or a uid is of no letter that waits.
            PeerFailed, ChannelClosed: the sink's process does not run, or ended meanwhile.
            OSError, ValueError: as `letters`; or what became of them cannot be noted.
        """
        return await self._links[name].redeliver(uids)

    async def discard(self, name: str, uids: Sequence[str] | None = None) -> int:
        """Give up on dead letters, those of `uids` or all; give how many. Raises as `redeliver`."""
        return await self._links[name].discard(uids)

    async def wait_acknowledged(self, name: str, index: int) -> None:
        """Wait until a sink has acknowledged all up to and with an entry.

        Raises:
            KeyError: there is no such sink, or no longer.
        """
        while (link := self._links[name]).state.index <= index:
            await link.moved.wait()

    async def close(self) -> None:
        """End all processes, and keep how far they came."""
        async with self._turn:
            if self._following is not None:
                self._following.cancel()
                await asyncio.gather(self._following, return_exceptions=True)
            await asyncio.gather(*(self._end(name) for name in list(self._running)))
        with contextlib.suppress(OSError, StockadeError):  # An empty one harms nobody.
            idle.remove(cgroup.detect())

    def _link(self, order: Order) -> _Link:
        letters = Letters(self._folder / f"{order.name}.dead")
        return _Link(order, self._source, self._cursors, letters)

    async def _remove(self, name: str) -> None:
        await self._end(name)
        self._links.pop(name).moved.set()

    async def _end(self, name: str) -> None:
        task = self._running.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self._links[name].keep()

    async def _follow(self) -> None:
        """Tell sinks when the log has grown."""
        last: tuple[int, Head] | None = None
        kept = time.monotonic()
        while True:
            now = self._source.durable(), Head(*self._source.head())
            for link in list(self._links.values()):
                link.grown(*now, news=now != last)
                if link.place is not None:
                    link.place.follow(link.state.index, now[0])
            last = now
            if time.monotonic() - kept >= KEEP_S:
                for link in list(self._links.values()):
                    await link.keep()
                kept = time.monotonic()
            await asyncio.sleep(LOOK_S)


class _Link:
    """One sink, and its process."""

    def __init__(self, order: Order, source: LogSource, cursors: Cursors, letters: Letters) -> None:
        self.order = order
        self.letters = letters
        self._source = source
        self._cursors = cursors
        self._channel: Channel | None = None
        self.place: Place | None = None
        self._fresh = True
        self._cursor = Cursor(index=0)
        self._kept: Cursor | None = None
        self._again = asyncio.Event()
        self._lettering = asyncio.Lock()
        self._dead: set[str] = set()
        self.moved = asyncio.Event()
        """Set once the cursor has moved from where it is, and another is waited for then."""
        self._from: int | None = None
        self.state = SinkState(name=order.name, kind=order.kind, format=order.made_by, index=0)

    async def run(self) -> None:
        """Keep a process running, for ever."""
        try:
            self._begin()
        except (CursorError, OSError, ValueError) as error:
            self.state.why = str(error)
            log.critical("sink %s: %s: it does not run", self.order.name, error)
            return
        wait_s = AGAIN_MIN_S
        while True:
            began = time.monotonic()
            try:
                if await self._one_life():
                    continue
            except Exception as error:
                log.exception("sink %s", self.order.name)
                self.state.why = f"a bug: {error!r}"
            if time.monotonic() - began > AGAIN_MAX_S:
                wait_s = AGAIN_MIN_S
            log.warning("sink %s: %s", self.order.name, self.state.why)
            await asyncio.sleep(wait_s)
            wait_s = min(AGAIN_MAX_S, wait_s * 2)

    def replay(self, index: int) -> None:
        """Begin again from an entry; raises as `Exporter.replay`."""
        if not 0 <= index < self._source.durable():
            raise ValueError(f"the log has no entry {index} yet: it has {self._source.durable()}")
        if index >= self._cursor.index:
            raise ValueError(f"entry {index} is yet to come: {self._cursor.index} is the next")
        before = self.replaying
        self.replay_on(index if before is None else min(index, before))
        self._again.set()

    @property
    def replaying(self) -> int | None:
        """Give from which entry on a replay is to go on; None where none is."""
        pending = [one for one in (self._from, self.state.replaying_from) if one is not None]
        return min(pending, default=None)

    def replay_on(self, index: int | None) -> None:
        """Have the next process begin with a replay from an entry on, None for no replay."""
        self._from = self.state.replaying_from = index

    async def redeliver(self, uids: Sequence[str] | None) -> Sequence[tuple[Letter, str]]:
        """Send dead letters again; see `Exporter.redeliver`."""
        async with self._lettering:
            return await self._redeliver(await self._chosen(uids))

    async def discard(self, uids: Sequence[str] | None) -> int:
        """Give up on dead letters; see `Exporter.discard`."""
        async with self._lettering:
            chosen = [letter.uid for letter in await self._chosen(uids)]
            await asyncio.to_thread(self.letters.discarded, chosen, time.time_ns())
            self._dead.difference_update(chosen)
            self.state.letters = len(self._dead)
            return len(chosen)

    async def _chosen(self, uids: Sequence[str] | None) -> list[Letter]:
        waiting = {letter.uid: letter for letter in await asyncio.to_thread(self.letters.waiting)}
        return list(waiting.values()) if uids is None else [waiting[uid] for uid in uids]

    async def _redeliver(self, letters: Sequence[Letter]) -> Sequence[tuple[Letter, str]]:
        found: list[tuple[Letter, str]] = []
        stopped = ""
        for first in range(0, len(letters), LETTERS_AT_ONCE):
            some = letters[first : first + LETTERS_AT_ONCE]
            if self._channel is None:
                raise ChannelClosed(self.state.why or "the sink's process does not run")
            if stopped:
                found += [(letter, stopped) for letter in some]
                continue
            delivered, refused, stopped = await self._send_again(self._channel, some)
            await asyncio.to_thread(self.letters.delivered, delivered, time.time_ns())
            await asyncio.to_thread(self.letters.add, refused.values())
            self._dead -= delivered
            self.state.letters = len(self._dead)
            for letter in some:
                why = refused[letter.uid].why if letter.uid in refused else stopped
                found.append((letter, "" if letter.uid in delivered else why))
        return found

    async def _send_again(
        self, channel: Channel, letters: Sequence[Letter]
    ) -> tuple[set[str], dict[str, Letter], str]:
        try:
            async with asyncio.timeout(LETTERS_S):
                answer, _ = await channel.ask(
                    "redeliver", letters=[asdict(letter) for letter in letters]
                )
            return told.outcome(answer, letters, self._source.durable())
        except TimeoutError:
            raise ChannelClosed("it does not say what became of them") from None
        except PeerMisbehaves as fault:
            raise ChannelClosed(str(fault)) from None

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
            await asyncio.to_thread(self._cursors.advance, self.order.name, cursor)
        except (CursorError, OSError, StockadeError) as error:
            log.error("sink %s: its cursor cannot be kept: %s", self.order.name, error)
            return
        self._kept = cursor

    def _begin(self) -> None:
        try:
            self._cursor = self._cursors.read(self.order.name)
        except CursorMissing:
            self._cursors.advance(self.order.name, self._cursor)
        self._kept = self._cursor
        self.state.index = self._cursor.index
        self._dead = {letter.uid for letter in self.letters.waiting()}
        self.state.letters = len(self._dead)

    async def _one_life(self) -> bool:
        """Start the process, and be there for it until it ends, or has to begin again: say that."""
        ours, theirs = pair()
        take_no_descriptors(ours)
        channel = Channel(ours, self._handle)
        begin = self._begin_at()
        order = replace(self.order, index=begin.index, leaf=begin.leaf)
        try:
            pid = _spawn(theirs.fileno(), 1 if order.kind == STDOUT else -1)
        except OSError as error:
            self.state.why = f"its process cannot be started: {error.strerror}"
            channel.close()
            return False
        finally:
            theirs.close()
        pidfd = os.pidfd_open(pid)
        serving = asyncio.create_task(channel.run())
        try:
            self.place = Place(self.order.name, pid)
            self.state.why = ""
            fd = order.write()
            try:
                channel.tell("order", fd=fd)
            finally:
                os.close(fd)
            self._channel, self._fresh, self.state.running = channel, True, True
            if not await self._ended(pidfd, serving):
                return True
            self.state.why = self.state.why or _why_over(serving)
            return False
        finally:
            self._channel, self.place, self.state.running = None, None, False
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            channel.close()  # It parts from the other side then.
            await _end(pidfd)

    def _begin_at(self) -> Cursor:
        """Give where a process is to begin; a replay goes on from where the last one came."""
        index = self._from if self._from is not None else self.state.replaying_from
        self._again.clear()
        self._from, self.state.replaying_from = None, index
        return self._cursor if index is None else Cursor(index=index, leaf="")

    async def _ended(self, pidfd: int, serving: asyncio.Task[None]) -> bool:
        """Wait until the process has ended, is not to be heard any more, or is to begin again; say
        whether it is over."""
        waiting = asyncio.ensure_future(wait_readable(pidfd))
        again = asyncio.ensure_future(self._again.wait())
        try:
            await asyncio.wait((waiting, serving, again), return_when=asyncio.FIRST_COMPLETED)
            return waiting.done() or serving.done()
        finally:
            waiting.cancel()
            again.cancel()

    async def _handle(self, message: Message, fds: Sequence[int]) -> Mapping[str, Any] | None:
        match message.get("ask") or message.get("tell"):
            case "segments":
                return {"firsts": list(self._source.firsts())}
            case "open":
                return {"fd": self._source.open(told.number(message, "first"))}
            case "opening":
                found = await asyncio.to_thread(self._source.opening, told.call(message))
                return {"opening": found}
            case "refused":
                letter = told.letter(message.get("letter"), self._source.durable())
                await asyncio.to_thread(self.letters.add, [letter])
                self._dead.add(letter.uid)  # again, where the process was killed before it knew
                self.state.letters = len(self._dead)
                log.warning(
                    "sink %s: entry %d is a dead letter: %s",
                    self.order.name, letter.index, letter.why,
                )  # fmt: skip
            case "acknowledged":
                self._move(told.cursor(message, self._source.durable()))
            case "state":
                said = self.state.said = told.state(message)
                at = min(time.time(), float(said.get("acknowledged_at", 0.0)))
                self.state.acknowledged_at = max(self.state.acknowledged_at, at)
            case "logged":
                level, text = told.logged(message)
                log.log(level, "sink %s: %s", self.order.name, text)
            case "broken":
                self.state.why = told.text(message, "why", WHY_CHARACTERS_MAX)
                self._give_up_replay()
            case _:
                raise PeerMisbehaves("it says what it may not")
        return None

    def _give_up_replay(self) -> None:
        """Go on with what is new: the log cannot be read from where a replay is."""
        if self.state.replaying_from is not None and self._from is None:
            log.warning(
                "sink %s: its replay ends before entry %d: %s",
                self.order.name, self.state.replaying_from, self.state.why,
            )  # fmt: skip
            self.state.replaying_from = None

    def _move(self, cursor: Cursor) -> None:
        if self.state.replaying_from is not None:
            over = cursor.index >= self._cursor.index
            self.state.replaying_from = None if over else cursor.index
        if cursor.index > self._cursor.index:
            self._cursor = cursor
            self.state.index = cursor.index
            self.moved.set()
            self.moved = asyncio.Event()


def _spawn(end: int, output: int) -> int:
    """Start a process of a sink; `output` is its standard output, -1 for none."""
    argv = [sys.executable, "-I", "-c", _ENTRY, os.fspath(_PACKAGE_PARENT), str(_END_FD)]
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return process.spawn(
            argv, fds={0: null, 1: null if output < 0 else output, 2: 2, _END_FD: end}
        )
    finally:
        os.close(null)


def _why_over(serving: asyncio.Task[None]) -> str:
    """Say why nobody hears a process any more."""
    fault = serving.exception() if serving.done() and not serving.cancelled() else None
    return "its process ended" if fault is None else f"its process was ended: {fault}"


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
