"""Heads in pieces, and what no head may hold."""

from __future__ import annotations

import pytest

from supervisor.egress.head import (
    CHUNKED,
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    HeadError,
    Heads,
    framing_of,
    shown,
)

HEAD = b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_head_is_taken_once_it_is_whole(size: int) -> None:
    heads, held, taken = Heads(), bytearray(), []
    for at in range(0, len(HEAD) * 2, size):
        held += (HEAD + HEAD)[at : at + size]
        while (head := heads.take(held)) is not None:
            taken.append(head)
    assert taken == [HEAD, HEAD]
    assert not held


def test_what_follows_the_head_is_not_looked_at() -> None:
    held = bytearray(HEAD + b"\n \x00\r")
    assert Heads().take(held) == HEAD
    assert held == b"\n \x00\r"


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\n", "CR LF"),
        (b"GET / HTTP/1.1\rHost", "CR LF"),
        (b"\nGET", "CR LF"),
        (b"GET / HTTP/1.1\r\n Host", "folded"),
        (b"GET / HTTP/1.1\r\n\tHost", "folded"),
        (b"GET /\x00", "0x00"),
        (b"GET /\x0b", "0x0b"),
        (b"GET /\x7f", "0x7f"),
        (b"\x16\x03\x01", "TLS"),
    ],
)
def test_what_no_head_may_hold_is_told_at_once(data: bytes, reason: str, size: int) -> None:
    heads, held = Heads(), bytearray()
    with pytest.raises(HeadError, match=reason):
        for at in range(0, len(data), size):
            held += data[at : at + size]
            heads.take(held)


def test_heads_are_bounded() -> None:
    longest = HEAD[:-4] + b"a" * (HEAD_BYTES_MAX - len(HEAD)) + b"\r\n\r\n"
    assert Heads().take(bytearray(longest)) == longest
    with pytest.raises(HeadError, match="more than 65536 bytes"):
        Heads().take(bytearray(b"a" + longest))
    with pytest.raises(HeadError, match="more than 65536 bytes"):
        Heads().take(bytearray(b"a" * (HEAD_BYTES_MAX + 1)))
    most = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * HEADERS_MAX + b"\r\n"
    assert Heads().take(bytearray(most)) == most
    with pytest.raises(HeadError, match="more than 128 headers"):
        Heads().take(bytearray(b"GET / HTTP/1.1\r\nX: y\r\n" + most.partition(b"\r\n")[2]))


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        (b"", None),
        (b"Content-Length: 0\r\n", 0),
        (b"content-LENGTH:\t12 \r\n", 12),
        (b"Transfer-Encoding: Chunked\r\n", CHUNKED),
        (b"X-Content-Length: 1\r\n", None),
    ],
)
def test_framing(lines: bytes, framing: int | None) -> None:
    assert framing_of(b"GET / HTTP/1.1\r\n" + lines + b"\r\n") == framing


def test_what_is_shown_is_short_and_plain() -> None:
    assert shown(b"\x1b[31m\xff" + b"a" * 200) == "'\\x1b[31m\\xff" + "a" * 74 + "'…"
