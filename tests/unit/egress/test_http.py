"""A connection through the gate: what passes, what is refused, and how it ends."""

from __future__ import annotations

import pytest

from supervisor.egress import http
from supervisor.egress.actions import Close, SpliceFromClient, SpliceFromServer
from supervisor.egress.head import HEAD_BYTES_MAX
from tests.unit.egress import strict
from tests.unit.egress.battery import BATTERY, EVIL, HOST, SMUGGLED, Framing
from tests.unit.egress.gates import Talk

GET = f"GET /a HTTP/1.1\r\nHost: {HOST}\r\nAccept: */*\r\n\r\n".encode()
OK = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\nhi"
SIZES = [1, 7, 1 << 20]


def post(length: int, *lines: str) -> bytes:
    head = ("POST /a HTTP/1.1", f"Host: {HOST}", f"Content-Length: {length}", *lines, "", "")
    return "\r\n".join(head).encode()


@pytest.mark.parametrize("size", SIZES)
def test_requests_and_responses_pass_one_after_the_other(size: int) -> None:
    talk = Talk()
    for _ in range(3):
        assert talk.client(GET, size).taken_to_server() == GET
        assert talk.server(OK, size).taken_to_client() == OK
    assert talk.closed is None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", BATTERY, ids=lambda case: case.title)
def test_what_could_be_read_in_two_ways(case: Framing, size: int) -> None:
    talk = Talk().client(case.data, size)
    assert (talk.denied is not None) == case.refused, talk.denied
    assert (talk.closed is not None) == case.refused
    seen = strict.requests(talk.to_server)
    assert len(seen) <= 1
    for request in seen:
        assert request.headers[b"host"] in ([HOST.encode()], [f"{HOST}:80".encode()])
        assert request.target == b"/a"
        assert not case.refused or request.body in {b"", b"a"}, request
        assert request.whole or case.refused
    if case.refused:
        assert talk.to_client.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
        assert f"\nrule: egress: {HOST}:80\n".encode() in talk.to_client
        for word in (SMUGGLED, EVIL):
            assert word.encode() not in talk.to_server


def test_the_battery_is_large() -> None:
    assert len(BATTERY) > 100
    assert len({case.title for case in BATTERY}) == len(BATTERY)


def test_what_is_for_one_connection_is_not_sent_on() -> None:
    talk = Talk().client(
        f"GET /a HTTP/1.1\r\nhost: {HOST.upper()}:80\r\nTE: trailers\r\nConnection: TE, close\r\n"
        "Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nX-Case: Kept\r\n\r\n".encode()
    )
    assert talk.to_server == (
        f"GET /a HTTP/1.1\r\nHost: {HOST}:80\r\nX-Case: Kept\r\nConnection: close\r\n\r\n".encode()
    )


@pytest.mark.parametrize("size", SIZES)
def test_chunks_are_written_anew(size: int) -> None:
    head = f"PUT /a HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: Chunked\r\n\r\n".encode()
    talk = Talk().client(head + b"3;x=y\r\nabc\r\n0a\r\n0123456789\r\n0\r\nX: y\r\n\r\n", size)
    [seen] = strict.requests(talk.to_server)
    assert seen.body == b"abc0123456789"
    assert seen.whole
    assert b"x=y" not in talk.to_server
    assert b"X: y" not in talk.to_server
    assert talk.server(OK).to_client == OK


@pytest.mark.parametrize("size", SIZES)
def test_a_response_in_chunks_passes(size: int) -> None:
    talk = Talk().client(GET)
    talk.server(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nAlt-Svc: h3=:443\r\n\r\n"
        b"4\r\nabcd\r\n1;e\r\n5\r\n0\r\nX: y\r\n\r\n",
        size,
    )
    head, _, body = talk.to_client.partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"
    assert body.endswith(b"0\r\n\r\n")
    assert b"X: y" not in body
    assert talk.closed is None
    assert talk.client(GET).closed is None


def test_a_response_without_a_length_ends_with_its_connection() -> None:
    talk = Talk().client(GET).server(b"HTTP/1.1 200 OK\r\n\r\nabc")
    talk.server(b"def")
    assert talk.closed is None
    talk.do(talk.gate.server_ended())
    assert talk.closed == Close()
    assert talk.to_client == (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    )


