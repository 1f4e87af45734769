"""Read how a response is framed, and what of its head goes on to the sandbox. Pure."""

from __future__ import annotations

import h11

from supervisor.egress.head import CHUNKED, HeadError, framing_of, shown
from supervisor.egress.requests import Headers

UNTIL_CLOSE = -2
"""The framing of a body that ends with its connection; else as `head.framing_of` gives it."""

_WITHOUT_BODY = frozenset({204, 304})
_DROPPED = frozenset({
    b"connection", b"proxy-connection", b"te", b"trailer", b"upgrade", b"content-length",
    b"transfer-encoding", b"alt-svc",
})  # fmt: skip
"""Of one connection only, or written anew; and Alt-Svc, which would send the client to a place
that this connection says nothing of."""


def body_framing(head: bytes, method: bytes, response: h11.Response) -> int:
    """Give the framing of the body that follows (RFC 9112, section 6.3).

    Raises:
        HeadError: two readers could take it for two lengths.
    """
    said = framing_of(head)
    if said == CHUNKED and response.http_version != b"1.1":
        raise HeadError(f"Transfer-Encoding in HTTP/{response.http_version.decode()}")
    if method == b"HEAD" or response.status_code in _WITHOUT_BODY:
        return 0
    return UNTIL_CLOSE if said is None else said


def passed_on(head: bytes, response: h11.Response, framing: int, *, close: bool) -> Headers:
    """Give the headers of a final response that go on; `h11` adds the framing of a body whose
    length is not known."""
    headers = [
        (raw, value) for raw, value in response.headers.raw_items() if raw.lower() not in _DROPPED
    ]
    # A response to HEAD and a 304 may give the length of the body that they do not have.
    length = framing or (framing_of(head) if response.status_code != 204 else None)
    if length is not None and length >= 0:
        headers.append((b"Content-Length", b"%d" % length))
    if close:
        headers.append((b"Connection", b"close"))
    return headers


def informational(response: h11.InformationalResponse) -> Headers:
    """Give the headers of an interim response that go on.

    Raises:
        HeadError: it switches to a protocol that was not asked for.
    """
    headers = [
        (raw, value) for raw, value in response.headers.raw_items() if raw.lower() not in _DROPPED
    ]
    if response.status_code == 101:
        protocols = [v.lower() for name, v in response.headers if name == b"upgrade"]
        if protocols != [b"websocket"]:
            raise HeadError(f"an upgrade to {shown(b', '.join(protocols))}")
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return headers


def closes(response: h11.Response, framing: int) -> bool:
    """Say whether the far side ends its connection with this response."""
    options = {
        option.strip()
        for name, value in response.headers
        if name == b"connection"
        for option in value.lower().split(b",")
    }
    return b"close" in options or response.http_version != b"1.1" or framing == UNTIL_CLOSE
