"""Accept every connection in front of gRPC, note who is at its other end, and pass bytes on.

gRPC does not tell a unix peer's credentials. So the daemon listens itself: it reads SO_PEERCRED
(unix(7)) of each accepted connection, opens a second one to gRPC's own socket in a folder that
only the daemon can enter, and copies bytes both ways. The second connection comes from an abstract
name that was made up for it; gRPC reports that name as the peer of each request, and `Peers` knows
whose it is, and how many there may be. TLS passes through unread: it ends in gRPC.

Two rules. A connection is in `Peers` before gRPC can see it, and until both of its ends are closed.
Nothing here looks at a byte that it copies. Descriptors are not copied: who sends one is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import select
import socket
from collections.abc import Callable

from supervisor.api.peers import NoRoomError, Peer, Peers, peer_of
from supervisor.linux.fds import take_no_descriptors, wait_readable
from supervisor.linux.parting import Undertaker, take_all_in_order

log = logging.getLogger("stockade.api")

COPY_BYTES = 512 * 1024
"""What one readable socket may hand over at a time, so that no connection starves the others. The
kernel gives at most what the sender's buffer held, 208 KiB by default."""

SEND_BUFFER_BYTES = 1 << 20
"""Asked for on the way to the client: a larger piece a wake-up. The kernel caps it at wmem_max."""

QUIET_S = 10.0
"""How long one line in the log speaks for all of its kind: whoever floods the door does not also
flood the log."""

STRANGER_S = 5.0
"""Time enough to be told that one is no caller."""

ACCEPT_BATCH = 128
"""Connections accepted before everybody else on the loop has a turn."""

REFUSED_S = 0.001
"""A rest after refusals, once nobody waits any more: a flood costs less by the batch than one by
one. Not before that, since gRPC's clients back off where the row of those who wait is full."""

ACCEPT_RETRY_S = 0.1
SWEEP_S = 5.0
CONNECT_RETRY_S = 0.01
CONNECT_TRIES = 500
NAME_TRIES = 8
"""For a name that somebody else has bound; of a token's 128 bits that is no accident."""


class _Way:
    """One direction of a connection: at most one piece is held while its receiver is full."""

    __slots__ = ("_buffer", "_loop", "_on_end", "_pending", "_sink", "_source", "_wary", "ended")

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        buffer: memoryview,
        on_end: Callable[[OSError | None], None],
        *,
        wary: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source, self._sink = source, sink
        self._wary = wary
        self._buffer = buffer
        self._on_end = on_end
        self._pending = memoryview(b"")
        self.ended = False
        self._loop.add_reader(source, self._readable)

    def _readable(self) -> None:
        try:
            count = self._receive()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if count == 0:
            self._half_close()
            return
        try:
            sent = self._sink.send(self._buffer[:count])
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._end(error)
            return
        if sent < count:
            # The buffer is shared by all connections, so what is held back is copied out of it.
            self._pending = memoryview(bytes(self._buffer[sent:count]))
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._writable)

    def _receive(self) -> int:
        """Put what came into the buffer. Where descriptors may come, it is looked at first, and
        only what came without any is read: who reads one has to close it (`linux.parting`)."""
        if not self._wary:
            return self._source.recv_into(self._buffer)
        count, _, flags, _ = self._source.recvmsg_into([self._buffer], 0, socket.MSG_PEEK)
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EPROTO, "descriptors came, which nobody asked for")
        return self._source.recv_into(self._buffer, count) if count else 0

    def _writable(self) -> None:
        try:
            sent = self._sink.send(self._pending)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        self._pending = self._pending[sent:]
        if not self._pending:
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._readable)

    def _half_close(self) -> None:
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._end(error)
            return
        self._end(None)

    def _end(self, error: OSError | None) -> None:
        self.stop()
        self._on_end(error)

    def stop(self) -> None:
        """Copy no more. Safe to repeat."""
        if not self.ended:
            self.ended = True
            self._loop.remove_reader(self._source)
            self._loop.remove_writer(self._sink)


