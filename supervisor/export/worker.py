"""The process of one sink, which `exporter` starts.

It has the daemon's socket and nothing else: segments of the log come over it, opened for reading,
and the order, which is in a memfd and holds the sink's secrets. Where its sink needs no right to
this host's files, it becomes another user before it talks to anybody. It ends with the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from supervisor.call.safe import safe
from supervisor.export.build import Order, make_encoder, make_sink
from supervisor.export.channel import Channel, ChannelClosed, Message, PeerFailed
from supervisor.export.event import Head, Opening
from supervisor.export.letters import Letter
from supervisor.export.pump import Pump
from supervisor.export.redeliver import Outcome, send_again
from supervisor.export.tail import Tail, TailError
from supervisor.linux.syscalls import PR_SET_PDEATHSIG, prctl

STATE_EVERY_S = 1.0
NICE = 19
"""What else the daemon does goes first; calls do by `place`."""
GC_THRESHOLD = (50_000, 20, 100)
"""Events go by reference counts: looking for cycles among them took a tenth of the time."""

LOGGED_CHARS_MAX = 4096
"""Of a message of the log, with its traceback; escaped, it still fits into one of the channel."""

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38

log = logging.getLogger("stockade.export")


class Daemon:
    """The daemon, as a worker sees it: the log's segments, and what has to be kept."""

    def __init__(self, end: socket.socket) -> None:
        self.channel = Channel(end, self._handle)
        self.ordered: asyncio.Future[Order] = asyncio.get_running_loop().create_future()
        self.again: Callable[[Sequence[Letter]], Awaitable[Outcome]] | None = None
        """Sends letters again, once there is a sink."""
        self._durable = 0
        self._head = Head(size=0, root="")
        self._grown = asyncio.Condition()

    async def firsts(self) -> Sequence[int]:
        """Give the first indices of the log's segments."""
        answer, _ = await self.channel.ask("segments")
        return [int(first) for first in answer["firsts"]]

    async def open(self, first: int) -> int:
        """Open a segment for reading."""
        _, fds = await self.channel.ask("open", first=first)
        return fds[0]

    async def durable(self, beyond: int) -> int:
        """Wait until more than `beyond` entries are durable; give how many are."""
        async with self._grown:
            await self._grown.wait_for(lambda: self._durable > beyond)
            return self._durable

    async def head(self) -> Head:
        """Give the newest signed head."""
        return self._head

    async def opening(self, call: str) -> Opening | None:
        """Look up the INTENT of a call."""
        answer, _ = await self.channel.ask("opening", call=call)
        found = answer["opening"]
        return None if found is None else Opening(*found)

    async def acknowledged(self, index: int, leaf: str) -> None:
        """Have it kept that all below `index` was taken."""
        self.channel.tell("acknowledged", index=index, leaf=leaf)

    async def refused(self, letters: Sequence[Letter]) -> None:
        """Have dead letters kept; they are, once this returns."""
        for letter in letters:
            await self.channel.ask("refused", letter=asdict(letter))

    async def _handle(self, message: Message, fds: Sequence[int]) -> Mapping[str, Any] | None:
        match message.get("tell") or message.get("ask"):
            case "order":
                self.ordered.set_result(Order.read(fds[0]))
            case "redeliver":
                return await self._send_again(message["letters"])
            case "log":
                async with self._grown:
                    self._durable = int(message["durable"])
                    self._head = Head(size=int(message["size"]), root=str(message["root"]))
                    self._grown.notify_all()
        return None

    async def _send_again(self, letters: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        if self.again is None:
            raise OSError("the sink has not begun")
        return asdict(await self.again([Letter(**letter) for letter in letters]))


async def work(end: socket.socket) -> None:
    """Do what the daemon orders, until it has gone."""
    daemon = Daemon(end)
    LOGGED.attach(daemon.channel)
    running = asyncio.create_task(daemon.channel.run())
    pumping = asyncio.create_task(_pump(daemon))
    try:
        await asyncio.wait((running, pumping), return_when=asyncio.FIRST_COMPLETED)
        if pumping.done() and not running.done():
            await pumping
    finally:
        for task in (running, pumping):
            task.cancel()
        await asyncio.gather(running, pumping, return_exceptions=True)
        daemon.channel.close()


async def _pump(daemon: Daemon) -> None:
    order = await daemon.ordered
    LINES.sink = order.name
    sink, encoder = make_sink(order), make_encoder(order)
    confine(order.uid)
    tail = Tail(daemon)
    try:
        await tail.seek(order.index, order.leaf or None)
        pump = Pump(tail, encoder, sink, daemon, order.pump)

        async def again(letters: Sequence[Letter]) -> Outcome:
            # A format keeps what it knows of calls: this one begins in the middle of many.
            async with pump.turn:
                fresh = make_encoder(order)
                return await send_again(letters, daemon, fresh, sink)

        daemon.again = again
        telling = asyncio.create_task(_tell(daemon, pump))
        try:
            await pump.run()
        finally:
            telling.cancel()
    except* (TailError, PeerFailed) as errors:
        why = str(errors.exceptions[0])
        log.error("%s", why)
        with contextlib.suppress(ChannelClosed):
            daemon.channel.tell("broken", why=why)
        raise
    finally:
        tail.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await sink.close()


async def _tell(daemon: Daemon, pump: Pump) -> None:
    """Say how it goes, now and then."""
    while True:
        daemon.channel.tell("state", **asdict(pump.state))
        await asyncio.sleep(STATE_EVERY_S)


def confine(uid: int) -> None:
    """Give up what a sink does not need: with another `uid` than 0 all rights to the host's files.

    Raises:
        OSError: a step is not possible; nothing may be sent then.
    """
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    # A change of user clears both of these (kernel/cred.c, commit_creds).
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_NO_NEW_PRIVS, 1)


