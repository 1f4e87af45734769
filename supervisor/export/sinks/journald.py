"""Events for the journal, in systemd's native protocol: a datagram each, of fields.

    NAME=value LF                       what has no control characters
    NAME LF, length in 8 bytes, value LF   all else; no value can end itself

What is too large for a datagram goes as a sealed memfd (memfd_create(2)). journald acknowledges
nothing: an event is sent once it is in the queue of journald's socket, which systemd holds, so that
it outlasts journald. By its own limit of rate journald throws away what it likes: the unit needs
`LogRateLimitIntervalSec=0`.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.export.event import Event
from supervisor.export.sink import Rejected, SinkError
from supervisor.export.sinks.message import priority

SOCKET = Path("/run/systemd/journal/socket")
IDENTIFIER = b"stockade"
EVENT_BYTES_MAX = 16 * 1024 * 1024
SEND_BUFFER_BYTES = 8 * 1024 * 1024
EVENTS_BETWEEN = 64
"""After so many, other tasks have their turn."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LARGE = {errno.EMSGSIZE, errno.ENOBUFS}


@dataclass(frozen=True, slots=True, kw_only=True)
class JournaldOptions:
    """`stall_s` is how long journald may take nothing."""

    path: Path = SOCKET
    stall_s: float = 30.0


class JournaldSink:
    """The sink. Errors are those of `Sink`."""

    def __init__(self, options: JournaldOptions) -> None:
        self._options = options
        self._socket: socket.socket | None = None

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Send a batch, an event after the other.

        Raises:
            SinkError: there is no journald, or it takes nothing.
        """
        rejected: list[Rejected] = []
        try:
            connection = self._connected()
            for position, event in enumerate(batch):
                if len(event.data) > EVENT_BYTES_MAX:
                    rejected.append(Rejected(position, f"it has {len(event.data)} bytes"))
                    continue
                await self._give(connection, entry(event))
                if position % EVENTS_BETWEEN == 0:
                    await asyncio.sleep(0)
        except TimeoutError:
            self._drop()
            raise SinkError(f"journald takes nothing for {self._options.stall_s:g} s") from None
        except OSError as error:
            self._drop()
            raise SinkError(f"{self._options.path}: {error.strerror or error}") from None
        return rejected

    def trails(self) -> int:
        """Give none: the queue outlasts journald, and us."""
        return 0

    async def close(self) -> None:
        """Close the socket."""
        self._drop()

    def _connected(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        made = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            made.connect(str(self._options.path))
        except BaseException:
            made.close()
            raise
        self._socket = made
        return made

    def _drop(self) -> None:
        made, self._socket = self._socket, None
        if made is not None:
            made.close()

    async def _give(self, connection: socket.socket, data: bytes) -> None:
        try:
            await self._patiently(connection, data, [])
            return
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
        fd = os.memfd_create("stockade-event", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            await self._patiently(connection, b"", [fd])
        finally:
            os.close(fd)

    async def _patiently(self, connection: socket.socket, data: bytes, fds: list[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while True:
            with contextlib.suppress(BlockingIOError):
                connection.sendmsg([data], rights)
                return
            async with asyncio.timeout(self._options.stall_s):
                await _room(connection)


async def _room(connection: socket.socket) -> None:
    """Wait until the other side's queue takes a datagram."""
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.add_writer(connection, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_writer(connection)


def entry(event: Event) -> bytes:
    """Give the fields of an event."""
    return b"".join(
        (
            field("MESSAGE", event.data),
            field("PRIORITY", b"%d" % priority(event.severity)),
            field("SYSLOG_IDENTIFIER", IDENTIFIER),
            field("STOCKADE_UID", event.uid.encode("utf-8", "replace")),
            field("STOCKADE_INDEX", b"%d" % event.index),
            field("STOCKADE_KIND", event.kind.encode("utf-8", "replace")),
            field("STOCKADE_CLASS", b"%d" % event.class_uid),
            field("STOCKADE_TIME_NS", b"%d" % event.time_ns),
        )
    )


def field(name: str, value: bytes) -> bytes:
    """Give a field: with its length, where the value could end itself."""
    if value.isascii() and value.decode().isprintable():
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value)
