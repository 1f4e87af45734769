"""A connection to a receiver, over TLS or in the clear, that knows when it is over.

One task writes; a task of its own listens all the time, so that the end of the connection is seen
while nothing is sent, and while something is. `settled` is as much as TCP can tell: the kernel of
the other side has every byte. It says nothing of the program there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import ssl
import struct
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from supervisor.export.sinks.certificates import check_pair, client_context

PIECE_BYTES = 256 * 1024
"""Is encrypted and sent at a time; a stall is told by the time that one takes."""

READ_BYTES = 64 * 1024
SAID_BYTES_MAX = 256 * 1024
"""Of what the other side said and nobody has read yet; then nobody listens until it is read."""

ALIVE_IDLE_S, ALIVE_EVERY_S, ALIVE_PROBES = 30, 10, 3
CLOSE_S = 5.0
POLL_FIRST_S, POLL_S = 0.0005, 0.05


class WireError(Exception):
    """There is no connection, or none any more; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How the other side is known: by a certificate for `name`, from an authority in the file `ca`.
    With `certificate` and `key`, two PEM files, it knows us as well."""

    ca: Path
    name: str
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("whom the certificate has to name is not said")
        check_pair(self.certificate, self.key)

    def context(self) -> ssl.SSLContext:
        """Make a context of the files as they are now. Blocks.

        Raises:
            WireError: a file is missing, or is not what it should be.
        """
        try:
            return client_context(self.ca, self.certificate, self.key)
        except (ssl.SSLError, OSError) as error:
            raise WireError(f"the certificates cannot be used: {_told(error)}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where the receiver is. Without `tls`, what is sent can be read and changed on its way:
    `plain_because` has to say why that is well (the other side is on this host, say).

    `connect_s` is for name, connection and handshake together; `stall_s` is how long the other side
    may take no byte, or say none that is waited for.
    """

    host: str
    port: int
    tls: Tls | None
    plain_because: str = ""
    connect_s: float = 10.0
    stall_s: float = 30.0

    def __post_init__(self) -> None:
        if self.tls is None and not self.plain_because:
            raise ValueError("without TLS, it has to be said why that is well")
        if self.tls is not None and self.plain_because:
            raise ValueError("with TLS, there is no reason to have none")
        if not 0 < self.port < 1 << 16:
            raise ValueError(f"{self.port} is no port")

    @property
    def where(self) -> str:
        """Give host and port as people write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Wire:
    """An open connection. `over` is set once it is over, and `why` says why it is.

    `heeds` says that somebody reads what the other side says; else it is thrown away.
    """

    def __init__(self, connection: socket.socket, *, stall_s: float, heeds: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connection
        self._stall_s = stall_s
        self._heeds = heeds
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._sending = asyncio.Lock()
        self._said = bytearray()
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self.over = asyncio.Event()
        self.why = ""

    @classmethod
    async def open(cls, peer: Peer, *, heeds: bool = False) -> Self:
        """Connect, and let the other side show who it is.

        Raises:
            WireError: there is nobody, or not the one that was meant.
        """
        wire = None
        try:
            async with asyncio.timeout(peer.connect_s):
                context = await asyncio.to_thread(peer.tls.context) if peer.tls else None
                wire = cls(await _connected(peer), stall_s=peer.stall_s, heeds=heeds)
                if context is not None and peer.tls is not None:
                    await wire._shake_hands(context, peer.tls.name)
        except BaseException as error:
            if wire is not None:
                wire.abort()
            if isinstance(error, TimeoutError):
                raise WireError(f"{peer.where}: no connection in {peer.connect_s:g} s") from None
            if isinstance(error, OSError):
                raise WireError(f"{peer.where}: {_told(error)}") from None
            raise
        wire._listener = asyncio.create_task(wire._listen(), name="export wire")
        return wire

    async def write(self, data: bytes) -> None:
        """Send all of it. A task that is stopped in here has spoilt the connection.

        Raises:
            WireError: it is over, or the other side takes nothing.
        """
        view = memoryview(data)
        while view:
            self._check()
            await self._send(view[:PIECE_BYTES])
            view = view[PIECE_BYTES:]

    async def read(self) -> bytes:
        """Give what the other side said since, at least a byte.

        Raises:
            WireError: it is over, and nothing is left to read; or it says nothing.
        """
        while not self._said:
            if self.over.is_set():
                raise WireError(self.why)
            self._news.clear()
            with _deadline(self._stall_s, "the other side says nothing"):
                async with asyncio.timeout(self._stall_s):
                    await self._news.wait()
        said = bytes(self._said)
        self._said.clear()
        self._room.set()
        return said

    async def settled(self) -> None:
        """Wait until the other side's kernel has acknowledged every byte, and see that it has not
        ended the connection.

        Raises:
            WireError: it is over, or nothing is acknowledged any more.
        """
        waited, pause, left = 0.0, POLL_FIRST_S, self._unacknowledged()
        while left:
            self._check()
            await self.alive_for(pause)
            now = self._unacknowledged()
            waited = waited + pause if now >= left else 0.0
            if waited > self._stall_s:
                raise WireError(f"{now} bytes are not acknowledged after {self._stall_s:g} s")
            left, pause = now, min(2 * pause, POLL_S)
        self._check()

    async def alive_for(self, seconds: float) -> None:
        """Wait, and see that the connection does not end.

        Raises:
            WireError: it did.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()
        self._check()

    async def close(self) -> None:
        """Say that this is all, wait some seconds for the other side to have read it, and part.
        Raises nothing."""
        try:
            async with asyncio.timeout(CLOSE_S):
                if not self.over.is_set():
                    await self._finish()
                    await self.over.wait()
        except (TimeoutError, OSError, WireError) as error:
            self._end(_told(error))
        finally:
            self.abort()
        if self._listener is not None:
            await asyncio.wait([self._listener])

    def abort(self) -> None:
        """Part at once; what the kernel has is still sent."""
        self._end("it was closed")
        if self._listener is not None:
            self._listener.cancel()
        if self._socket.fileno() >= 0:
            # Before the number is another's: the loop would forget that one instead, later.
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    async def _finish(self) -> None:
        if self._tls is not None:
            async with self._sending:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.unwrap()
                await self._flush()
        self._socket.shutdown(socket.SHUT_WR)

    async def _shake_hands(self, context: ssl.SSLContext, name: str) -> None:
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._loop.sock_recv(self._socket, READ_BYTES)
                if not data:
                    raise WireError("the other side ended the handshake") from None
                self._incoming.write(data)
            except ssl.SSLError as error:
                with contextlib.suppress(OSError):
                    await self._flush()  # the alert says why, to the other side
                raise WireError(f"no TLS with it: {_told(error)}") from None
            else:
                await self._flush()
                return

    async def _send(self, data: memoryview) -> None:
        try:
            async with asyncio.timeout(self._stall_s), self._sending:
                if self._tls is None:
                    await self._loop.sock_sendall(self._socket, data)
                    return
                while data:
                    data = data[self._tls.write(data) :]
                await self._flush()
        except TimeoutError:
            raise WireError(f"it takes nothing for {self._stall_s:g} s") from None
        except OSError as error:  # an error of TLS is one, too
            raise WireError(self.why or _told(error)) from None

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._loop.sock_sendall(self._socket, self._outgoing.read())

    async def _listen(self) -> None:
        """Take what comes until nothing more can."""
        try:
            while data := await self._loop.sock_recv(self._socket, READ_BYTES):
                if not await self._take(data):
                    self._end("the other side has ended it")
                    return
            self._end("the other side has closed it")
        except OSError as error:
            self._end(_told(error))

    async def _take(self, data: bytes) -> bool:
        # The kernel forgets it each time. Without it, a small answer waits for us to acknowledge
        # the one before (Nagle), for 40 ms: rsyslog answers 700 messages/s by RELP, not 50 000.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if self._tls is None:
            await self._heed(data)
            return True
        self._incoming.write(data)
        try:
            while said := self._tls.read(READ_BYTES):
                await self._heed(said)
        except ssl.SSLWantReadError:
            if self._outgoing.pending:  # the answer to a change of keys
                async with self._sending:
                    await self._flush()
            return True
        except ssl.SSLZeroReturnError:
            return False
        return False

    async def _heed(self, said: bytes) -> None:
        if not self._heeds:
            return
        while len(self._said) > SAID_BYTES_MAX:
            self._room.clear()
            await self._room.wait()
        self._said += said
        self._news.set()

    def _end(self, why: str) -> None:
        if not self.over.is_set():
            self.why = why
            self.over.set()
            self._news.set()

    @property
    def stands(self) -> bool:
        """Say whether the connection is open, on both sides."""
        if self.over.is_set():
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return not poll.poll(0)

    def _check(self) -> None:
        if self.over.is_set():
            raise WireError(self.why)
        if not self.stands:
            raise WireError("the other side has closed it")

    def _unacknowledged(self) -> int:
        """Give how many bytes the other kernel has not acknowledged (SIOCOUTQ, tcp(7))."""
        if self.over.is_set():
            raise WireError(self.why)
        answer = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", answer)[0])


async def _connected(peer: Peer) -> socket.socket:
    loop = asyncio.get_running_loop()
    failed: OSError = OSError(f"no address for {peer.host}")
    for family, kind, proto, _, address in await loop.getaddrinfo(
        peer.host, peer.port, type=socket.SOCK_STREAM
    ):
        made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, proto)
        try:
            await loop.sock_connect(made, address)
            _prepare(made, peer.stall_s)
        except OSError as error:
            made.close()
            failed = error
        except BaseException:
            made.close()
            raise
        else:
            return made
    raise failed


def _prepare(made: socket.socket, stall_s: float) -> None:
    """Have the kernel find out that nobody is there any more, with data on their way or without."""
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_s * 1000))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ALIVE_IDLE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ALIVE_EVERY_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, ALIVE_PROBES)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextlib.contextmanager
def _deadline(seconds: float, what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise WireError(f"{what} for {seconds:g} s") from None


def _told(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS that does not hold"
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)  # asyncio has words of its own for some
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
