"""Accept every connection in front of gRPC, note who is at its other end, and pass bytes on.

gRPC does not tell a unix peer's credentials. So the daemon listens itself: it reads SO_PEERCRED
(unix(7)) of each accepted connection, opens a second one to gRPC's own socket in a folder that
only the daemon can enter, and copies bytes both ways. The second connection comes from an abstract
name that was made up for it; gRPC reports that name as the peer of each request, and `Peers` knows
whose it is. TLS passes through unread: it ends in gRPC, and only the count and the address are
kept here.

Two rules. A connection is in `Peers` before gRPC can see it, and until both of its ends are closed.
Nothing here looks at a byte that it copies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("stockade.api")

COPY_BYTES = 512 * 1024
"""What one readable socket may hand over at a time, so that no connection starves the others. The
kernel gives at most what the sender's buffer held, 208 KiB by default."""

SEND_BUFFER_BYTES = 1 << 20
"""Asked for on the way to the client: a larger piece a wake-up. The kernel caps it at wmem_max."""

REFUSALS_QUIET_S = 10.0
"""How long one line in the log speaks for all refusals: whoever floods the door does not also
flood the log."""

ACCEPT_RETRY_S = 0.1
SWEEP_S = 5.0
CONNECT_RETRY_S = 0.01
CONNECT_TRIES = 500
PEER_SCHEME = "unix-abstract:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end of a connection: credentials on a unix socket, an address on TCP."""

    transport: str  # "unix" or "tls"
    address: str
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None


class Peers:
    """Who is at the other end of each live connection, by the name that gRPC reports.

    Holds at most `connections_max` peers of each transport, so that strangers on TCP, who get as
    far as TLS before anybody knows them, cannot keep the callers on the unix socket out. The
    names cannot be guessed, but that is a second line: only what can enter the daemon's private
    folder can connect to gRPC at all.
    """

    def __init__(self, connections_max: int) -> None:
        self.connections_max = connections_max
        self._prefix = f"stockade-{secrets.token_hex(16)}-"
        self._next = 0
        self._peers: dict[str, Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, peer: Peer) -> str | None:
        """Give a new name to `peer`, or None where there is no room."""
        if sum(peer.transport == held.transport for held in self._peers.values()) >= (
            self.connections_max
        ):
            return None
        self._next += 1
        name = f"{self._prefix}{self._next}"
        self._peers[name] = peer
        return name

    def remove(self, name: str) -> None:
        """Forget a connection that is closed."""
        del self._peers[name]

    def find(self, reported: str) -> Peer | None:
        """Give whose connection gRPC's `context.peer()` means, or None where it is not ours."""
        if not reported.startswith(PEER_SCHEME):
            return None
        return self._peers.get(reported.removeprefix(PEER_SCHEME))


def peer_of(connection: socket.socket) -> Peer:
    """Read who is at the other end of an accepted connection.

    Raises:
        OSError: the connection is already gone.
    """
    if connection.family == socket.AF_UNIX:
        size = struct.calcsize("3i")
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, gid = struct.unpack("iII", raw)
        return Peer(transport="unix", address=f"uid {uid}", uid=uid, gid=gid, pid=pid)
    host, port, *_ = connection.getpeername()
    return Peer(transport="tls", address=f"{host}:{port}")


class _Way:
    """One direction of a connection: at most one piece is held while its receiver is full."""

    __slots__ = ("_buffer", "_loop", "_on_end", "_pending", "_sink", "_source", "ended")

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        buffer: memoryview,
        on_end: Callable[[OSError | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source, self._sink = source, sink
        self._buffer = buffer
        self._on_end = on_end
        self._pending = memoryview(b"")
        self.ended = False
        self._loop.add_reader(source, self._readable)

    def _readable(self) -> None:
        try:
            count = self._source.recv_into(self._buffer)
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
    ) -> None:
        self._sockets = (client, server)
        self._on_close = on_close
        self._closed = False
        self._abandoned = False
        self._hang_up = select.poll()
        self._hang_up.register(server, select.POLLRDHUP)
        self._ways = (
            _Way(client, server, buffer, self._client_ended),
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
        for end in self._sockets:
            end.close()
        self._on_close(self)


class Front:
    """One public listening socket, and the connections that came in through it."""

    def __init__(self, listener: socket.socket, target: str, peers: Peers) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._target = target
        self._peers = peers
        self._buffer = memoryview(bytearray(COPY_BYTES))
        self._links: dict[_Link, str] = {}
        self._refused = 0
        self._quiet_until_s = 0.0
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
        self._listener.close()

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

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                # Out of descriptors, or the client was gone before it was accepted.
                log.warning("accept failed: %s", error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            try:
                await self._admit(connection)
            except Exception:
                # One connection that goes wrong must not close the door for the others.
                connection.close()
                log.exception("a connection could not be passed on")

    async def _sweep_all(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for link in list(self._links):
                link.sweep()

    async def _admit(self, connection: socket.socket) -> None:
        peer = peer_of(connection)
        name = self._peers.add(peer)
        if name is None:
            connection.close()
            self._note_refusal(peer)
            return
        try:
            twin = await self._connect(name)
        except BaseException:
            self._peers.remove(name)
            connection.close()
            raise
        self._tune(connection)
        self._links[_Link(connection, twin, self._buffer, self._closed)] = name

    def _note_refusal(self, peer: Peer) -> None:
        self._refused += 1
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + REFUSALS_QUIET_S
            log.warning(
                "refused a connection of %s, the %d. so far: all %d are in use",
                peer.address,
                self._refused,
                self._peers.connections_max,
            )

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
