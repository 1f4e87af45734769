"""How responses are framed, and what of their heads goes on."""

from __future__ import annotations

import h11
import pytest

from supervisor.egress.head import CHUNKED, HeadError
from supervisor.egress.responses import UNTIL_CLOSE, chunk, informational, read, written


def response(*lines: str, status: int = 200, version: str = "1.1") -> tuple[bytes, h11.Response]:
    head = "\r\n".join((f"HTTP/{version} {status} X", *lines, "", "")).encode()
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return head, h11.Response(status_code=status, headers=headers, http_version=version)


@pytest.mark.parametrize(
    ("lines", "status", "method", "framing"),
    [
        (["Content-Length: 5"], 200, b"GET", 5),
        (["Transfer-Encoding: chunked"], 200, b"GET", CHUNKED),
        ([], 200, b"GET", UNTIL_CLOSE),
        (["Content-Length: 5"], 200, b"HEAD", 0),
        (["Transfer-Encoding: chunked"], 200, b"HEAD", 0),
        ([], 204, b"GET", 0),
        (["Content-Length: 5"], 304, b"GET", 0),
    ],
)
def test_framing(lines: list[str], status: int, method: bytes, framing: int) -> None:
    head, said = response(*lines, status=status)
    answer = read(head, method, said)
    assert answer.framing == framing
    assert answer.closes == (framing == UNTIL_CLOSE)


def test_chunks_in_http_1_0_are_refused() -> None:
    head, said = response("Transfer-Encoding: chunked", version="1.0")
    with pytest.raises(HeadError, match=r"HTTP/1\.0"):
        read(head, b"HEAD", said)


def test_no_length_is_read_twice() -> None:
    head, said = response("Content-Length: 5")
    twice = head.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n")
    with pytest.raises(HeadError, match="several framings"):
        read(twice, b"HEAD", said)


def test_what_is_for_one_connection_and_other_places_is_dropped() -> None:
    head, said = response("Server: x", "Alt-Svc: h3=:443", "Upgrade: h2c", "Connection: Upgrade")
    answer = read(head, b"HEAD", said)
    assert written(answer, said, close=False, chunked=False) == (
        b"HTTP/1.1 200 \r\nServer: x\r\n\r\n"
    )
    assert written(answer, said, close=True, chunked=True) == (
        b"HTTP/1.1 200 \r\nServer: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )


def test_an_interim_response_keeps_its_headers() -> None:
    hints = h11.InformationalResponse(
        status_code=103, headers=[("Link", "x"), ("Alt-Svc", "h3=:443")]
    )
    assert informational(hints) == b"HTTP/1.1 103 \r\nLink: x\r\n\r\n"


def test_a_switch_is_to_websocket_only() -> None:
    switch = h11.InformationalResponse(status_code=101, headers=[("Upgrade", "h2c")])
    with pytest.raises(HeadError, match="h2c"):
        informational(switch)


@pytest.mark.parametrize(
    ("lines", "version", "closes"),
    [
        (["Connection: x, Close"], "1.1", True),
        (["Connection: x", "Connection: close"], "1.1", True),
        (["Connection: keep-alive"], "1.1", False),
        ([], "1.0", True),
    ],
)
def test_closing_is_told(lines: list[str], version: str, closes: bool) -> None:
    head, said = response(*lines, "Content-Length: 0", version=version)
    assert read(head, b"GET", said).closes is closes


def test_chunks() -> None:
    assert chunk(b"a" * 17) == b"11\r\n" + b"a" * 17 + b"\r\n"
    assert chunk(b"") == b"0\r\n\r\n"
