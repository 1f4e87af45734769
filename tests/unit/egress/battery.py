"""Requests that two readers could take for two different ones, as data.

Each case tries to have the far side read a second request, `SMUGGLED` of `EVIL`, or one for another
host, path or method than was checked. Where `refused`, the broker says so and nothing of `SMUGGLED`
goes on; else what goes on is one request in a form that cannot be misread.
"""

from __future__ import annotations

from dataclasses import dataclass

HOST = "fleet.example.com"
EVIL = "evil.example.com"
SMUGGLED = "/smuggled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """One attempt; `data` is what the client sends, with `HOST` as the host that it may reach."""

    title: str
    data: bytes
    refused: bool = True


_NEXT = f"GET {SMUGGLED} HTTP/1.1\r\nHost: {EVIL}\r\n\r\n"
_CHUNKS = f"0\r\n\r\n{_NEXT}"


def _post(*lines: str, body: str = _CHUNKS, host: str = f"Host: {HOST}") -> bytes:
    return "\r\n".join(("POST /a HTTP/1.1", host, *lines, "", body)).encode("latin-1")


def _get(*lines: str, first: str = "GET /a HTTP/1.1", host: str = f"Host: {HOST}") -> bytes:
    return "\r\n".join((first, *([host] if host else []), *lines, "", "")).encode("latin-1")


def _chunked(body: str) -> bytes:
    return _post("Transfer-Encoding: chunked", body=body)


_TE = "Transfer-Encoding: chunked"
_CL = f"Content-Length: {len(_CHUNKS)}"

_LENGTHS = {
    "length and chunked": _post(_CL, _TE),
    "chunked and length": _post(_TE, _CL),
    "length 0 and chunked": _post("Content-Length: 0", _TE),
    "two lengths that differ": _post("Content-Length: 0", _CL),
    "two lengths that agree": _post(_CL, _CL),
    "a list of lengths": _post(f"Content-Length: 0, {len(_CHUNKS)}"),
    "a list of one length twice": _post(f"Content-Length: {len(_CHUNKS)}, {len(_CHUNKS)}"),
    "length with a plus": _post("Content-Length: +5"),
    "length with a minus": _post("Content-Length: -1"),
    "length in hexadecimal": _post("Content-Length: 0x5"),
    "length with leading zeros": _post("Content-Length: 005"),
    "length with an underscore": _post("Content-Length: 1_0"),
    "length with a space in it": _post("Content-Length: 1 0"),
    "length with a dot": _post("Content-Length: 5.0"),
    "length with an exponent": _post("Content-Length: 1e1"),
    "length past 64 bits": _post("Content-Length: 18446744073709551621"),
    "length past any number": _post("Content-Length: " + "9" * 400),
    "length that is empty": _post("Content-Length:"),
    "length in other digits": _post("Content-Length: \xb2"),
    "length behind a tab": _post("Content-Length: \t0 \t x"),
    "length and a comment": _post("Content-Length: 0;x"),
    "length with a space before its colon": _post("Content-Length : 0", _TE),
    "length under an underscore": _post("Content_Length: 0", _TE),
}
_CODINGS = {
    "coding with a space before its colon": _post(_CL, "Transfer-Encoding : chunked"),
    "coding with a tab before its colon": _post(_CL, "Transfer-Encoding\t: chunked"),
    "coding under an underscore": _post(_CL, "Transfer_Encoding: chunked"),
    "coding twice": _post(_TE, _TE),
    "coding twice, the second unknown": _post(_TE, "Transfer-Encoding: cow"),
    "coding twice, the first identity": _post("Transfer-Encoding: identity", _TE),
    "coding identity and a length": _post(_CL, "Transfer-Encoding: identity"),
    "coding identity": _post("Transfer-Encoding: identity"),
    "coding list": _post("Transfer-Encoding: gzip, chunked"),
    "coding list the other way": _post("Transfer-Encoding: chunked, gzip"),
    "coding list of chunked twice": _post("Transfer-Encoding: chunked, chunked"),
    "coding list with nothing in it": _post("Transfer-Encoding: , chunked"),
    "coding in quotes": _post('Transfer-Encoding: "chunked"'),
    "coding with a parameter": _post("Transfer-Encoding: chunked;x=y"),
    "coding xchunked": _post("Transfer-Encoding: xchunked"),
    "coding behind a vertical tab": _post("Transfer-Encoding: \x0bchunked"),
    "coding behind a hard space": _post("Transfer-Encoding: \xa0chunked"),
    "coding before a NUL": _post("Transfer-Encoding: chunked\x00"),
    "coding before a control byte": _post("Transfer-Encoding: chunked\x01"),
    "coding in a folded line": _post("Transfer-Encoding:", " chunked"),
    "coding behind a fold": _post("X: y", " Transfer-Encoding: chunked", _CL),
    "coding behind a tab fold": _post("X: y", "\tTransfer-Encoding: chunked", _CL),
    "coding behind a bare LF": _post(f"X: y\n{_TE}", _CL),
    "coding behind a bare CR": _post(f"X: y\r{_TE}", _CL),
    "coding behind LF CR": _post(f"X: y\n\r{_TE}", _CL),
    "coding that is empty": _post(_CL, "Transfer-Encoding:"),
    "coding in HTTP/1.0": _get(_TE, first="POST /a HTTP/1.0") + _CHUNKS.encode(),
    "coding named by Connection": _post("Connection: Transfer-Encoding", _TE),
    "length named by Connection": _post("Connection: close, Content-Length", _CL),
    "a name with a NUL": _post(_CL, "Transfer-Encoding\x00: chunked"),
    "a name with a space in it": _post(_CL, "Transfer Encoding: chunked"),
    "a name that is empty": _post(_CL, ": chunked"),
    "a line without a colon": _post(_CL, "Transfer-Encoding chunked"),
}
_BODIES = {
    "chunk size with 0x": _chunked(f"0x0\r\n\r\n{_NEXT}"),
    "chunk size with a plus": _chunked(f"+0\r\n\r\n{_NEXT}"),
    "chunk size with a minus": _chunked(f"-1\r\n\r\n{_NEXT}"),
    "chunk size behind a space": _chunked(f" 0\r\n\r\n{_NEXT}"),
    "chunk size that is empty": _chunked(f"\r\n\r\n{_NEXT}"),
    "chunk size in other digits": _chunked(f"\xb2\r\n\r\n{_NEXT}"),
    "chunk size with an underscore": _chunked(f"1_0\r\n\r\n{_NEXT}"),
    "chunk size past any number": _chunked("f" * 40 + f"\r\n\r\n{_NEXT}"),
    "chunk size before a bare CR": _chunked(f"0\r\r\n\r\n{_NEXT}"),
    "chunk data longer than its size": _chunked(f"1\r\nab\r\n0\r\n\r\n{_NEXT}"),
    "chunk data without CR LF": _chunked(f"1\r\na0\r\n\r\n{_NEXT}"),
    "chunk data before a bare LF": _chunked(f"1\r\na\n0\r\n\r\n{_NEXT}"),
    "trailer that is malformed": _chunked("0\r\nX\x00: y\r\n\r\n" + _NEXT),
    "a second request behind chunks": _chunked(_CHUNKS),
    "a second request behind a length": _post("Content-Length: 1", body="a" + _NEXT),
    "a second request behind a GET": _get() + _NEXT.encode(),
    "a second request behind an empty line": _get() + b"\r\n" + _NEXT.encode(),
    "a second request behind HTTP/1.0": (
        _get("Connection: keep-alive", first="GET /a HTTP/1.0") + _NEXT.encode()
    ),
}
_HOSTS = {
    "no host": _get(host=""),
    "no host in HTTP/1.0": _get(first="GET /a HTTP/1.0", host=""),
    "another host": _get(host=f"Host: {EVIL}"),
    "two hosts": _get(f"Host: {EVIL}"),
    "two hosts the other way": _get(f"Host: {HOST}", host=f"Host: {EVIL}"),
    "one host twice": _get(f"Host: {HOST}"),
    "host that is empty": _get(host="Host:"),
    "host with another port": _get(host=f"Host: {HOST}:81"),
    "host with an empty port": _get(host=f"Host: {HOST}:"),
    "host with a port of two": _get(host=f"Host: {HOST}:80:80"),
    "host with a user": _get(host=f"Host: {HOST}@{EVIL}"),
    "host with a user the other way": _get(host=f"Host: {EVIL}@{HOST}"),
    "host with a path": _get(host=f"Host: {HOST}/@{EVIL}"),
    "host with a comma": _get(host=f"Host: {HOST},{EVIL}"),
    "host with a space": _get(host=f"Host: {HOST} {EVIL}"),
    "host with a tab": _get(host=f"Host: {HOST}\t{EVIL}"),
    "host with a NUL": _get(host=f"Host: {HOST}\x00.{EVIL}"),
    "host with an escape": _get(host=f"Host: {HOST}%00.{EVIL}"),
    "host below the host": _get(host=f"Host: {HOST}.{EVIL}"),
    "host in a folded line": _get(f" {EVIL}"),
    "host in a first folded line": _get(f" Host: {EVIL}", host=""),
    "host with a space before its colon": _get(f"Host : {EVIL}"),
    "host under another header": _get(f"X-Forwarded-Host: {EVIL}"),
    "host under Forwarded": _get(f"Forwarded: host={EVIL}"),
    "host under an underscore": _get(f"X_Forwarded_Host: {EVIL}"),
    "host named by Connection": _get("Connection: close, Host"),
    "host as an address": _get(host="Host: 192.0.2.66"),
}
_TARGETS = {
    "absolute form": _get(first=f"GET http://{EVIL}{SMUGGLED} HTTP/1.1"),
    "absolute form of the host": _get(first=f"GET http://{HOST}/a HTTP/1.1"),
    "absolute form in capitals": _get(first=f"GET HTTP://{EVIL}{SMUGGLED} HTTP/1.1"),
    "absolute form of another scheme": _get(first=f"GET https://{EVIL}{SMUGGLED} HTTP/1.1"),
    "CONNECT": _get(first=f"CONNECT {EVIL}:443 HTTP/1.1"),
    "CONNECT to a path": _get(first="CONNECT /a HTTP/1.1"),
    "authority form": _get(first=f"GET {EVIL}:80 HTTP/1.1"),
    "a user in the target": _get(first=f"GET @{EVIL}{SMUGGLED} HTTP/1.1"),
    "a target without a slash": _get(first="GET a HTTP/1.1"),
    "a star with GET": _get(first="GET * HTTP/1.1"),
    "a fragment in the target": _get(first=f"GET /a#@{EVIL} HTTP/1.1"),
    "two spaces before the target": _get(first="GET  /a HTTP/1.1"),
    "a tab before the target": _get(first="GET\t/a HTTP/1.1"),
    "two spaces before the version": _get(first="GET /a  HTTP/1.1"),
    "a second version": _get(first=f"GET /a HTTP/1.1 {SMUGGLED} HTTP/1.1"),
    "a space before the method": _get(first=" GET /a HTTP/1.1"),
    "an empty line before the method": b"\r\n" + _get(),
    "HTTP/0.9": b"GET /a\r\n\r\n",
    "HTTP/2 in a line": _get(first="GET /a HTTP/2.0"),
    "HTTP/1.2": _get(first="GET /a HTTP/1.2"),
    "http in small letters": _get(first="GET /a http/1.1"),
    "a version with a plus": _get(first="GET /a HTTP/+1.1"),
    "a bare LF in the first line": _get(first=f"GET {SMUGGLED} HTTP/1.1\nHost: {EVIL}\nX: y"),
    "a bare CR in the first line": _get(first=f"GET {SMUGGLED} HTTP/1.1\rHost: {EVIL}\rX: y"),
    "a NUL in the target": _get(first="GET /a\x00b HTTP/1.1"),
    "a byte past ASCII in the target": _get(first="GET /\xe4 HTTP/1.1"),
    "line feeds alone": _get().replace(b"\r\n", b"\n"),
    "carriage returns alone": _get().replace(b"\r\n", b"\r"),
}
_SWITCHES = {
    "HTTP/2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00",
    "an upgrade to h2c": _get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
                              "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
    "an upgrade to h2c without Connection": _get("Upgrade: h2c"),
    "settings of HTTP/2 alone": _get("HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
    "an upgrade to h2c or websocket": _get("Connection: Upgrade", "Upgrade: h2c, websocket",
                                           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    "an upgrade to TLS": _get("Connection: Upgrade", "Upgrade: TLS/1.0"),
    "a websocket without a key": _get("Connection: Upgrade", "Upgrade: websocket"),
    "a websocket by POST": _post("Connection: Upgrade", "Upgrade: websocket",
                                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", body=""),
    "a websocket and a request at once": _get(
        "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==") + _NEXT.encode(),
    "another expectation": _post("Expect: 200-ok", _CL),
    "two expectations": _post("Expect: 100-continue", "Expect: 100-continue", _CL),
    "TLS": b"\x16\x03\x01\x00\x05hello",
}  # fmt: skip
_CLEAN = {
    "a body that looks like a request": _post(f"Content-Length: {len(_NEXT)}", body=_NEXT),
    "chunks that look like a request": _chunked(f"{len(_NEXT):x}\r\n{_NEXT}\r\n0\r\n\r\n"),
    "chunk size in capitals and zeros": _chunked("000A\r\n0123456789\r\n0\r\n\r\n"),
    "a chunk extension": _chunked(f'1;x="{SMUGGLED}"\r\na\r\n0;y\r\n\r\n'),
    "a trailer that shadows": _chunked(f"1\r\na\r\n0\r\nHost: {EVIL}\r\n{_CL}\r\n\r\n"),
    "coding in capitals": _post("TRANSFER-ENCODING: CHUNKED", body="0\r\n\r\n"),
    "host in capitals": _get(host=f"HOST: {HOST.upper()}"),
    "host with its port": _get(host=f"Host: {HOST}:80"),
    "host with a last dot": _get(host=f"Host: {HOST}."),
    "keep-alive in HTTP/1.0": _get("Connection: keep-alive", first="GET /a HTTP/1.0"),
    "TE for a proxy": _get("TE: trailers", "Connection: TE"),
    "a proxy's connection": _get("Proxy-Connection: keep-alive", "Keep-Alive: timeout=5"),
}

BATTERY = tuple(
    Framing(title=title, data=data, refused=refused)
    for cases, refused in (
        (_LENGTHS, True), (_CODINGS, True), (_BODIES, True), (_HOSTS, True), (_TARGETS, True),
        (_SWITCHES, True), (_CLEAN, False),
    )
    for title, data in cases.items()
)  # fmt: skip
