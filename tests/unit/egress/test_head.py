"""Heads in pieces, and what no head may hold."""

from __future__ import annotations

import h11
import pytest

from supervisor.egress.head import (
    CHUNKED,
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    HeadError,
    Heads,
    framing_of,
    request_of,
    response_of,
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


def test_a_request_in_parts() -> None:
    request = request_of(b"GET /a?b HTTP/1.1\r\nHost:\t a.example.com \r\nX:\r\n\r\n")
    assert (request.method, request.target, request.http_version) == (b"GET", b"/a?b", b"1.1")
    assert request.headers.raw_items() == [(b"Host", b"a.example.com"), (b"X", b"")]


def test_a_response_in_parts() -> None:
    response = response_of(b"HTTP/1.0 404 Not: found\r\nX: y: z\r\n\r\n")
    assert isinstance(response, h11.Response)
    assert (response.status_code, response.reason) == (404, b"Not: found")
    assert response.http_version == b"1.0"
    assert response.headers.raw_items() == [(b"X", b"y: z")]
    assert isinstance(response_of(b"HTTP/1.1 199\r\n\r\n"), h11.InformationalResponse)


@pytest.mark.parametrize(
    "lines",
    [
        b"", b"GET /", b"GET / HTTP/1.1 ", b"GET  / HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/11",
        b"GET / http/1.1", b"G\xe4T / HTTP/1.1", b"GET /\xa0 HTTP/1.1", b"GET / HTTP/1.1\r\nHost",
        b"GET / HTTP/1.1\r\nHost : x", b"GET / HTTP/1.1\r\n: x", b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a", b"GET / HTTP/1.1\r\nHost: a\r\nA\xe4: b",
    ],
)  # fmt: skip
def test_what_is_no_request(lines: bytes) -> None:
    with pytest.raises((HeadError, h11.LocalProtocolError)):
        request_of(lines + b"\r\n\r\n")


@pytest.mark.parametrize(
    "lines",
    [
        b"", b"HTTP/1.1", b"HTTP/1.1 20", b"HTTP/1.1 2000 OK", b"HTTP/1.1 200OK",
        b"HTTP/11 200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 200 OK\r\nA",
        b"HTTP/1.1 200 OK\r\nA : b", b"ICY 200 OK",
    ],
)  # fmt: skip
def test_what_is_no_response(lines: bytes) -> None:
    with pytest.raises((HeadError, h11.LocalProtocolError)):
        response_of(lines + b"\r\n\r\n")


def test_what_is_shown_is_short_and_plain() -> None:
    assert shown(b"\x1b[31m\xff" + b"a" * 200) == "'\\x1b[31m\\xff'…"