def test_http_1_0_is_answered_and_closed() -> None:
    talk = Talk().client(f"GET /a HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
    assert b"GET /a HTTP/1.1\r\n" in talk.to_server
    assert b"Connection: close" in talk.to_server
    talk.server(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert b" 100 " not in talk.to_client
    assert b"Connection: close" in talk.to_client
    assert talk.closed == Close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_a_response_to_head_has_no_body(head: bytes) -> None:
    talk = Talk().client(f"HEAD /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()).server(head)
    assert sorted(talk.to_client.split(b"\r\n")) == sorted(head.split(b"\r\n"))
    assert talk.closed is None
    assert talk.client(GET).closed is None


def test_a_204_has_neither_body_nor_length() -> None:
    talk = Talk().client(GET).server(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
    assert talk.to_client == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert talk.client(GET).closed is None


def test_interim_responses_pass_in_bounds() -> None:
    talk = Talk().client(post(2, "Expect: 100-Continue"))
    assert b"Expect: 100-continue\r\n" in talk.to_server
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert talk.server(interim).taken_to_client() == interim
    assert talk.client(b"ab").server(OK).to_client == OK
    talk.client(GET).server(b"HTTP/1.1 102 Processing\r\n\r\n" * (http.INFORMATIONAL_MAX + 1))
    assert talk.closed is not None
    assert "interim" in talk.closed.reason


def test_a_large_body_may_be_spliced_from_the_server() -> None:
    talk = Talk().client(GET)
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 1000)
    assert talk.offers == [SpliceFromServer(999000)]
    talk.do(talk.gate.spliced_from_server(500000))
    talk.server(b"b" * 1000)
    talk.do(talk.gate.spliced_from_server(498000))
    assert talk.to_client.count(b"b") == 1000
    assert talk.client(GET).server(OK).closed is None


def test_a_large_body_may_be_spliced_from_the_client() -> None:
    talk = Talk().client(post(1000000) + b"a" * 1000)
    assert talk.offers == [SpliceFromClient(999000)]
    talk.do(talk.gate.spliced_from_client(999000))
    assert talk.server(OK).to_client == OK
    assert talk.client(GET).closed is None


def test_more_than_was_announced_cannot_be_spliced() -> None:
    talk = Talk().client(post(100000))
    with pytest.raises(ValueError, match="to come"):
        talk.gate.spliced_from_client(100001)
    with pytest.raises(ValueError, match="to come"):
        talk.gate.spliced_from_server(1)


def test_a_small_body_is_not_offered() -> None:
    assert not Talk().client(post(100)).offers


KEY = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: x"
SWITCH = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def asked_for_a_websocket() -> Talk:
    return Talk().client(f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\n{KEY}\r\n\r\n".encode())


def test_a_websocket_is_free_once_the_server_agrees() -> None:
    talk = asked_for_a_websocket()
    assert b"Upgrade: websocket\r\n" in talk.to_server
    talk.server(SWITCH + b"\x81\x00")
    assert talk.upgraded
    assert talk.to_client.startswith(b"HTTP/1.1 101 ")
    assert talk.to_client.endswith(b"\r\n\r\n\x81\x00")
    talk.taken_to_server()
    assert talk.client(b"GET \n raw").to_server == b"GET \n raw"


def test_a_websocket_that_is_declined_is_a_response() -> None:
    talk = asked_for_a_websocket().server(OK)
    assert not talk.upgraded
    assert talk.client(b"GET / HTTP/1.1\r\nHost: evil.example.com\r\n\r\n").denied


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (False, SWITCH),
        (True, SWITCH.replace(b"websocket", b"h2c")),
        (True, b"HTTP/1.1 101 Switching\r\n\r\n"),
    ],
)
def test_a_switch_that_nobody_asked_for_ends_it(asked: bool, said: bytes) -> None:
    talk = (asked_for_a_websocket() if asked else Talk().client(GET)).server(said + b"\x81")
    assert not talk.upgraded
    assert talk.closed is not None
    assert talk.to_client.startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nab",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"a" * (HEAD_BYTES_MAX + 1),
    ],
)
def test_a_response_that_two_could_read_differently_ends_it(said: bytes) -> None:
    talk = Talk().client(GET).server(said)
    if talk.closed is None:
        talk.do(talk.gate.server_ended())
    assert talk.closed is not None
    assert "the far side sent" in talk.closed.reason
    assert talk.denied is None
    assert talk.to_client.startswith(b"HTTP/1.1 502 ")


