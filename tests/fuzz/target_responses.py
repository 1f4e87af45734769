"""`HttpGate`: whatever the far side says, a client is told one thing, and nothing of its goes on.

The first byte chooses how the rest is cut.
"""

from __future__ import annotations

from tests.fuzz.runner import Target
from tests.fuzz.target_http import OK, SIZES
from tests.unit.egress.battery import HOST
from tests.unit.egress.gates import Talk


def check(data: bytes) -> None:
    """What the far side says ends in one response at most, and never lets a client's bytes by."""
    choice, data = data[:1] or b"\0", data[1:]
    talk = Talk().client(f"GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    talk.taken_to_server()
    talk.server(data, SIZES[choice[0] & 7])
    assert not talk.upgraded
    assert talk.denied is None
    assert talk.to_server == b""
    lower = talk.to_client.partition(b"\r\n\r\n")[0].lower()
    assert lower.count(b"\r\ncontent-length:") + lower.count(b"\r\ntransfer-encoding:") <= 1
    assert b"\r\nalt-svc:" not in lower
    if talk.closed is None:
        talk.do(talk.gate.server_ended())
        assert talk.closed is not None


TARGET = Target(
    check=check,
    seeds=tuple(
        b"\x07" + data
        for data in (
            OK,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nAlt-Svc: x\r\n\r\nabc",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nraw",
            b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )
    ),
    tokens=(
        b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b",", b";", b"0", b"0\r\n\r\n", b"chunked",
        b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
        b"HTTP/1.0", b"HTTP/1.1", b"Connection: close\r\n", b"Upgrade: h2c\r\n", b" 101 ", b" 204 ",
        b"HTTP/1.1 100 Continue\r\n\r\n", b"Alt-Svc: h3=\r\n", b"99999999999999999999", b"\x0b",
    ),
)  # fmt: skip
