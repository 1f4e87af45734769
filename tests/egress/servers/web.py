"""HTTP as careless as it comes: whatever any server on the internet might take for a request.

What a request asks for decides the answer, not the connection that it came on: a request that was
smuggled past somebody gets the canary of the name that it asks for. Three styles of framing, by
address, so that each way to smuggle meets a server that falls for it.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import itertools
import os
import posixpath
import re
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.egress.servers.log import Log

HEAD_MAX = 1 << 20
CHUNK = 1 << 16
BLOCK = hashlib.shake_128(b"stockade").digest(1 << 20)
"""What large files are made of, again and again."""

HIDDEN = "hidden"
"""The document at /hidden, however its path is spelled."""

DRIP_S = 0.01
DRIP_BYTES = 512
CONNECT_S = 3.0
END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
H2_PREFACE = "PRI * HTTP/2.0"


class Style(enum.Enum):
    """Which of two framings a server believes."""

    CHUNKED_FIRST = enum.auto()
    LENGTH_FIRST = enum.auto()
    NO_BODIES = enum.auto()


@dataclass(slots=True)
class Request:
    """A head; header names in lower case, the last of several wins."""

    line: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.line.partition(" ")[0].upper()

    @property
    def target(self) -> str:
        return [*self.line.split(" "), "/"][1]

    @property
    def authority(self) -> str:
        """Give whom it asks for: the target's authority before any Host (RFC 9112 §3.2)."""
        split = urllib.parse.urlsplit(self.target)
        netloc = split.netloc if split.scheme else ""
        return (netloc or self.headers.get("host", "")).rpartition("@")[2]

    @property
    def path(self) -> str:
        if self.target.startswith("/"):
            return self.target
        split = urllib.parse.urlsplit(self.target)
        return (split.path or "/") + (f"?{split.query}" if split.query else "")


@dataclass(slots=True, kw_only=True)
class Site:
    """What a server tells of itself; `metadata` is its document where it has only one."""

    token: str
    log: Log
    git: str
    style: Style = Style.CHUNKED_FIRST
    only: str = ""
    resolve: Callable[[bytes], bytes | None] | None = None
    """What is behind /dns-query (RFC 8484)."""


