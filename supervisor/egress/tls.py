"""Hold a TLS connection to the name that was asked for, without terminating it. No I/O.

`ClientHelloCheck` reads a ClientHello, however it is cut into segments and records, and passes it
where its server name is the one asked for. Two readers must agree: OpenSSL's and our own walk. What
either cannot read is refused; nothing is passed for want of understanding.

An encrypted ClientHello is refused, also one that only greases: its outer name says nothing of
where the connection goes, and from outside the two look the same.

`TlsGate` holds both directions, since a server may answer with a HelloRetryRequest, upon which the
client says hello again, and could name another server. Once the server's answer is a ServerHello
proper, no further name is taken from the client, and the caller may move bytes as it likes. What
the client names *inside* the encrypted stream (its HTTP Host) is not seen here: that is for
`inspect: tls-terminate`.
"""

from __future__ import annotations

import enum
import ssl
from dataclasses import dataclass
from typing import cast

from supervisor.egress.hello import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    CLIENT_HELLO,
    HANDSHAKE,
    HEADER_BYTES,
    MESSAGE_HEADER_BYTES,
    RANDOM_BYTES,
    RETRY_RANDOM,
    SERVER_HELLO,
    HelloError,
    Records,
    record_length,
    refuse_odd,
    server_name,
)
from supervisor.profile import hosts

HELLO_BYTES_MAX = 64 * 1024
"""What is held of a client before its hello is whole, record headers included."""
ANSWER_BYTES_MAX = 64 * 1024
"""How long a server's HelloRetryRequest may be."""

refusal_alert = bytes((ALERT, 3, 3, 0, 2, 2, 112))
"""A record with the fatal alert `unrecognized_name` (RFC 6066, section 3), for the client."""


@dataclass(frozen=True, slots=True)
class NeedMore:
    """The hello is not whole yet, and nothing is wrong so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """The hello names whom it may: `hello` may be sent on as it came; `rest` came behind it."""

    hello: bytes
    rest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Nothing of the connection may go on, and why."""

    reason: str


class _Listener(ssl.SSLObject):
    """OpenSSL as a server that hangs up as soon as it has read a name."""

    asked: str | None = None


def _note(
    connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext
) -> int:
    if isinstance(connection, _Listener):  # It always is: the context makes no other.
        connection.asked = name
    return ssl.ALERT_DESCRIPTION_ACCESS_DENIED


def _listening() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Listener
    context.sni_callback = _note
    # Which versions and ciphers are good enough is for the two ends to say.
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


_LISTENING = _listening()


def openssl_name(hello: bytes) -> str:
    """Give the server name that OpenSSL reads in the records of a ClientHello, as it stands there.

    Raises:
        HelloError: OpenSSL does not take the hello, or finds no name in it.
    """
    incoming = ssl.MemoryBIO()
    wrapped = _LISTENING.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    connection = cast("_Listener", wrapped)  # `sslobject_class` says so.
    incoming.write(hello)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        raise HelloError("OpenSSL waits for more of this ClientHello") from None
    except ssl.SSLError as error:
        if connection.asked is None:
            reason = error.reason or "no reason given"
            raise HelloError(f"OpenSSL does not take this ClientHello: {reason}") from None
    if connection.asked is None:
        raise HelloError("OpenSSL finds no server name")
    return connection.asked


class ClientHelloCheck:
    """Reads one ClientHello that must name `name`, and nothing behind it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._held = bytearray()
        self._message = bytearray()
        self._read = 0  # How much of what is held has gone into the message.
        self._end: Passed | Refused | None = None

    def feed(self, data: bytes) -> NeedMore | Passed | Refused:
        """Take more of what the client sent. Once it has passed or refused, that is all it says."""
        if self._end is not None:
            return self._end
        self._held += data
        try:
            self._end = self._look()
        except HelloError as error:
            self._end = Refused(reason=str(error))
        return self._end or NeedMore()

    def _look(self) -> Passed | None:
        held = self._held
        _refuse_early(held)
        while not self._whole():
            start = self._read + HEADER_BYTES
            if len(held) < start:
                break
            if held[self._read] != HANDSHAKE:
                raise HelloError(f"a TLS record of type {held[self._read]} before the ClientHello")
            end = start + record_length(held[self._read : start])
            if end > HELLO_BYTES_MAX:
                raise HelloError(f"a ClientHello of more than {HELLO_BYTES_MAX} bytes")
            if len(held) < end:
                break
            self._message += held[start:end]
            self._read = end
        if not self._whole():
            if len(held) > HELLO_BYTES_MAX:
                raise HelloError(f"a ClientHello of more than {HELLO_BYTES_MAX} bytes")
            return None
        self._judge()
        return Passed(hello=bytes(held[: self._read]), rest=bytes(held[self._read :]))

    def _whole(self) -> bool:
        message = self._message
        if message and message[0] != CLIENT_HELLO:
            raise HelloError(
                f"a handshake message of type {message[0]} where a ClientHello belongs"
            )
        if len(message) < MESSAGE_HEADER_BYTES:
            return False
        length = MESSAGE_HEADER_BYTES + int.from_bytes(message[1:4], "big")
        if length > HELLO_BYTES_MAX:
            raise HelloError(f"a ClientHello of more than {HELLO_BYTES_MAX} bytes")
        if len(message) > length:
            raise HelloError("bytes behind the ClientHello in its own record")
        return len(message) == length

    def _judge(self) -> None:
        named = server_name(bytes(self._message[MESSAGE_HEADER_BYTES:]))
        other = openssl_name(bytes(self._held[: self._read]))
        try:
            agreed = hosts.canonical(other) == named
        except hosts.HostnameError:
            agreed = False
        if not agreed:
            raise HelloError(f"two readers of the server name differ: {named}, {other!a}")
        if named != self._name:
            raise HelloError(f"server name {named} where {self._name} was asked for")


def _refuse_early(held: bytearray) -> None:
    """Refuse what is no TLS as soon as it can be told, so that its sender does not wait."""
    if len(held) >= 3 and held[0] & 0x80 and held[2] == CLIENT_HELLO:
        raise HelloError("an SSLv2 ClientHello")
    if held and held[0] not in {CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA}:
        if not held[0] & 0x80 or len(held) >= 3:
            raise HelloError("not TLS")
    elif len(held) >= 2 and held[1] != 3:
        raise HelloError("not TLS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What may be sent on now."""

    to_server: bytes = b""
    to_client: bytes = b""


