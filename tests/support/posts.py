"""A receiver of POSTs on loopback, in the test's own loop, that fails as it is told to.

It speaks as much HTTP/1.1 as the sinks need. `faults` are used up, one for each request, before
`reply` is asked; what a fault lets arrive is given to `reply` all the same, as a server does that
dies after it has stored what it got.
"""

from __future__ import annotations

import asyncio
import enum
import gzip
import random
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

HUGE_PIECE, HUGE_PIECES = b"x" * 65536, 1 << 14
LORIS_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """A request that came whole; names of headers are in lower case, the body is unpacked."""

    path: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What to answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Fault(enum.Enum):
    """What goes wrong with one request."""

    RESET_EARLY = "reset in the middle of the body"
    RESET_LATE = "reset once it was taken, before the answer"
    STALL = "it is taken, and never answered"
    HUGE = "an answer of a gigabyte"
    LORIS = "an answer that comes byte by byte, and does not end"
    CUT = "an answer that ends in its middle"
    NOISE = "an answer that is no HTTP"
    KILL = "everything goes, and is back a little later"


class Posts:
    """The receiver. A context manager; `posts` are those that came whole."""

    def __init__(
        self, reply: Callable[[Post], Reply], *, context: ssl.SSLContext | None = None
    ) -> None:
        self.faults: deque[Fault | Reply] = deque()
        self.posts: list[Post] = []
        self.connections = 0
        self.port = 0
        self._reply = reply
        self._context = context
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Give its address."""
        return f"http{'s' if self._context else ''}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """Let go of everything, as a process does that is killed."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                continue
        except (OSError, asyncio.IncompleteReadError):
            _reset(writer)
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (h.partition(":") for h in head[1:])
        }
        size = int(headers["content-length"])
        fault = self.faults.popleft() if self.faults else None
        if fault is Fault.RESET_EARLY:
            await reader.readexactly(size // 2)
            _reset(writer)
            return False
        body = await reader.readexactly(size)
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        method, path, _ = head[0].split(" ")
        post = Post(path=path, headers=headers, body=body, method=method)
        self.posts.append(post)
        if isinstance(fault, Reply):
            await _answer(writer, fault)
            return True
        reply = self._reply(post)
        if fault is None:
            await _answer(writer, reply)
            return True
        await self._fail(fault, writer)
        return False

    async def _fail(self, fault: Fault, writer: asyncio.StreamWriter) -> None:
        if fault is Fault.KILL:
            self.kill()
            await asyncio.sleep(0.05)
            await self.start()
        elif fault is Fault.RESET_LATE:
            _reset(writer)
        elif fault is Fault.STALL:
            await asyncio.Event().wait()
        elif fault is Fault.NOISE:
            writer.write(b"\x16\x03\x01 this is nothing of HTTP\r\n\r\n")
            await writer.drain()
        elif fault is Fault.CUT:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
            await writer.drain()
        elif fault is Fault.HUGE:
            size = len(HUGE_PIECE) * HUGE_PIECES
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            for _ in range(HUGE_PIECES):
                writer.write(HUGE_PIECE)
                await writer.drain()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(LORIS_S)


async def _answer(writer: asyncio.StreamWriter, reply: Reply) -> None:
    lines = [f"HTTP/1.1 {reply.status} Said", f"content-length: {len(reply.body)}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + reply.body)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    plain = writer.get_extra_info("socket")
    if plain is not None and plain.fileno() >= 0:
        linger = struct.pack("ii", 1, 0)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


def storm(seed: int, times: int) -> list[Fault | Reply]:
    """Give all that can go wrong, so many times each, in an order of chance."""
    replies = [Reply(status=status, body=b"not now") for status in (302, 401, 403, 429, 500, 503)]
    every: list[Fault | Reply] = [*Fault, *replies] * times
    random.Random(seed).shuffle(every)
    return every