class Visit:
    """One connection to a site."""

    def __init__(self, conn: socket.socket, site: Site, to: str, port: int, sni: str) -> None:
        self._conn = conn
        self._site = site
        self._to, self._port, self._sni = to, port, sni
        self._buffer = b""

    def serve(self) -> None:
        """Answer requests until the other side has no more, or something is odd."""
        while (request := self._head()) is not None:
            self._site.log(
                "request", to=self._to, port=self._port, sni=self._sni,
                host=request.authority, line=request.line, headers=request.headers,
            )  # fmt: skip
            if not self._answer(request) or "close" in request.headers.get("connection", ""):
                break

    # ---- reading

    def _more(self) -> bool:
        data = self._conn.recv(CHUNK)
        self._buffer += data
        return bool(data)

    def _head(self) -> Request | None:
        self._buffer = self._buffer.lstrip(b"\r\n")
        while (end := END_OF_HEAD.search(self._buffer)) is None:
            if len(self._buffer) > HEAD_MAX or not self._more():
                return None
        head, self._buffer = self._buffer[: end.start()], self._buffer[end.end() :]
        line, *lines = re.split(r"\r?\n", head.decode("latin-1"))
        request = Request(line=line)
        name = ""
        for one in lines:
            if one[:1] in " \t" and name:  # folded, as it was before RFC 7230
                request.headers[name] += " " + one.strip()
                continue
            name, _, value = one.partition(":")
            name = name.strip(" \t\0\v\f").lower()
            request.headers[name] = value.strip(" \t\0\v\f")
        return request

    def _body(self, request: Request) -> Iterator[bytes]:
        """Give the body as this style of server sees it."""
        length = request.headers.get("content-length", "").strip("+ ")
        chunked = "chunked" in request.headers.get("transfer-encoding", "").lower()
        style = self._site.style
        if style is Style.NO_BODIES:
            return
        if chunked and (style is Style.CHUNKED_FIRST or not length):
            yield from self._chunks()
        elif length:
            yield from self._take(int(length.split(",")[0]))

    def _take(self, count: int) -> Iterator[bytes]:
        while count > 0:
            if not self._buffer and not self._more():
                return
            part, self._buffer = self._buffer[:count], self._buffer[count:]
            count -= len(part)
            yield part

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            if not self._more():
                return b""
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def _chunks(self) -> Iterator[bytes]:
        while size := int(re.match(rb"[0-9a-fA-F]*", self._line().strip())[0] or b"0", 16):  # type: ignore[index]
            yield from self._take(size)
            self._line()
        while self._line():
            continue

    # ---- answering

    def _send(
        self, body: bytes | Iterator[bytes], *, length: int | None = None, status: str = "200 OK",
        headers: str = "",
    ) -> bool:  # fmt: skip
        size = len(body) if isinstance(body, bytes) else length
        head = f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{headers}\r\n"
        self._conn.sendall(head.encode("latin-1"))
        for part in [body] if isinstance(body, bytes) else body:
            self._conn.sendall(part)
        return True

    def _answer(self, request: Request) -> bool:
        """Answer one request; say whether another may follow."""
        if request.method == "CONNECT":
            return self._relay(request.target)
        if request.line.startswith(H2_PREFACE):
            return self._switched(request)
        if "expect" in request.headers:
            self._conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "upgrade" in request.headers:
            self._conn.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "
                + request.headers["upgrade"].encode("latin-1") + b"\r\n\r\n"
            )  # fmt: skip
            return self._switched(request)
        path, _, argument = request.path.partition("?")
        body = self._body(request)
        if path.startswith("/git/"):
            return self._git(request, path, argument, b"".join(body))
        if path == "/dns-query" and self._site.resolve is not None:
            return self._send(self._site.resolve(b"".join(body)) or b"")
        digest, size = hashlib.sha256(), 0
        for part in body:
            digest.update(part)
            size += len(part)
        match path:
            case "/upload":
                return self._send(f"{size} {digest.hexdigest()}\n".encode())
            case "/big":
                return self._send(blocks(int(argument)), length=int(argument))
            case "/drip":
                return self._send(_dripping(int(argument)), length=int(argument))
            case "/to":
                to = f"Location: {urllib.parse.unquote(argument)}\r\n"
                return self._send(b"", status="302 Found", headers=to)
        plain = "/" + posixpath.normpath(urllib.parse.unquote(path)).lstrip("/")
        return self._send(self._canary(HIDDEN if plain == f"/{HIDDEN}" else request.authority))

    def _canary(self, name: str) -> bytes:
        return f"canary {self._site.token} of {self._site.only or name}\n".encode("latin-1")

    def _switched(self, request: Request) -> bool:
        """Play the server of another protocol: what it says is the canary of the name that stands
        in what came after the switch."""
        if not self._buffer and not self._more():
            return False
        found = re.search(rb"(?:host|authority):? *([a-z0-9.-]+)", self._buffer, re.IGNORECASE)
        name = found[1].decode() if found else request.authority
        line = self._buffer[:100].decode("latin-1")
        self._site.log("switched", to=self._to, port=self._port, host=name, line=line)
        self._conn.sendall(self._canary(name))
        return False

    def _relay(self, target: str) -> bool:
        """Be the open proxy that somebody always has."""
        host, _, port = target.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as far:
            self._conn.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            far.sendall(self._buffer)
            pump = threading.Thread(target=_copy, args=(far, self._conn), daemon=True)
            pump.start()
            _copy(self._conn, far)
            pump.join()
        return False

    def _git(self, request: Request, path: str, query: str, body: bytes) -> bool:
        """Run git's own server, as gitweb(1) and http-backend(1) say."""
        done = subprocess.run(
            ["git", "http-backend"], input=body, check=True, stdout=subprocess.PIPE,
            env={
                "PATH": os.defpath, "GIT_PROJECT_ROOT": self._site.git, "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": request.method, "PATH_INFO": path.removeprefix("/git"),
                "QUERY_STRING": query, "CONTENT_TYPE": request.headers.get("content-type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
                "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
                "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            },
        )  # fmt: skip
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        lines = head.decode().splitlines()
        status = next((x[8:] for x in lines if x.startswith("Status: ")), "200 OK")
        rest = "".join(f"{x}\r\n" for x in lines if not x.startswith("Status: "))
        return self._send(body, status=status, headers=rest)


def blocks(count: int) -> Iterator[bytes]:
    """Give `count` bytes of a large file."""
    while count > 0:
        yield BLOCK[:count]
        count -= len(BLOCK)


def _dripping(count: int) -> Iterator[bytes]:
    for part in itertools.chain.from_iterable(
        (block[n : n + DRIP_BYTES] for n in range(0, len(block), DRIP_BYTES))
        for block in blocks(count)
    ):
        time.sleep(DRIP_S)
        yield part


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def listen(address: str, port: int, serve: Callable[[socket.socket], None], log: Log) -> None:
    """Serve each connection to a place in a thread of its own."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(1024)

    def one(conn: socket.socket) -> None:
        with conn:
            try:
                serve(conn)
            except (OSError, ValueError) as error:
                log("broken", to=address, port=port, error=repr(error))

    def loop() -> None:
        while True:
            conn, _ = listener.accept()
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=one, args=(conn,), daemon=True).start()

    threading.Thread(target=loop, daemon=True).start()