class OneLine(logging.Formatter):
    """A message with its time, level and sink in one line, as the daemon's own log has them:
    nothing that a receiver said can begin another, or move a terminal's cursor."""

    def __init__(self) -> None:
        form = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: "
        super().__init__(form + "%(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        self.sink = ""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        if self.sink:
            record.msg, record.args = f"sink {self.sink}: {record.getMessage()}", ()
        return safe(super().format(record))


LINES = OneLine()


class ToDaemon(logging.Handler):
    """Has the daemon write what is logged here, so that it is in its log's form, with its priority.
    What it does not take, or not yet, goes to `instead`. From any thread."""

    def __init__(self, instead: logging.Handler) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter())
        self.instead = instead
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def attach(self, channel: Channel) -> None:
        """Tell the daemon from now on, from this event loop."""
        self._channel, self._loop = channel, asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Tell the daemon, at once where this is the event loop's thread."""
        if self._loop is None:
            self.instead.handle(record)
        elif threading.get_ident() == self._thread:
            self._tell(record)
        else:
            try:
                self._loop.call_soon_threadsafe(self._tell, record)
            except RuntimeError:  # It is closed.
                self.instead.handle(record)

    def _tell(self, record: logging.LogRecord) -> None:
        text = self.format(record)[:LOGGED_CHARS_MAX]
        try:
            if self._channel is None:
                raise ChannelClosed
            self._channel.tell("logged", level=record.levelno, text=text)
        except ChannelClosed:
            self.instead.handle(record)


LOGGED = ToDaemon(logging.StreamHandler(sys.stderr))


def main() -> None:
    """Serve the daemon's socket until it closes."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        # The terminal's and the service manager's word is for the daemon, which tells us.
        signal.signal(kind, signal.SIG_IGN)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    LOGGED.instead.setFormatter(LINES)
    logging.basicConfig(level=logging.INFO, handlers=[LOGGED])
    os.nice(NICE)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    with socket.socket(fileno=int(sys.argv[1])) as end:
        os.set_inheritable(end.fileno(), False)
        asyncio.run(work(end))
