"""Events for the tests of sinks, and readers of what these send, each from its RFC and not from our
code."""

from __future__ import annotations

import re
from typing import NamedTuple

from hypothesis import strategies as st

from supervisor.export.event import Event
from supervisor.export.sinks.wire import Peer, Tls

NOW_NS = 1_795_748_000_123_456_789
HOSTILE = ('"', "\\", "]", "[", "\n", "\r", "\0", "\x1b[31m", "\ufeff", " ", "|", "=", "<13>1 - -")


def event(index: int = 7, data: bytes = b'{"a":1}', **given: object) -> Event:
    """Give an event; `given` are other values of its fields."""
    made = Event(
        uid=f"{index}-0123456789abcdef-0", index=index, last=True, time_ns=NOW_NS, kind="denied",
        severity=3, class_uid=6003, data=data,
    )  # fmt: skip
    for name, value in given.items():
        setattr(made, name, value)
    return made


def plain(port: int, stall_s: float = 20.0) -> Peer:
    """Give a receiver of this test's on the loopback."""
    return Peer(
        host="127.0.0.1", port=port, tls=None, plain_because="it is in this test", stall_s=stall_s
    )


def secure(port: int, tls: Tls, stall_s: float = 20.0) -> Peer:
    """Give such a receiver with TLS."""
    return Peer(host="127.0.0.1", port=port, tls=tls, stall_s=stall_s)


def texts() -> st.SearchStrategy[str]:
    """Any text, with what could break out of one in it more often than by chance."""
    pieces = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8))
    return st.lists(pieces, max_size=8).map("".join)


def line_bytes() -> st.SearchStrategy[bytes]:
    """Bytes that are one line, in UTF-8 or not."""
    chosen = st.one_of(texts().map(lambda text: text.encode("utf-8", "replace")), st.binary())
    return chosen.map(lambda data: bytes(byte for byte in data if byte >= 0x20 and byte != 0x7F))


class Parsed(NamedTuple):
    """A message, read as RFC 5424, section 6, has it."""

    pri: int
    timestamp: str
    host: str
    app: str
    procid: str
    msgid: str
    sd_id: str
    params: dict[str, str]
    msg: bytes


_HEADER = re.compile(
    rb"<(0|[1-9][0-9]{0,2})>1 (-|[0-9T:.Z-]+) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) "
    rb"([!-~]{1,32}) \["
)


def parse(message: bytes) -> Parsed:
    """Read a message, character by character where it has structured data."""
    header = _HEADER.match(message)
    assert header is not None, message
    name, _, _ = message[header.end() :].partition(b" ")
    at, params = header.end() + len(name), {}
    while message[at : at + 1] == b" ":
        key, _, _ = message[at + 1 :].partition(b'="')
        assert re.fullmatch(rb"[a-z]{1,32}", key)
        at += 1 + len(key) + 2
        value = bytearray()
        while message[at : at + 1] != b'"':
            at += message[at : at + 1] == b"\\" and message[at + 1 : at + 2] in (b'"', b"\\", b"]")
            assert at < len(message)
            value += message[at : at + 1]
            at += 1
        params[key.decode()] = value.decode()
        at += 1
    assert message[at : at + 2] == b"] ", message[at : at + 2]
    found = [part.decode() for part in header.groups()]
    return Parsed(int(found[0]), *found[1:], name.decode(), params, message[at + 2 :])


def frames(stream: bytes) -> tuple[list[bytes], bytes]:
    """Read octet-counted frames (RFC 5425, section 4.3); give them, and what is left."""
    whole = []
    while (head := re.match(rb"([1-9][0-9]{0,8}) ", stream)) is not None:
        end = head.end() + int(head[1])
        if len(stream) < end:
            break
        whole.append(stream[head.end() : end])
        stream = stream[end:]
    return whole, stream
