"""`HttpGate`: what goes on to the far side, read by a strict reader of its own.

The first byte chooses how the rest is cut, and which rule there is.
"""

from __future__ import annotations

import posixpath
import urllib.parse

from supervisor.egress.http import HttpGate
from tests.fuzz.runner import Target
from tests.unit.egress import strict
from tests.unit.egress.battery import BATTERY, HOST
from tests.unit.egress.gates import Talk, rule

PATHS = ("/a", "/b/*")
METHODS = ("GET", "POST")
SIZES = (1, 2, 3, 5, 17, 64, 1 << 20, 1 << 20)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def check(data: bytes) -> None:
    """What goes on is one request for the allowed host, whatever was said; then one more."""
    choice, data = data[:1] or b"\0", data[1:]
    size, by_path, by_method = SIZES[choice[0] & 7], choice[0] & 8, choice[0] & 16
    kept = rule(methods=METHODS if by_method else (), paths=PATHS if by_path else ())
    talk = Talk(HttpGate(name=HOST, port=80, rule=kept))
    for _ in range(2):
        talk.client(data, size)
        seen = strict.requests(talk.taken_to_server())
        assert len(seen) <= 1, seen
        for request in seen:
            _is_allowed(request, bool(by_path), bool(by_method))
        assert (talk.denied is not None) <= (talk.closed is not None)
        if talk.closed is not None or not seen or not seen[0].whole:
            return
        talk.server(OK)
        assert b"HTTP/1.1 200 OK\r\n" in talk.to_client, talk.to_client
        if talk.closed is not None:
            return


def _is_allowed(request: strict.Seen, by_path: bool, by_method: bool) -> None:
    assert request.headers[b"host"] in ([HOST.encode()], [f"{HOST}:80".encode()]), request
    assert request.method not in {b"CONNECT", b"TRACE"}, request
    if by_method:
        assert request.method.decode() in METHODS, request
    if request.target == b"*":
        assert request.method == b"OPTIONS", request
        assert not by_path, request
        return
    assert request.target.startswith(b"/"), request
    for hidden in (b"upgrade", b"http2-settings", b"te", b"keep-alive", b"x-forwarded-host"):
        values = request.headers.get(hidden)
        assert values is None or (hidden, values) == (b"upgrade", [b"websocket"]), request
    if by_path:
        path = request.target.partition(b"?")[0].decode("ascii")
        for _ in range(3):  # Also for a far side that decodes once more, or takes out dots.
            path = urllib.parse.unquote(path, "latin-1")
            plain = posixpath.normpath(path.replace("\\", "/"))
            plain = "/" + plain.lstrip("/")
            assert plain in {PATHS[0], "/b"} or plain.startswith("/b/"), request


TARGET = Target(
    check=check,
    seeds=tuple(
        [bytes((number % 32,)) + case.data for number, case in enumerate(BATTERY)]
        + [
            b"\x0f" + f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
            for target in (
                "/a", "/b/c?x=/..", "/b/%61", "/b/..", "/b/%2e%2e/c", "/b/..;/c",
                "/b/%252e%252e/c", "/b/%2fc", "/b/\\..\\c",
            )
        ]
    ),
    tokens=(
        b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b",", b";", b"0", b"0\r\n\r\n", b"chunked",
        b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
        b"Host: evil.example.com\r\n", f"Host: {HOST}\r\n".encode(), b"GET /smuggled HTTP/1.1\r\n",
        b"HTTP/1.0", b"HTTP/1.1", b"Connection: close\r\n", b"Upgrade: h2c\r\n", b"%2e", b"%2f",
        b"%25", b"..", b"/", b"\\", b"@", b"#", b"?", b"*", b"_", b"evil.example.com",
        b"\x16\x03\x01",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n", b"CONNECT ",
        b"POST /a HTTP/1.1\r\n", b"Expect: 100-continue\r\n", b"\x0b", b"\xa0", b"\x85", b"5;x\r\n",
    ),
)  # fmt: skip
