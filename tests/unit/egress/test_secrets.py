"""Where a secret takes the place of its placeholder, and where that is refused."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace

import pytest

from supervisor.egress.actions import Close, Denied
from supervisor.egress.control import make_placeholder
from supervisor.egress.http import HttpGate
from supervisor.egress.requests import Headers, RequestRefused
from supervisor.egress.secrets import Swap, needles_of
from tests.unit.egress.battery import EVIL, HOST
from tests.unit.egress.gates import Talk, rule

VALUE = "hunter2 and more=="


@dataclass(frozen=True, kw_only=True)
class Known:
    name: str
    header: str
    host: str
    placeholder: str
    value: str


TOKEN = Known(
    name="token", header="Authorization", host=HOST, placeholder=make_placeholder("token"),
    value=VALUE,
)  # fmt: skip
OTHER = Known(
    name="other", header="X-Key", host=EVIL, placeholder=make_placeholder("other"),
    value="other-value",
)  # fmt: skip
BEARER = (b"Authorization", f"Bearer {TOKEN.placeholder}".encode())


def applied(*headers: tuple[bytes, bytes], target: bytes = b"/", method: bytes = b"GET") -> Headers:
    return Swap([TOKEN, OTHER], name=HOST).apply(method, target, list(headers))


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


def test_placeholders_are_told_apart() -> None:
    one = make_placeholder("github")
    assert one.startswith("stockade-secret-github-")
    assert one != make_placeholder("github")


def test_the_secret_takes_its_place() -> None:
    other = (b"Accept", b"*/*")
    assert applied(other, BEARER) == [other, (b"Authorization", f"Bearer {VALUE}".encode())]
    assert applied((b"authorization", TOKEN.placeholder.encode())) == [
        (b"authorization", VALUE.encode())
    ]


def test_also_within_basic_credentials() -> None:
    said = (b"Authorization", basic(f"user:{TOKEN.placeholder}"))
    assert applied(said) == [(b"Authorization", basic(f"user:{VALUE}"))]


def test_without_a_placeholder_all_stays_as_it_is() -> None:
    said = [(b"Authorization", b"Basic !!!"), (b"X", b"100%")]
    assert applied(*said) == said


@pytest.mark.parametrize(
    ("headers", "target", "reason"),
    [
        ([(b"X-Copy", BEARER[1])], b"/", "in the header X-Copy"),
        ([BEARER, (b"X-Copy", BEARER[1])], b"/", "in the header X-Copy"),
        ([], b"/?token=" + TOKEN.placeholder.encode(), "in the target"),
        ([BEARER], b"/" + TOKEN.placeholder.replace("-", "%2D").encode(), "in the target"),
        ([], b"/?" + TOKEN.placeholder.encode().hex().encode(), "in the target"),
        ([(b"X", basic(TOKEN.placeholder))], b"/", "in the header X"),
        ([(TOKEN.placeholder.encode(), b"x")], b"/", "in the name of a header"),
        ([(b"Authorization", OTHER.placeholder.encode())], b"/", "secret other in the header"),
        ([(b"X-Key", OTHER.placeholder.encode())], b"/", "secret other in the header X-Key"),
        (
            [(b"Authorization", BEARER[1] + b" " + OTHER.placeholder.encode())],
            b"/",
            "secret other in the header Authorization",
        ),
        (
            [(b"Authorization", basic(f"{TOKEN.placeholder}:{OTHER.placeholder}"))],
            b"/",
            "secret other in the header Authorization",
        ),
        (
            [(b"Authorization", b"Basic x" + basic(TOKEN.placeholder)[6:])],
            b"/",
            "secret token in the header Authorization",
        ),
        ([(b"Authorization", TOKEN.placeholder.encode().hex().encode())], b"/", "Authorization"),
    ],
)
def test_a_placeholder_elsewhere_is_refused(headers: Headers, target: bytes, reason: str) -> None:
    with pytest.raises(RequestRefused, match=reason) as refused:
        applied(*headers, target=target)
    assert refused.value.name == "secret"
    assert VALUE not in str(refused.value)


def test_a_request_that_would_be_shown_back_gets_none() -> None:
    with pytest.raises(RequestRefused, match="TRACE"):
        applied(BEARER, method=b"TRACE")


def test_another_host_gets_none() -> None:
    with pytest.raises(RequestRefused, match="secret token in the header Authorization"):
        Swap([TOKEN], name=f"x.{HOST}").apply(b"GET", b"/", [BEARER])


def test_a_host_that_has_tls_gets_none_in_the_clear() -> None:
    with pytest.raises(RequestRefused, match="Authorization: to this host it goes in TLS alone"):
        Swap([TOKEN], name=HOST, sealed=True).apply(b"GET", b"/", [BEARER])


def test_hosts_may_be_a_pattern() -> None:
    swap = Swap([replace(TOKEN, host="*.example.com")], name=HOST)
    assert VALUE.encode() in swap.apply(b"GET", b"/", [BEARER])[0][1]


@pytest.mark.parametrize("value", ["", " x", "x ", "a\r\nX: y", "a\x00", "ä"])
def test_what_no_header_may_hold_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(ValueError, match="the secret token is not") as raised:
        Swap([replace(TOKEN, value=value)], name=HOST)
    assert "X: y" not in str(raised.value)


def gate() -> HttpGate:
    return HttpGate(name=HOST, port=80, rule=rule(), swap=Swap([TOKEN, OTHER], name=HOST))


def request(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(("POST /a HTTP/1.1", f"Host: {HOST}", *lines, "", "")).encode() + body


def test_the_far_side_sees_the_secret_and_nobody_else() -> None:
    talk = Talk(gate())
    actions = talk.gate.from_client(request(f"Authorization: token {TOKEN.placeholder}"))
    talk.do(actions)
    assert f"Authorization: token {VALUE}\r\n".encode() in talk.to_server
    assert VALUE not in repr(actions)
    assert VALUE not in repr(vars(talk.gate))


@pytest.mark.parametrize("size", [1, 9, 1 << 20])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_placeholder_in_a_body_is_refused(size: int, chunked: bool) -> None:
    body = b"a" * 50 + TOKEN.placeholder.encode() + b"b" * 50
    if chunked:
        cut = len(body) // 2
        parts = (body[:cut], body[cut:], b"")
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        data = request("Transfer-Encoding: chunked", body=body)
    else:
        data = request(f"Content-Length: {len(body)}", body=body)
    talk = Talk(gate()).client(data, size)
    assert talk.denied == Denied(reason="the placeholder of secret token in a body", name="secret")
    assert TOKEN.placeholder.encode() not in talk.to_server.replace(b"\r\n1\r\n", b"")
    assert talk.to_client.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "sent",
    [
        f"{VALUE}\r\n\r\n", f"HTTP/1.1 200 OK\r\nBad {VALUE}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{VALUE}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nContent-Length: {VALUE}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {VALUE}\r\n\r\n",
        f"HTTP/1.1 101 OK\r\nUpgrade: {VALUE}\r\nConnection: Upgrade\r\n\r\n",
    ],
)  # fmt: skip
def test_a_far_side_that_sends_it_back_malformed_puts_it_on_no_record(sent: str) -> None:
    one = gate()
    websocket = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x")
    asked = request(f"Authorization: Bearer {TOKEN.placeholder}", *websocket)
    one.from_client(asked.replace(b"POST", b"GET"))
    close = one.from_server(sent.encode())[-1]
    assert isinstance(close, Close)
    assert close.reason.startswith("the far side sent ")
    assert VALUE not in close.reason
    assert len(close.reason) > len("the far side sent ") + 5


def test_a_body_that_is_looked_through_is_not_spliced() -> None:
    assert not Talk(gate()).client(request("Content-Length: 1000000")).offers


def test_a_call_without_secrets_is_not_slowed() -> None:
    talk = Talk(HttpGate(name=HOST, port=80, rule=rule(), swap=Swap([], name=HOST)))
    assert talk.client(request("Content-Length: 1000000")).offers
    assert not needles_of([])