def test_bytes_that_no_request_asked_for_end_it() -> None:
    talk = Talk().server(OK)
    assert talk.closed is not None
    assert b"\r\nhi" not in talk.to_client
    talk = Talk().client(GET).server(OK + OK)
    assert talk.to_client.startswith(OK)
    assert talk.to_client.count(b"hi") == 1
    assert talk.closed is not None


def test_a_response_before_the_request_is_whole_is_the_last() -> None:
    talk = Talk().client(post(10) + b"abc").server(OK)
    assert b"Connection: close\r\n" in talk.to_client
    assert talk.closed == Close()


@pytest.mark.parametrize("said", [b"Connection: close\r\n", b"Connection: x, CLOSE\r\n"])
def test_a_far_side_that_closes_is_told_on(said: bytes) -> None:
    talk = Talk().client(GET).server(OK.replace(b"Server: x\r\n", said))
    assert b"Connection: close\r\n" in talk.to_client
    assert talk.closed == Close()


def test_a_refusal_within_a_response_closes_without_a_word() -> None:
    talk = Talk().client(GET).server(OK[:-1])
    talk.taken_to_client()
    talk.client(GET)
    assert talk.denied is not None
    assert talk.to_client == b""
    assert talk.closed == Close(cut=True)


def test_a_refusal_before_a_response_is_an_answer_that_is_whole() -> None:
    talk = Talk().client(GET).server(OK).client(b"\x16")
    assert b"HTTP/1.1 400" in talk.to_client
    assert talk.closed == Close()


@pytest.mark.parametrize(
    ("before", "reason"),
    [(b"", ""), (GET[:10], "within its request"), (post(5) + b"a", "within its request")],
)
def test_a_client_that_ends(before: bytes, reason: str) -> None:
    talk = Talk().client(before)
    talk.do(talk.gate.client_ended())
    assert talk.closed is not None
    assert reason in talk.closed.reason


def test_a_client_that_ends_behind_its_request_gets_the_response() -> None:
    talk = Talk().client(GET)
    talk.do(talk.gate.client_ended())
    assert talk.closed is None
    assert b"hi" in talk.server(OK).to_client
    assert talk.closed == Close()


@pytest.mark.parametrize(
    ("before", "reason", "cut"),
    [
        (b"", "", False),
        (b"HTTP/1.1 200", "the end within", False),
        (OK[:-1], "the end within", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na", "closed", True),
    ],
)
def test_a_server_that_ends(before: bytes, reason: str, cut: bool) -> None:
    talk = Talk().client(GET).server(before)
    talk.do(talk.gate.server_ended())
    assert talk.closed is not None
    assert reason in talk.closed.reason
    assert talk.closed.cut is cut


def test_behind_its_end_the_gate_says_nothing() -> None:
    talk = Talk().client(b"\x16")
    assert talk.denied
    for more in (talk.gate.from_client(GET), talk.gate.from_server(OK), talk.gate.client_ended()):
        assert more == []


@pytest.mark.parametrize(
    ("kept", "method", "target", "passes"),
    [
        ({"methods": ("GET", "HEAD")}, "GET", "/a", True),
        ({"methods": ("GET", "HEAD")}, "POST", "/a", False),
        ({"methods": ("GET",)}, "get", "/a", False),
        ({"methods": ("GET",)}, "GET", "/a?_method=DELETE", True),
        ({}, "TRACE", "/a", False),
        ({"methods": ("TRACE",)}, "TRACE", "/a", True),
        ({}, "PURGE", "/a", True),
        ({}, "OPTIONS", "*", True),
        ({"paths": ("*",)}, "OPTIONS", "*", False),
        ({"paths": ("/a", "/b/*")}, "GET", "/a?x=/../c", True),
        ({"paths": ("/a", "/b/*")}, "GET", "/%61", True),
        ({"paths": ("/a", "/b/*")}, "GET", "/b/c//d", True),
        ({"paths": ("/a", "/b/*")}, "GET", "/c", False),
        ({"paths": ("/a", "/b/*")}, "GET", "/a/", False),
        ({"paths": ("/a", "/b/*")}, "GET", "/b/../c", False),
    ],
)
def test_methods_and_paths(
    kept: dict[str, tuple[str, ...]], method: str, target: str, passes: bool
) -> None:
    talk = Talk(**kept).client(f"{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    assert (talk.denied is None) == passes
    assert (f"{method} {target} HTTP/1.1\r\n".encode() in talk.to_server) == passes
