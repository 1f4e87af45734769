"""Heads of requests and the rule: what goes on, and what does not."""

from __future__ import annotations

import h11
import pytest

from supervisor.egress.head import CHUNKED
from supervisor.egress.requests import Admitted, RequestRefused, RequestRule, written
from tests.unit.egress.battery import HOST
from tests.unit.egress.gates import rule


def admitted(
    *headers: tuple[str, str],
    name: str = HOST,
    port: int = 80,
    framing: int | None = None,
    version: str = "1.1",
    method: str = "GET",
    **kept: tuple[str, ...],
) -> Admitted:
    request = h11.Request(method=method, target="/a", headers=list(headers), http_version=version)
    return RequestRule(name=name, port=port, rule=rule(**kept)).admit(request, framing)


@pytest.mark.parametrize(
    ("name", "port", "said", "written"),
    [
        (HOST, 80, HOST, HOST),
        (HOST, 80, f"{HOST}:80", f"{HOST}:80"),
        (HOST, 8080, HOST, HOST),
        (HOST, 8080, f"{HOST.upper()}.:8080", f"{HOST}:8080"),
        ("192.0.2.7", 80, "192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", 80, "192.0.2.7:80", "192.0.2.7:80"),
        ("2001:db8::7", 80, "[2001:db8::7]", "[2001:db8::7]"),
        ("2001:db8::7", 80, "[2001:DB8:0::7]:80", "[2001:db8::7]:80"),
    ],
)
def test_host_is_written_in_its_one_spelling(name: str, port: int, said: str, written: str) -> None:
    headers = admitted(("Host", said), name=name, port=port).headers
    assert headers == [(b"Host", written.encode())]


@pytest.mark.parametrize("method", ["trace", "Trace", "connect", "get", "Post"])
def test_a_method_that_another_reader_could_take_for_another(method: str) -> None:
    with pytest.raises(RequestRefused, match="not in capitals"):
        admitted(("Host", HOST), method=method)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("192.0.2.7", "192.0.2.8"),
        ("192.0.2.7", "192.0.2.007"),
        ("192.0.2.7", "3221225991"),
        ("192.0.2.7", "[192.0.2.7]"),
        ("192.0.2.7", "[::ffff:192.0.2.7]"),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:db8::7", "[2001:db8::7%eth0]"),
        ("2001:db8::7", "[2001:db8::7"),
        (HOST, f"[{HOST}]"),
        (HOST, f"{HOST}:080"),
        (HOST, f"{HOST}:+80"),
        (HOST, f"x.{HOST}"),
    ],
)
def test_another_host_is_refused(name: str, said: str) -> None:
    with pytest.raises(RequestRefused, match="was asked for") as refused:
        admitted(("Host", said), name=name)
    assert refused.value.status == 403


@pytest.mark.parametrize(
    ("header", "kept", "is_refused"),
    [
        ("X-HTTP-Method-Override", {"methods": ("GET",)}, True),
        ("X-HTTP-Method-Override", {}, False),
        ("X_Http_Method_Override", {}, True),
        ("X-Original-URL", {"paths": ("/a",)}, True),
        ("X-Rewrite-URL", {"paths": ("/a",)}, True),
        ("X-Forwarded-Host", {}, True),
        ("Content_Length", {}, True),
        ("X_Custom", {}, False),
        ("X.Original.URL", {"paths": ("/a",)}, True),
        ("X-HTTP-Method!Override", {"methods": ("GET",)}, True),
        ("Transfer~Encoding", {}, True),
        ("X.Custom", {}, False),
        ("Destination", {"paths": ("/a",)}, True),
        ("Destination", {}, False),
    ],
)
def test_headers_that_speak_of_another_request(
    header: str, kept: dict[str, tuple[str, ...]], is_refused: bool
) -> None:
    if is_refused:
        with pytest.raises(RequestRefused, match=f"(?i){header}"):
            admitted(("Host", HOST), (header, "x"), **kept)
    else:
        headers = admitted(("Host", HOST), (header, "x"), **kept).headers
        assert (header.encode(), b"x") in headers


def test_the_length_is_written_as_it_was_read() -> None:
    said = [("Host", HOST), ("Content-Length", "7")]
    assert admitted(*said, framing=7).headers[-1] == (b"Content-Length", b"7")
    said = [("Host", HOST), ("Transfer-Encoding", "chunked")]
    assert admitted(*said, framing=CHUNKED).headers[-1] == (b"Transfer-Encoding", b"chunked")


def test_closing() -> None:
    assert not admitted(("Host", HOST)).close
    assert admitted(("Host", HOST), ("Connection", "Close")).close
    assert admitted(("Host", HOST), version="1.0").close


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("framing", [CHUNKED, 7])
def test_a_body_where_none_belongs_is_the_last_on_its_connection(method: str, framing: int) -> None:
    found = admitted(("Host", HOST), framing=framing, method=method)
    assert found.close
    assert (b"Connection", b"close") in found.headers
    for more in ({"framing": framing, "method": "POST"}, {"framing": 0, "method": method}):
        assert not admitted(("Host", HOST), **more).close  # type: ignore[arg-type]


def test_a_head_is_written_as_its_parts_say() -> None:
    head = written(b"PUT", b"/a?b", [(b"Host", b"x"), (b"Content-Length", b"3")])
    assert head == b"PUT /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"


@pytest.mark.parametrize("odd", [b"a\r\nX: y", b"a\r", b"a\n", b"a\nb\r"])
@pytest.mark.parametrize("part", range(4))
def test_no_part_of_a_head_is_written_as_a_line_of_its_own(part: int, odd: bytes) -> None:
    method, target, name, value = (odd if number == part else b"a" for number in range(4))
    with pytest.raises(ValueError, match="line break"):
        written(method, target, [(b"Host", b"x"), (name, value)])
