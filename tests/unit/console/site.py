"""The console's server over a daemon that is none, and a browser that is a socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

from supervisor.client import Call, Record, Sink, wire
from supervisor.client.sinks import sink
from supervisor.console.reader import Reader, Who, asking
from supervisor.console.server import Site, serve
from supervisor.errors import Unauthenticated
from supervisor.linux.sock_diag import open_diag
from tests.unit.cli import record
from tests.unit.client import fake_daemon as fake

SESSION, TOKEN = "s" * 43, "t" * 43
ID = "01a21e96-86db-72d0-a839-c2c8662f0e43"


@dataclass
class FakeReader:
    """Knows one session and one link; notes who asked, for what."""

    asked: list[str] = field(default_factory=list)
    output: bytes = b"hello\n"
    failure: Exception | None = None
    kept: list[AsyncIterator[bytes]] = field(default_factory=list)
    told: Record | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def _note(self, what: str, secret: str = SESSION) -> None:
        now = asking.get()
        if now is None or now.secret != secret:
            raise Unauthenticated("SESSION_UNKNOWN", "there is no such session")
        self.asked.append(what)
        if self.failure is not None:
            raise self.failure

    async def enter(self) -> str:
        self._note("enter", TOKEN)
        return SESSION

    async def leave(self) -> None:
        self._note("leave")

    async def who(self) -> Who:
        self._note("who")
        return Who(caller="ann", reads_audit=True)

    async def live(self, limit: int) -> tuple[list[Call], bool]:
        self._note("live")
        return [wire.call(fake.call(call_id=ID))], False

    async def page(self, wanted: Any, token: str, limit: int) -> tuple[list[Call], str]:
        self._note(f"page {dict(wanted)} {token}")
        return [wire.call(fake.call(call_id=ID))], "next&page"

    async def sinks(self) -> tuple[Sink, ...]:
        self._note("sinks")
        return (sink(fake.sink(why="why <b>")),)

    async def account(self, call_id: str) -> tuple[Record, bool]:
        self._note(f"account {call_id}")
        if self.told is not None:
            return self.told, True
        body = {"stream": "stdout", "offset": 0, "length": len(self.output)}
        return record.written((2, "started", {}), (3, "output", body)), True

    async def records(self, **wanted: Any) -> AsyncIterator[Call]:
        self._note(f"records {wanted.get('denied')}")
        if wanted.get("denied") == "syscall":
            yield wire.call(fake.call(call_id=ID, denials=3))

    def read_output(self, call_id: str, stream: str) -> AsyncIterator[bytes]:
        made = self._read_output(stream)
        self.kept.append(made)  # so that it is not closed by being forgotten
        return made

    async def _read_output(self, stream: str) -> AsyncIterator[bytes]:
        self._note(f"read {stream}")
        try:
            for at in range(0, len(self.output), 1 << 20):
                yield self.output[at : at + (1 << 20)]
        finally:
            self.closed.set()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str


class Browser:
    """Sends requests as they are written."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self.origin = f"http://{self.host}"

    async def ask(self, path: str, method: str = "GET", body: str = "", **headers: str) -> Answer:
        named = {"Host": self.host, "Cookie": f"stockade_console={SESSION}", "Connection": "close"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        if body:
            named["Content-Type"] = "application/x-www-form-urlencoded"
            named["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in named.items() if v)]
        return parse(await self.send("\r\n".join([*lines, "", body]).encode()))

    async def send(self, data: bytes) -> bytes:
        """Send bytes and give all that comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()


def parse(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Answer(status=int(first.split()[1]), headers=headers, body=body.decode())


@contextlib.asynccontextmanager
async def served(reader: FakeReader | None = None) -> AsyncIterator[tuple[Browser, FakeReader]]:
    """Serve pages on a port of the kernel's choice."""
    reader = reader or FakeReader()
    with socket.create_server(("127.0.0.1", 0)) as listener, open_diag() as diag:
        browser = Browser(listener.getsockname()[1])
        site = Site(url=browser.origin, diag=diag)
        task = asyncio.create_task(serve(listener, site, cast("Reader", reader)))
        try:
            yield browser, reader
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