class _Link:
    """An accepted connection and its twin to gRPC, until gRPC's end closes or one breaks.

    A client may close its half and still read. gRPC closes as a whole, and its word is final: a
    client that keeps its end open all the same does not keep its place.
    """

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        buffer: memoryview,
        on_close: Callable[[_Link], None],
        undertaker: Undertaker | None,
    ) -> None:
        self._client, self._server = client, server
        self._undertaker = undertaker
        self._on_close = on_close
        self._closed = False
        self._abandoned = False
        self._hang_up = select.poll()
        self._hang_up.register(server, select.POLLRDHUP)
        self._ways = (
            _Way(client, server, buffer, self._client_ended, wary=undertaker is not None),
            _Way(server, client, buffer, self._server_ended),
        )

    def _client_ended(self, error: OSError | None) -> None:
        if error is not None:
            self.close()

    def _server_ended(self, _error: OSError | None) -> None:
        self.close()

    def sweep(self) -> None:
        """Close a connection that gRPC has closed and whose client does not read the rest.

        While a piece waits for the client, nobody reads gRPC's end, so its close is not seen.
        """
        if not self._hang_up.poll(0):
            return
        if self._abandoned:
            self.close()
        self._abandoned = True

    def close(self) -> None:
        """Close both ends. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        for way in self._ways:
            way.stop()
        self._server.close()
        _close(self._client, self._undertaker)
        self._on_close(self)


def _close(client: socket.socket, undertaker: Undertaker | None) -> None:
    if undertaker is None:
        client.close()
    else:
        undertaker.bury(client)


class _Quiet:
    """Warnings of one kind: a line now and then, with the count of all."""

    def __init__(self, message: str) -> None:
        self._message = message
        self.count = 0
        self._until_s = 0.0

    def warn(self, *arguments: object) -> None:
        self.count += 1
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._until_s:
            self._until_s = now_s + QUIET_S
            log.warning(f"{self._message} (%d so far)", *arguments, self.count)


class Front:
    """One public listening socket, and the connections that came in through it.

    `on_refused` hears of each connection for which there was no place or no time. `describe` says
    who is at its other end, in place of `peer_of`, or raises OSError where nobody is to be there.
    """

    def __init__(
        self,
        listener: socket.socket,
        target: str,
        peers: Peers,
        on_refused: Callable[[Peer], None],
        describe: Callable[[socket.socket], Peer] | None = None,
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._listens = True
        self._target = target
        self._peers = peers
        self._on_refused = on_refused
        self._describe = describe
        may_come = listener.family == socket.AF_UNIX and not take_no_descriptors(listener)
        self._undertaker = Undertaker() if may_come else None
        self._buffer = memoryview(bytearray(COPY_BYTES))
        self._links: dict[_Link, str] = {}
        self._timers: dict[_Link, asyncio.TimerHandle] = {}
        self._not_accepted = _Quiet("accept failed: %s")
        self._refused = _Quiet("refused a connection of %s")
        self._broken = _Quiet("a connection could not be passed on: %s")
        self._task: asyncio.Task[None] | None = None
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to accept on a socket that listens."""
        self._task = asyncio.create_task(self._accept_all(), name="stockade-front")
        self._sweeper = asyncio.create_task(self._sweep_all(), name="stockade-front-sweep")

    async def stop_accepting(self) -> None:
        """Take no new connection; those that stand go on. Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._listens:
            self._listens = False
            if self._undertaker is None:
                self._listener.close()
            else:
                self._undertaker.give_away(self._listener)

    async def close(self) -> None:
        """Take no new connection and cut those that stand."""
        await self.stop_accepting()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
        for link in list(self._links):
            link.close()
        if self._undertaker is not None:
            await self._undertaker.close()

    async def _accept_all(self) -> None:
        while True:
            refused = self._refused.count
            try:
                emptied = await self._accept_batch()
            except OSError as error:
                # Out of descriptors, or the client was gone before it was accepted.
                self._not_accepted.warn(error)
                await asyncio.sleep(ACCEPT_RETRY_S)
            else:
                rest = emptied and self._refused.count > refused
                await asyncio.sleep(REFUSED_S if rest else 0)

    async def _accept_batch(self) -> bool:
        """Take what waits, a batch at most, and say whether that was all; wait for the first."""
        # Not sock_accept(): who cancels that may lose a connection, which nobody closes well then.
        await wait_readable(self._listener.fileno())
        for _ in range(ACCEPT_BATCH):
            if self._undertaker is not None:
                await self._undertaker.room()
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return True
            await self._take(connection)
        return False

    async def _take(self, connection: socket.socket) -> None:
        try:
            await self._admit(connection)
        except NoRoomError as error:
            self._refused.warn(error)
        except OSError as error:
            self._broken.warn(error)
        except Exception:
            # A bug that one connection meets must not close the door for the others.
            log.exception("a connection could not be passed on")

    async def _sweep_all(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for link in list(self._links):
                link.sweep()

    async def _admit(self, connection: socket.socket) -> None:
        try:
            if self._undertaker is not None:
                take_all_in_order(connection)
            peer = (self._describe or peer_of)(connection)
            if not self._peers.meet(peer):
                # No exception: this is the way that a flood takes.
                _close(connection, self._undertaker)
                self._on_refused(peer)
                self._refused.warn(f"{peer.address}: it connects too often")
                return
            self._tune(connection)
            name, twin = await self._twin(peer)
        except BaseException:
            _close(connection, self._undertaker)
            raise
        self._pass_on(connection, twin, name)

    async def _twin(self, peer: Peer) -> tuple[str, socket.socket]:
        for _ in range(NAME_TRIES):
            try:
                name = self._peers.add(peer)
            except NoRoomError:
                self._on_refused(peer)
                raise
            try:
                return name, await self._connect(name)
            except BaseException as error:
                self._peers.remove(name)
                if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"{NAME_TRIES} names in turn were bound by somebody else")

    def _pass_on(self, connection: socket.socket, twin: socket.socket, name: str) -> None:
        link = _Link(connection, twin, self._buffer, self._closed, self._undertaker)
        self._links[link] = name
        if self._peers.is_stranger(name):
            loop = asyncio.get_running_loop()
            self._timers[link] = loop.call_later(STRANGER_S, link.close)

    async def _connect(self, name: str) -> socket.socket:
        twin = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            twin.setblocking(False)
            twin.bind(f"\0{name}")
            for _ in range(CONNECT_TRIES):
                try:
                    twin.connect(self._target)
                except BlockingIOError:  # gRPC's backlog is full (unix(7): EAGAIN)
                    await asyncio.sleep(CONNECT_RETRY_S)
                else:
                    return twin
            raise TimeoutError("gRPC does not accept connections")
        except BaseException:
            twin.close()
            raise

    @staticmethod
    def _tune(connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family == socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        else:
            # gRPC has put its frames together already; waiting for more only adds delay.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _closed(self, link: _Link) -> None:
        self._peers.remove(self._links.pop(link))
        timer = self._timers.pop(link, None)
        if timer is not None:
            timer.cancel()
