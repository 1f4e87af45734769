"""Move bytes between a sandbox's pipes and the record: recorded first, delivered second."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Awaitable, Callable

from supervisor.call.types import STDIN_CHUNK_BYTES_MAX
from supervisor.errors import (
    CallStateError,
    InputUnread,
    InvalidRequest,
    OutOfRange,
    StockadeError,
)
from supervisor.linux.fds import wait_readable, wait_writable

READ_BYTES = 1 << 20


SMALL_BYTES = 4096
GATHER_S = 0.005
"""After a small chunk, wait this long for more. Each chunk is an entry of the log: a program that
writes byte by byte would otherwise make a record hundreds of times as large as its output."""


TERMINAL_BYTES = 64 << 10
"""A terminal gives less than 4 KiB at a time: so much is one chunk, where there is as much."""


async def pump_output(
    fd: int,
    take: Callable[[bytes], Awaitable[None]],
    ended: asyncio.Event,
    dead: asyncio.Event,
    *,
    terminal: bool = False,
) -> None:
    """Read a pipe, or the master of a terminal, to its end; `take` holds the reading up until it is
    done with a chunk.

    `ended` says that the program is gone: nothing is waited for any more. `dead` says that every
    process of the call is: an empty pipe is at its end then, also where its other end is still in
    flight in some socket's queue.
    """
    while True:
        try:
            data = _read_terminal(fd) if terminal else os.read(fd, READ_BYTES)
        except BlockingIOError:
            if dead.is_set():
                return
            await _readable_or(fd, dead)
            continue
        if not data:
            return
        await take(data)
        if len(data) < SMALL_BYTES and not ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await ended.wait()


def _read_terminal(fd: int) -> bytes:
    """Read what there is.

    Raises:
        BlockingIOError: nothing.
    """
    data = bytearray()
    while len(data) < TERMINAL_BYTES:
        try:
            piece = os.read(fd, TERMINAL_BYTES)
        except BlockingIOError:
            if not data:
                raise
            break
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            break  # nobody has the other side open: that is its end (pty(7))
        if not piece:
            break
        data += piece
    return bytes(data)


async def _readable_or(fd: int, event: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(wait_readable(fd)), asyncio.ensure_future(event.wait())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in waiting:
            future.cancel()
        # The descriptor must not be watched any more when this returns.
        await asyncio.gather(*waiting, return_exceptions=True)


class StdinWriter:
    """The standard input of one call: in order, each byte once, recorded before it is written."""

    def __init__(self, record: Callable[[bytes], Awaitable[None]], bytes_max: int) -> None:
        self._record = record
        self._bytes_max = bytes_max
        self._fd = -1
        self._close: Callable[[], None] = lambda: None
        self._lock = asyncio.Lock()
        self._fed = asyncio.Event()
        self._broken = False
        self._ended = False
        self.offset = 0

    def open(self, fd: int, close: Callable[[], None]) -> None:
        """Say where the bytes go; `close` ends the stream for the program."""
        self._fd, self._close = fd, close

    def hang_up(self) -> None:
        """Say that nobody reads any more: whoever waits to write is told."""
        self._broken = True
        self._fed.set()

    async def write(self, offset: int, data: bytes, *, end: bool) -> int:
        """Write `data` at `offset`; give the offset for the next write.

        Writing again what was written before changes nothing.

        Raises:
            InvalidRequest: `STDIN_CHUNK_TOO_LARGE`, `STDIN_TOO_LARGE`.
            OutOfRange: `STDIN_OFFSET`: there is a gap, or bytes that were not sent before.
            CallStateError: `STDIN_CLOSED`; `InputUnread`, where the program reads no more.
        """
        if len(data) > STDIN_CHUNK_BYTES_MAX:
            raise InvalidRequest(
                "STDIN_CHUNK_TOO_LARGE", f"{len(data)} bytes; at most {STDIN_CHUNK_BYTES_MAX}"
            )
        await self._fed.wait()
        # A caller that goes away must not stop this half way: what counts as written arrives.
        return await asyncio.shield(asyncio.ensure_future(self._write(offset, data, end=end)))

    async def _write(self, offset: int, data: bytes, *, end: bool) -> int:
        async with self._lock:
            last = offset + len(data)
            known = last == self.offset if end else last <= self.offset
            if known and (self._ended or not end):
                return self.offset
            # First: what the request began with may not be counted to its end.
            if self._ended:
                raise CallStateError("STDIN_CLOSED", "standard input is closed")
            if self._broken:
                raise InputUnread("STDIN_CLOSED", "standard input is closed")
            if not known and offset != self.offset:
                raise OutOfRange(
                    "STDIN_OFFSET",
                    f"offset {offset}, expected {self.offset}",
                    metadata={"expected": str(self.offset)},
                )
            if not known:
                await self._put(data)
            if end:
                self._ended = True
                self._close()
            return self.offset

    async def feed(self, data: bytes, *, end: bool) -> None:
        """Write the beginning that came with the request; a program that does not read it is no
        error."""
        for start in range(0, len(data), READ_BYTES):
            if not self._broken:
                await self._put(data[start : start + READ_BYTES], refuse=False)
        if end:
            self._ended = True
            self._close()
        self._fed.set()

    async def _put(self, data: bytes, *, refuse: bool = True) -> None:
        if not data:
            return
        if self.offset + len(data) > self._bytes_max:
            raise InvalidRequest(
                "STDIN_TOO_LARGE",
                f"standard input is bounded by limits.output: {self._bytes_max} bytes",
                hint="hand large input over in files",
            )
        try:
            await self._record(data)
        except StockadeError:
            if self._broken:  # the call ended meanwhile, and took its record along
                raise InputUnread("STDIN_CLOSED", "standard input is closed") from None
            raise
        self.offset += len(data)
        view = memoryview(data)
        while view and not self._broken:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await wait_writable(self._fd)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EBADF):
                    raise
                self._broken = True
        if view and refuse:
            raise InputUnread("STDIN_CLOSED", "the program closed its standard input")
