"""A third reader of ClientHellos, for what the first two let pass."""

from __future__ import annotations

from tests.unit.egress import hellos

NAME = hellos.NAME.encode()
GOOD = hellos.hello(hellos.sni(NAME))
EVIL = hellos.hello(hellos.sni(b"evil.example.com"))
TOKENS = (
    b"\0", b"\0\0", b"\xff\xff", b"evil.example.com", NAME, b"\xfe\x0d", b"\xff\xce",
    b"\x16\x03\x01",
    b"\x17\x03\x03\x00\x01", b"\x14\x03\x03\x00\x01\x01", b"\x15\x03\x03\x00\x02\x01\x70", b"\x80",
    GOOD, EVIL, hellos.retry(), hellos.sni(b"evil.example.com"), hellos.sni(NAME),
    hellos.extension(0xFE0D, bytes(8)), hellos.host_name(b"evil.example.com"),
)  # fmt: skip
"""What mutations put in."""


def handshakes(data: bytes) -> list[bytes]:
    """Give the ClientHellos in records, joined where they follow each other in several."""
    found, open_ = [], b""
    while len(data) >= 5:
        kind, length = data[0], int.from_bytes(data[3:5], "big")
        body, data = data[5 : 5 + length], data[5 + length :]
        if kind != 22:
            assert not open_, "another record within a hello"
            continue
        open_ += body
        if len(open_) >= 4 and len(open_) >= 4 + int.from_bytes(open_[1:4], "big"):
            assert open_[0] == 1, open_
            found.append(open_)
            open_ = b""
    assert not open_, "a hello that is cut"
    return found


def names_the_server(message: bytes) -> None:
    """Read a ClientHello backwards from where its name must be: a third reader."""
    at = 4 + 2 + 32
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at : at + 2], "big")
    at += 1 + message[at]
    end = at + 2 + int.from_bytes(message[at : at + 2], "big")
    assert end == len(message), message
    at += 2
    names = []
    while at < end:
        kind, length = int.from_bytes(message[at : at + 2], "big"), message[at + 2 : at + 4]
        body = message[at + 4 : at + 4 + int.from_bytes(length, "big")]
        assert kind not in {0xFE0D, 0xFFCE, 0xFF02, 0xFF03}, "a hidden name"
        if kind == 0:
            names.append(body)
        at += 4 + len(body)
    [listed] = names
    assert listed[:3] == len(listed[2:]).to_bytes(2, "big") + b"\0", listed
    assert listed[3:5] == len(listed[5:]).to_bytes(2, "big"), listed
    assert listed[5:].lower().removesuffix(b".") == NAME, listed
