"""Receivers that are no real ones: stubs in a thread, which do what a test has them do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.export.sinks.wire import Tls
from tests.egress.servers.authority import Authority

NAME = "logs.test"
WAIT_S = 20.0

Talk = Callable[[socket.socket, "Served"], None]


@dataclass
class Served:
    """What one connection brought, whether it got past the handshake, and how it ended: "eof", or
    the error."""

    received: bytearray = field(default_factory=bytearray)
    talks: bool = False
    ended: str = ""


class Stub:
    """Listens on the loopback, serves one connection after the other in a thread.

    Each is given to `talk`. `buffer_bytes` is what its kernel takes for it; 0 leaves that alone.
    """

    def __init__(
        self, talk: Talk, context: ssl.SSLContext | None = None, buffer_bytes: int = 0
    ) -> None:
        self.talk = talk
        self.served: list[Served] = []
        self._context = context
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        if buffer_bytes:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def until(self, done: Callable[[], bool]) -> None:
        """Wait until something holds of what came."""
        with self._changed:
            assert self._changed.wait_for(done, WAIT_S), self.served

    def changed(self) -> None:
        """Have those look again who wait."""
        with self._changed:
            self._changed.notify_all()

    def drop(self) -> None:
        """End all connections, as a kill does."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.drop()
        self._thread.join(WAIT_S)
        self._listener.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(raw)
            one = Served()
            self.served.append(one)
            try:
                with contextlib.ExitStack() as stack:
                    connection = raw
                    if self._context is not None:
                        connection = self._context.wrap_socket(
                            raw, server_side=True, suppress_ragged_eofs=False
                        )
                        self._open.add(connection)
                    stack.callback(self._open.discard, connection)
                    stack.enter_context(connection)
                    one.talks = True
                    self.changed()
                    self.talk(connection, one)
                    one.ended = "eof"
            except OSError as error:
                one.ended = str(error)
            self._open.discard(raw)
            raw.close()
            self.changed()


def swallow(stub: Callable[[], Stub]) -> Talk:
    """Take all that comes, and say nothing."""

    def talk(connection: socket.socket, one: Served) -> None:
        while data := connection.recv(65536):
            one.received += data
            stub().changed()

    return talk


@contextlib.contextmanager
def stub(
    talk: Talk | None = None, context: ssl.SSLContext | None = None, buffer_bytes: int = 0
) -> Iterator[Stub]:
    """Have a stub that swallows, or talks as is said."""
    made: Stub = Stub(talk or swallow(lambda: made), context, buffer_bytes)
    try:
        yield made
    finally:
        made.close()


class Certificates:
    """An authority and what it certifies."""

    def __init__(self, folder: Path) -> None:
        self._authority = Authority(folder)
        self.ca = folder / "ca.pem"

    def chain(self, name: str = NAME) -> Path:
        return self._authority.chain(name)

    def tls(self, *, client: str = "", name: str = NAME) -> Tls:
        """Give what a sink needs to reach the stub."""
        mine = self.chain(client) if client else None
        return Tls(ca=self.ca, name=name, certificate=mine, key=mine)

    def context(self, *, client: bool = False) -> ssl.SSLContext:
        """Give what a stub needs; with `client`, it asks for a certificate of ours."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain())
        context.options &= (
            ~ssl.OP_IGNORE_UNEXPECTED_EOF
        )  # an end without a close_notify is an error
        if client:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