class _Phase(enum.Enum):
    HELLO = enum.auto()
    ANSWER = enum.auto()
    RETRY = enum.auto()
    FREE = enum.auto()


class TlsGate:
    """Both directions of a connection, until nothing can name another server any more.

    Give it what each side sent, send on what it says. When `free`, further bytes need not come
    through it. After a refusal it only refuses.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._phase = _Phase.HELLO
        self._check = ClientHelloCheck(name)
        self._client = Records()
        self._server = Records()
        self._answer = bytearray()
        self._retried = False
        self._refused: Refused | None = None

    @property
    def free(self) -> bool:
        """Say whether both directions may be joined."""
        return self._phase is _Phase.FREE and self._refused is None

    @property
    def said_hello(self) -> bool:
        """Say whether the first hello has passed: not before that is there a reason to dial."""
        return (self._retried or self._phase is not _Phase.HELLO) and self._refused is None

    def from_client(self, data: bytes) -> Step | Refused:
        """Take what the client sent."""
        return self._take(data, b"")

    def from_server(self, data: bytes) -> Step | Refused:
        """Take what the server sent."""
        return self._take(b"", data)

    def client_ended(self) -> Step | Refused:
        """Take that the client sends no more: before its hello has passed, that is a refusal."""
        if self._refused is None and self._phase in {_Phase.HELLO, _Phase.RETRY}:
            self._refused = Refused(reason="the client ended before its ClientHello was whole")
        return self._refused or Step()

    def _take(self, client: bytes, server: bytes) -> Step | Refused:
        if self._refused is not None:
            return self._refused
        try:
            to_client = self._server_said(server) if server else b""
            to_server = self._client_said(client)
            if self._phase is _Phase.FREE:  # The answer may have set free what was held.
                to_server += self._client.rest()
                to_client += self._server.rest()
        except HelloError as error:
            self._refused = Refused(reason=str(error))
            return self._refused
        return Step(to_server=to_server, to_client=to_client)

    def _client_said(self, data: bytes) -> bytes:
        if self._phase is _Phase.HELLO:
            return self._hello(data)
        self._client.held += data
        return b"" if self._phase is _Phase.FREE else self._between()

    def _hello(self, data: bytes) -> bytes:
        said = self._check.feed(data)
        if isinstance(said, NeedMore):
            return b""
        if isinstance(said, Refused):
            raise HelloError(said.reason)
        self._phase = _Phase.ANSWER
        self._answer.clear()
        self._client.held += said.rest
        return said.hello + self._between()

    def _between(self) -> bytes:
        """Pass what a client may send between a hello and the server's answer: early data, a
        ChangeCipherSpec for old middleboxes, an alert; a hello only where the server asked."""
        passed = bytearray()
        records = self._client
        while True:
            passed += records.stream()
            kind = records.kind() if not records.body else None
            if kind is None:
                return bytes(passed)
            if kind == APPLICATION_DATA:
                passed += records.begin()
            elif kind == HANDSHAKE:
                return bytes(passed) + self._again()
            elif (record := records.whole()) is None:
                return bytes(passed)
            else:
                refuse_odd(record)
                passed += record

    def _again(self) -> bytes:
        if self._phase is not _Phase.RETRY:
            raise HelloError("a further handshake message before the server's answer")
        self._phase = _Phase.HELLO
        self._check = ClientHelloCheck(self._name)
        return self._hello(self._client.rest())

    def _server_said(self, data: bytes) -> bytes:
        self._server.held += data
        passed = bytearray()
        while self._phase is not _Phase.FREE and (kind := self._server.kind()) is not None:
            if self._phase is _Phase.HELLO and not self._retried:
                raise HelloError("the server spoke before the client")
            if kind == APPLICATION_DATA:
                raise HelloError("the server sent data before its ServerHello")
            record = self._server.whole()
            if record is None:
                break
            if kind == HANDSHAKE:
                self._answer += record[HEADER_BYTES:]
                self._read_answer()
            else:
                refuse_odd(record)
            passed += record
        return bytes(passed)

    def _read_answer(self) -> None:
        answer = self._answer
        if self._phase is not _Phase.ANSWER:
            raise HelloError("the server went on behind its HelloRetryRequest")
        if answer[0] != SERVER_HELLO:
            raise HelloError(f"the server answered with a handshake message of type {answer[0]}")
        start = MESSAGE_HEADER_BYTES + 2
        if len(answer) < start + RANDOM_BYTES:
            return
        if answer[start : start + RANDOM_BYTES] != RETRY_RANDOM:
            self._phase = _Phase.FREE
            return
        length = MESSAGE_HEADER_BYTES + int.from_bytes(answer[1:4], "big")
        if self._retried:
            raise HelloError("a second HelloRetryRequest")
        if len(answer) > length:
            raise HelloError("the server went on behind its HelloRetryRequest")
        if length > ANSWER_BYTES_MAX:
            raise HelloError(f"a HelloRetryRequest of {length} bytes")
        if len(answer) == length:
            self._retried, self._phase = True, _Phase.RETRY
