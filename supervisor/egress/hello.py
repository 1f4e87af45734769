"""The first words of a TLS connection, taken apart: records, and a ClientHello's server name.

An own reader beside OpenSSL's, since that tells neither of encrypted hellos nor of an extension
that is there twice. It takes nothing that RFC 8446 forbids, and raises `HelloError` with a reason.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from supervisor.profile import hosts

HEADER_BYTES = 5
RECORD_BYTES_MAX = 2**14
"""What a record may carry in the clear (RFC 8446, section 5.1)."""
SEALED_BYTES_MAX = 2**14 + 2048
"""What an encrypted record may carry; TLS 1.2 adds the most (RFC 5246, section 6.2.3)."""

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
CLIENT_HELLO, SERVER_HELLO = 1, 2
MESSAGE_HEADER_BYTES = 4
RANDOM_BYTES = 32

_SERVER_NAME = 0
_HOST_NAME = 0
_ENCRYPTED = frozenset({0xFFCE, 0xFF02, 0xFF03, 0xFF04, 0xDA09, 0xFD00, *range(0xFE08, 0xFE10)})
"""`encrypted_client_hello` (0xfe0d) and what its drafts used: encrypted_server_name 0xffce, 0xff02
and its helpers to 0xff04, 0xfe08 and on, is_inner 0xda09, outer_extensions 0xfd00."""

RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random of a ServerHello that is a HelloRetryRequest (RFC 8446, section 4.1.3)."""


class HelloError(Exception):
    """What was said is not what may be said here."""


def record_length(header: bytes | bytearray, longest: int = RECORD_BYTES_MAX) -> int:
    """Give how many bytes follow the five of a record's header.

    Raises:
        HelloError: it is no header of a TLS record that may be sent.
    """
    kind, major, length = header[0], header[1], int.from_bytes(header[3:5], "big")
    if kind not in {CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA} or major != 3:
        raise HelloError("not TLS")
    if length > longest:
        raise HelloError(f"a TLS record of {length} bytes")
    if length == 0 and kind != APPLICATION_DATA:
        raise HelloError("an empty TLS record")
    return length


def refuse_odd(record: bytes) -> None:
    """Refuse a ChangeCipherSpec or an alert that is not the one message in its record."""
    kind, body = record[0], record[HEADER_BYTES:]
    if kind == CHANGE_CIPHER_SPEC and body != b"\x01":
        raise HelloError("a malformed ChangeCipherSpec")
    if kind == ALERT and len(body) != 2:
        raise HelloError("a malformed alert")


@dataclass(slots=True)
class Records:
    """Cuts a direction into records. `body` counts what is still to come of one that streams."""

    held: bytearray = field(default_factory=bytearray)
    body: int = 0

    def stream(self) -> bytes:
        """Take what is there of the record that streams."""
        taken = bytes(self.held[: self.body])
        del self.held[: len(taken)]
        self.body -= len(taken)
        return taken

    def kind(self) -> int | None:
        """Say what the next record is, once its header is whole and right."""
        if len(self.held) < HEADER_BYTES:
            return None
        record_length(self.held[:HEADER_BYTES], SEALED_BYTES_MAX)
        return self.held[0]

    def begin(self) -> bytes:
        """Take the next record's header; its body then streams."""
        header = bytes(self.held[:HEADER_BYTES])
        self.body = record_length(header, SEALED_BYTES_MAX)
        del self.held[:HEADER_BYTES]
        return header

    def whole(self) -> bytes | None:
        """Take the next record, once all of it is there."""
        end = HEADER_BYTES + record_length(self.held[:HEADER_BYTES])
        if len(self.held) < end:
            return None
        taken = bytes(self.held[:end])
        del self.held[:end]
        return taken

    def rest(self) -> bytes:
        """Take all that is held."""
        taken = bytes(self.held)
        self.held.clear()
        return taken


class _Reader:
    """Takes fields from the front of a message; a field that is not all there is an error."""

    __slots__ = ("_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what = memoryview(data), what

    def take(self, count: int) -> bytes:
        if count > len(self._data):
            raise HelloError(f"{self._what} is cut short")
        taken, self._data = bytes(self._data[:count]), self._data[count:]
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))

    def more(self) -> bool:
        return len(self._data) > 0


def server_name(message: bytes) -> str:
    """Give the one server name of a ClientHello (without the message's own header), canonical.

    Raises:
        HelloError: it is malformed, names no server, several or an address, or hides its name.
    """
    extensions = _extensions(message)
    hidden = _ENCRYPTED & extensions.keys()
    if hidden:
        raise HelloError(f"an encrypted ClientHello (extension 0x{min(hidden):04x})")
    if _SERVER_NAME not in extensions:
        raise HelloError("no server name (SNI)")
    listed = _Reader(extensions[_SERVER_NAME], "the server name extension")
    names = _Reader(listed.vector(2), "the list of server names")
    if listed.more():
        raise HelloError("bytes behind the list of server names")
    kind, name = names.number(1), names.vector(2)
    if names.more():
        raise HelloError("several server names")
    if kind != _HOST_NAME:
        raise HelloError(f"a server name of kind {kind}")
    return _canonical(name)


def _canonical(name: bytes) -> str:
    try:
        return hosts.canonical(name.decode("ascii"))
    except UnicodeDecodeError:
        raise HelloError("a server name that is not ASCII") from None
    except hosts.HostnameError as error:
        raise HelloError(f"a server name that is none: {error}") from None


def _extensions(message: bytes) -> dict[int, bytes]:
    """Walk a ClientHello (RFC 8446, section 4.1.2) to its end; give its extensions."""
    hello = _Reader(message, "the ClientHello")
    hello.take(2 + RANDOM_BYTES)
    session = hello.vector(1)
    suites = hello.vector(2)
    compression = hello.vector(1)
    if len(session) > 32 or len(suites) % 2 or not suites or 0 not in compression:
        raise HelloError("a malformed ClientHello")
    if not hello.more():
        return {}  # As old as SSL 3: without extensions, so without a name, which is then refused.
    listed = _Reader(hello.vector(2), "the list of extensions")
    if hello.more():
        raise HelloError("bytes behind the ClientHello's extensions")
    found: dict[int, bytes] = {}
    while listed.more():
        kind, body = listed.number(2), listed.vector(2)
        if kind in found:
            raise HelloError(f"extension 0x{kind:04x} twice")
        found[kind] = body
    return found
