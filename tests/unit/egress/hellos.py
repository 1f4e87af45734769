"""ClientHellos and answers, made by OpenSSL and by hand, for the tests of what reads them."""

from __future__ import annotations

import os
import ssl
import struct

from supervisor.egress.hello import RETRY_RANDOM

NAME = "api.github.com"


def openssl_hello(name: str | None = NAME, *, alpn: tuple[str, ...] = ()) -> bytes:
    """What OpenSSL says first to a server of that name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


def vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">HH", kind, len(body)) + body


def host_name(name: bytes, kind: int = 0) -> bytes:
    return bytes((kind,)) + vector(2, name)


def sni(*names: bytes) -> bytes:
    return extension(0, vector(2, b"".join(map(host_name, names))))


VERSIONS = extension(43, vector(1, b"\x03\x04\x03\x03"))
GROUPS = extension(10, vector(2, b"\x00\x1d\x00\x17"))
SIGNATURES = extension(13, vector(2, b"\x04\x03\x08\x04\x04\x01"))
KEY_SHARE = extension(51, vector(2, b"\x00\x1d" + vector(2, b"\x09" * 32)))
USUAL = (VERSIONS, GROUPS, SIGNATURES, KEY_SHARE)


def message(
    *extensions: bytes,
    suites: bytes = b"\x13\x01\x13\x02\xc0\x2f",
    session: bytes = b"",
    compression: bytes = b"\x00",
    behind: bytes = b"",
    usual: bool = True,
) -> bytes:
    """A ClientHello message by hand, with its four-byte header."""
    listed = b"".join(extensions) + (b"".join(USUAL) if usual else b"")
    body = (
        b"\x03\x03" + bytes(range(32)) + vector(1, session) + vector(2, suites)
        + vector(1, compression) + vector(2, listed) + behind
    )  # fmt: skip
    return b"\x01" + vector(3, body)


def record(data: bytes, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    return bytes((kind,)) + version + vector(2, data)


def records(data: bytes, size: int) -> bytes:
    """The message in several records of `size` bytes."""
    return b"".join(record(data[at : at + size]) for at in range(0, len(data), size))


def hello(*extensions: bytes) -> bytes:
    return record(message(*extensions))


def server_hello(random: bytes | None = None, behind: bytes = b"") -> bytes:
    """A ServerHello message (not a record); with `RETRY_RANDOM` it is a HelloRetryRequest."""
    body = (
        b"\x03\x03" + (random or os.urandom(32)) + vector(1, b"") + b"\x13\x01\x00"
        + vector(2, extension(43, b"\x03\x04") + extension(51, b"\x00\x17"))
    )  # fmt: skip
    return b"\x02" + vector(3, body) + behind


def retry() -> bytes:
    return record(server_hello(RETRY_RANDOM))


CCS = record(b"\x01", 20)
EARLY = record(b"\xee" * 100, 23)
WARNING = record(b"\x01\x70", 21)
