"""Read how a response is framed, and write what of its head goes on to the sandbox. Pure.

Heads are written here and not by `h11`, which would check a third time what it has just parsed, at
half the cost of a small request; the far side's own words to the sandbox are no boundary.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11

from supervisor.egress.head import CHUNKED, HeadError, framing_of, shown

UNTIL_CLOSE = -2
"""The framing of a body that ends with its connection; else as `head.framing_of` gives it."""

_WITHOUT_BODY = frozenset({204, 304})
_DROPPED = frozenset({
    b"connection", b"proxy-connection", b"te", b"trailer", b"upgrade", b"content-length",
    b"transfer-encoding", b"alt-svc",
})  # fmt: skip
"""Of one connection only, or written anew; and Alt-Svc, which would send the client to a place
that this connection says nothing of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A final response: `framing` of the body that follows, `lines` of its head that go on, each
    with its CR LF, and whether the far side `closes` its connection behind it."""

    framing: int
    lines: list[bytes]
    closes: bool


def read(head: bytes, method: bytes, response: h11.Response) -> Answer:
    """Read the head of a response to a request with `method` (RFC 9112, section 6.3).

    Raises:
        HeadError: two readers could take its body for two lengths.
    """
    said, version = framing_of(head), response.http_version
    if said == CHUNKED and version != b"1.1":
        raise HeadError(f"Transfer-Encoding in HTTP/{version.decode()}")
    without = method == b"HEAD" or response.status_code in _WITHOUT_BODY
    framing = 0 if without else UNTIL_CLOSE if said is None else said
    lines, named = _kept(response)
    # A response to HEAD and a 304 may give the length of the body that they do not have.
    if said is not None and said >= 0 and response.status_code != 204:
        lines.append(b"Content-Length: %d\r\n" % said)
    options = {option.strip() for option in named.get(b"connection", b"").lower().split(b",")}
    closing = b"close" in options or version != b"1.1" or framing == UNTIL_CLOSE
    return Answer(framing=framing, lines=lines, closes=closing)


def written(answer: Answer, response: h11.Response, *, close: bool, chunked: bool) -> bytes:
    """Write the head of a response as it goes on, with `chunked` for a body of no known length."""
    lines = [_first(response), *answer.lines]
    if chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if close:
        lines.append(b"Connection: close\r\n")
    return b"".join((*lines, b"\r\n"))


def informational(response: h11.InformationalResponse) -> bytes:
    """Write an interim response as it goes on.

    Raises:
        HeadError: it switches to a protocol that was not asked for.
    """
    lines, named = _kept(response)
    if response.status_code == 101:
        protocol = named.get(b"upgrade", b"")
        if protocol.lower() != b"websocket":
            raise HeadError(f"an upgrade to {shown(protocol)}")
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    return b"".join((_first(response), *lines, b"\r\n"))


def chunk(data: bytes) -> bytes:
    """Write a chunk; with no data it is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _first(response: h11.Response | h11.InformationalResponse) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (response.status_code, response.reason)


def _kept(
    response: h11.Response | h11.InformationalResponse,
) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Give the lines that go on, and the values of the headers that do not."""
    lines, named = [], dict[bytes, bytes]()
    for raw, value in response.headers.raw_items():
        name = raw.lower()
        if name not in _DROPPED:
            lines.append(b"%b: %b\r\n" % (raw, value))
        else:
            named[name] = b"%b, %b" % (named[name], value) if name in named else value
    return lines, named
