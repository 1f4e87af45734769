"""A second reader of HTTP/1.1 requests, which shares nothing with the first: it takes one form
only, and fails on all else. What the broker sends on must be readable by it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FIRST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.1")
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ((?:[\x21-\x7e\x80-\xff][ \t\x21-\xff]*)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    method: bytes
    target: bytes
    headers: dict[bytes, list[bytes]]
    body: bytes
    whole: bool


def requests(data: bytes) -> list[Seen]:
    """Read all requests in `data`; the last may be cut short in its body, not in its head."""
    seen = []
    while data:
        one, data = _request(data)
        seen.append(one)
    return seen


def _request(data: bytes) -> tuple[Seen, bytes]:
    head, end, rest = data.partition(b"\r\n\r\n")
    assert end, f"no end of a head in {data[:200]!r}"
    first, *lines = head.split(b"\r\n")
    request = _FIRST.fullmatch(first)
    assert request, first
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        header = _LINE.fullmatch(line)
        assert header, line
        headers.setdefault(header[1].lower(), []).append(header[2])
    body, whole, rest = _body(headers, rest)
    return Seen(method=request[1], target=request[2], headers=headers, body=body, whole=whole), rest


def _body(headers: dict[bytes, list[bytes]], rest: bytes) -> tuple[bytes, bool, bytes]:
    codings, lengths = headers.get(b"transfer-encoding", []), headers.get(b"content-length", [])
    assert len(codings) + len(lengths) <= 1, headers
    if lengths:
        assert re.fullmatch(rb"0|[1-9][0-9]{0,17}", lengths[0]), lengths
        length = int(lengths[0])
        return rest[:length], len(rest) >= length, rest[length:]
    if not codings:
        return b"", True, rest
    assert codings == [b"chunked"], codings
    body = b""
    while rest:
        size, end, rest = rest.partition(b"\r\n")
        assert end, size
        assert re.fullmatch(rb"0|[1-9a-f][0-9a-f]*", size), size
        length = int(size, 16)
        if length == 0:
            assert rest[:2] == b"\r\n", rest
            return body, True, rest[2:]
        body += rest[:length]
        assert rest[length : length + 2] == b"\r\n", rest
        rest = rest[length + 2 :]
    return body, False, b""
