"""`head`: what it makes of a head is what `h11`'s own connection makes of it.

The first byte says whose head it is: a request's where it is even, else a response's.
"""

from __future__ import annotations

import contextlib

import h11

from supervisor.egress.head import HeadError, Heads, request_of, response_of
from tests.fuzz import target_http, target_responses
from tests.fuzz.runner import Target

ASKED = h11.Request(method="GET", target="/", headers=[("Host", "-"), ("Upgrade", "x")])


def check(data: bytes) -> None:
    """Each head that is read here is read by `h11` alone in the same way."""
    is_request, data = not (data[:1] or b"\0")[0] & 1, data[1:]
    with contextlib.suppress(HeadError, h11.LocalProtocolError):
        head = Heads().take(bytearray(data))
        if head is None:
            return
        ours = request_of(head) if is_request else response_of(head)
        assert _parts(ours) == _parts(_theirs(head, is_request)), head


def _theirs(head: bytes, is_request: bool) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
    connection = h11.Connection(h11.SERVER if is_request else h11.CLIENT)
    if not is_request:
        connection.send(ASKED)
    connection.receive_data(head)
    return connection.next_event()


def _parts(event: object) -> tuple[object, ...]:
    assert isinstance(event, h11.Request | h11.Response | h11.InformationalResponse), event
    headers = event.headers.raw_items()
    if isinstance(event, h11.Request):
        return event.method, event.target, event.http_version, headers
    return type(event), event.status_code, event.reason, event.http_version, headers


TARGET = Target(
    check=check,
    seeds=tuple(b"\0" + seed[1:] for seed in target_http.TARGET.seeds)
    + tuple(b"\1" + seed[1:] for seed in target_responses.TARGET.seeds),
    tokens=target_http.TARGET.tokens
    + target_responses.TARGET.tokens
    + (b" 099 ", b" 1000 ", b"\x7f"),
)
