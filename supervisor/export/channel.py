"""The wire between the daemon and an exporter's process: messages of JSON over a unix socket that
keeps their borders, with descriptors beside them.

Each side may `tell` something, or `ask` and wait for the answer, which is matched by its number. A
side whose peer has gone gets `ChannelClosed` for all that it waits for.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

from supervisor.errors import StockadeError
from supervisor.linux.fds import receive_fds

MESSAGE_BYTES_MAX = 192 << 10
"""An entry has 64 KiB at most, and is the largest thing in a message."""

BUFFER_BYTES = 1 << 20
FDS_MAX = 4
WAITING_MAX = 1024
"""Messages that wait to be sent; a peer that reads none for so long is as good as gone."""

AT_ONCE_MAX = 16
"""Messages of the other side that are seen to at a time. Nothing more is read meanwhile: who floods
us waits, and everybody else on the loop has a turn."""

log = logging.getLogger("stockade.export")

Message = dict[str, Any]
Handler = Callable[[Message, Sequence[int]], Awaitable[Mapping[str, Any] | None]]
"""Takes a message and its descriptors, which are closed afterwards; gives the answer to one that
asks, where `fd` is a descriptor to send along, which is closed then."""


class ChannelClosed(Exception):
    """The other side has gone."""


class PeerFailed(OSError):
    """The other side could not do what it was asked for."""


class PeerMisbehaves(Exception):
    """The other side said what it may not, or what nobody can read: it is heard no more."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Give both ends of a new channel, close-on-exec."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return ends


class Channel:
    """One end. `run` it, and `close` it."""

    def __init__(self, end: socket.socket, handle: Handler) -> None:
        end.setblocking(False)
        self._end = end
        self._handle = handle
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[tuple[Message, list[int]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._out: list[tuple[bytes, int]] = []
        self._closed = False
        self._fault: PeerMisbehaves | None = None
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Take messages until the other side has gone.

        Raises:
            PeerMisbehaves: it said what it may not.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._end, self._ready.set)
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                while (found := self._receive()) is not None:
                    data, fds = found
                    if not data:
                        return
                    self._take(data, fds)
                    await self._room()
                self._check()
        finally:
            loop.remove_reader(self._end)
            self._end_all()

    async def ask(self, what: str, /, **fields: Any) -> tuple[Message, list[int]]:
        """Ask the other side; give its answer, and the descriptors with it, which are the caller's.

        Raises:
            PeerFailed: it could not.
            ChannelClosed: it has gone.
        """
        number = next(self._numbers)
        answer: asyncio.Future[tuple[Message, list[int]]]
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._send({"ask": what, "id": number, **fields})
            message, fds = await answer
        finally:
            self._answers.pop(number, None)
        if "error" in message:
            for fd in fds:
                os.close(fd)
            raise PeerFailed(int(message.get("errno", 0)), str(message["error"]))
        return message, fds

    def tell(self, what: str, /, fd: int = -1, **fields: Any) -> None:
        """Tell the other side; a copy of `fd` goes along.

        Raises:
            ChannelClosed: it has gone, or reads nothing.
        """
        self._send({"tell": what, **fields}, fd)

    def close(self) -> None:
        """Let go of the socket; who waits gets `ChannelClosed`."""
        if self._end.fileno() >= 0:
            with contextlib.suppress(RuntimeError):  # no loop runs any more
                asyncio.get_running_loop().remove_writer(self._end)
            self._end_all()
            self._end.close()

    def _receive(self) -> tuple[bytes, list[int]] | None:
        try:
            return receive_fds(self._end, MESSAGE_BYTES_MAX, FDS_MAX)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b"", []

    async def _room(self) -> None:
        """Wait until one more message may be seen to."""
        self._check()
        while len(self._tasks) >= AT_ONCE_MAX:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._check()

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _take(self, data: bytes, fds: list[int]) -> None:
        try:
            message = _read(data)
        except PeerMisbehaves:
            for fd in fds:
                os.close(fd)
            raise
        if "re" in message:
            answer = self._answers.get(message["re"])
            if answer is not None and not answer.done():
                answer.set_result((message, fds))
                return
            for fd in fds:  # Nobody waits for it any more.
                os.close(fd)
            return
        task = asyncio.create_task(self._do(message, fds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, message: Message, fds: list[int]) -> None:
        fd = -1
        try:
            try:
                answer: Message = dict(await self._handle(message, fds) or {})
                fd = answer.pop("fd", -1)
            except (OSError, StockadeError) as error:
                answer = {"error": str(error), "errno": getattr(error, "errno", 0) or 0}
            except PeerMisbehaves as fault:
                self._fault = self._fault or fault
                self._ready.set()
                return
            except Exception as error:
                log.exception("a message of the other side")
                answer = {"error": f"a bug: {error!r}", "errno": 0}
            if "ask" in message:
                with contextlib.suppress(ChannelClosed):  # Who asked has gone.
                    self._send({"re": message["id"], **answer}, fd)
        finally:
            for one in (*fds, fd):
                if one >= 0:
                    os.close(one)

    def _send(self, message: Message, fd: int = -1) -> None:
        data = orjson.dumps(message)
        if self._closed or len(self._out) >= WAITING_MAX:
            raise ChannelClosed
        if len(data) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {len(data)} bytes")
        self._out.append((data, os.dup(fd) if fd >= 0 else -1))
        self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._out:
            data, fd = self._out[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            try:
                self._end.sendmsg([data], ancillary if fd >= 0 else [])
            except BlockingIOError:
                loop.add_writer(self._end, self._flush)
                return
            except OSError as error:
                self._forget()
                loop.remove_writer(self._end)
                raise ChannelClosed from error
            del self._out[0]
            if fd >= 0:
                os.close(fd)
        loop.remove_writer(self._end)

    def _forget(self) -> None:
        for _, fd in self._out:
            if fd >= 0:
                os.close(fd)
        self._out.clear()

    def _end_all(self) -> None:
        self._closed = True
        self._forget()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ChannelClosed())
        for task in self._tasks:
            task.cancel()


def _read(data: bytes) -> Message:
    """Read a message: an answer, or what is told or asked.

    Raises:
        PeerMisbehaves: it is none.
    """
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise PeerMisbehaves(f"what it says is no message: {error}") from None
    if isinstance(message, dict):
        what = message.get("re"), message.get("tell"), message.get("ask"), message.get("id")
        match what:
            case (int(), None, None, _) | (None, str(), None, _) | (None, None, str(), int()):
                return message
    raise PeerMisbehaves("what it says is no message: it has not the fields of one")
