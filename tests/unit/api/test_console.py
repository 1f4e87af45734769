"""The console's way to the API: by sessions alone, for reading alone, for its own process alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from supervisor.api import console
from supervisor.api.callers import Directory
from supervisor.call.types import SESSION_KEY, UID_KEY
from supervisor.console.reader import Asking, Reader, asking
from supervisor.errors import NotFound, StockadeError, Unauthenticated, Unreachable
from supervisor.v1 import console_pb2, console_pb2_grpc, tool_pb2
from tests.unit.api.harness import (
    Client,
    Running,
    connected,
    execute_request,
    foreign_call,
    refused,
    run,
)
from tests.unit.api.test_intercept import OURS

ME = os.geteuid()
ON = {"console": {"listen": "127.0.0.1:0"}}


async def _forever(*_: object) -> None:
    await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def we_are_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "UID", ME)
    monkeypatch.setattr(console.Console, "_keep_running", _forever)


def door(folder: Path) -> str:
    return f"unix:{folder}/.s.sock.d/{console.FOLDER}/{console.SOCKET}"


@contextlib.asynccontextmanager
async def open_to(folder: Path) -> AsyncIterator[tuple[Running, Client, Reader]]:
    """Run a server, with a client of it and what reads for the console."""
    async with connected(folder, ON) as (running, client):
        served = running.server._console
        assert served is not None
        served.pid = os.getpid()
        async with Reader(door(folder)) as reader:
            yield running, client, reader


async def link(client: Client, **fields: int) -> str:
    stub: Any = console_pb2_grpc.ConsoleServiceStub(client.channel)
    answer = await stub.OpenSession(console_pb2.OpenSessionRequest(**fields))
    assert answer.uid == fields.get("uid", ME)
    base, _, token = str(answer.url).partition("/enter#")
    assert base.startswith("http://127.0.0.1:")
    return token


async def enter(client: Client, reader: Reader) -> Asking:
    asking.set(Asking(secret=await link(client), uid=ME))
    found = Asking(secret=await reader.enter(), uid=ME)
    asking.set(found)
    return found


def test_a_session_sees_what_its_caller_sees(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_to(tmp_path) as (running, client, reader):
            call_id, stream = await client.begin(b"hang")
            await enter(client, reader)
            assert (await reader.who()).caller == "owner"
            found, more = await reader.live(10)
            assert ([call.call_id for call in found], more) == ([call_id], False)
            await reader.account(call_id)
            (entered,) = running.engine.store.own.of_kind("console_entered")
            assert (entered["caller"]["name"], entered["uid"]) == ("owner", ME)
            (read,) = running.engine.store.own.of_kind("read")
            assert (read["caller"]["transport"], read["caller"]["pid"]) == ("console", None)
            stream.cancel()

    run(main())


def test_another_callers_call_is_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        entry = {"name": "me", "uid": ME, "profiles": ["python"], "calls": "own", "audit": "own"}
        async with connected(tmp_path, {**ON, "callers": [entry]}) as (running, client):
            assert running.server._console is not None
            running.server._console.pid = os.getpid()
            other = await foreign_call(running.engine)
            async with Reader(door(tmp_path)) as reader:
                await enter(client, reader)
                assert await reader.live(10) == ([], False)
                for ask in (reader.account, reader.get):
                    with pytest.raises(NotFound):
                        await ask(other)

    run(main())


def test_without_a_session_nothing_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_to(tmp_path) as (running, client, reader):
            token = await link(client)
            session = await enter(client, reader)
            for secret, uid in (("", ME), (token, ME), (session.secret, ME + 1), ("x" * 43, ME)):
                asking.set(Asking(secret=secret, uid=uid))
                for ask in (reader.who, reader.leave, lambda: reader.live(1)):
                    with pytest.raises(Unauthenticated) as caught:
                        await ask()
                    assert caught.value.reason == "SESSION_UNKNOWN"
            async with grpc.aio.insecure_channel(door(tmp_path)) as channel:
                found = await refused(Client(channel).tool.ListCalls(tool_pb2.ListCallsRequest()))
                assert found.reason == "SESSION_UNKNOWN"
            refusals = running.engine.store.own.of_kind("unauthenticated")
            assert {one["peer"]["address"] for one in refusals} == {"console"}
            running.server._entries.flush()
            (dropped,) = running.engine.store.own.of_kind("refusals_dropped")
            assert {row["who"] for row in dropped["of"]} == {"console"}

    run(main())


@pytest.mark.parametrize("rpc", sorted(set(OURS) - console.ALLOWED))
def test_a_session_changes_nothing(rpc: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_to(tmp_path) as (running, client, reader):
            now = await enter(client, reader)
            metadata = ((SESSION_KEY, now.secret), (UID_KEY, str(now.uid)))
            async with grpc.aio.insecure_channel(door(tmp_path)) as channel:
                stream = channel.stream_stream(rpc)(iter([b""]), metadata=metadata)
                found = await refused(stream)
            assert (found.code, found.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "CONSOLE_READS_ONLY",
            )
            assert not running.engine.calls

    run(main())


def test_what_a_session_may_ask_is_there() -> None:
    assert {rpc for rpc in console.ALLOWED if "/supervisor.v1.Export" not in rpc} <= set(OURS)


def test_nobody_elses_request_is_asked_for_a_session(tmp_path: Path) -> None:
    """A session named over the public socket makes nobody of somebody, nor somebody else."""

    async def main() -> None:
        async with open_to(tmp_path) as (_, client, reader):
            await enter(client, reader)
            metadata = ((SESSION_KEY, "x" * 43), (UID_KEY, "12345"))
            request = execute_request(b"echo", b"hello")
            events = [one.event async for one in client.tool.Execute(request, metadata=metadata)]
            assert events[-1].HasField("finished")

    run(main())


@pytest.mark.parametrize("wrong", ["pid", "uid"])
def test_another_process_is_let_go(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with open_to(tmp_path) as (running, client, reader):
            asking.set(Asking(secret=await link(client), uid=ME))
            assert running.server._console is not None
            if wrong == "pid":
                running.server._console.pid = os.getpid() + 1
            else:
                monkeypatch.setattr(console, "UID", ME + 1)
            with pytest.raises(Unreachable):
                await reader.enter()

    run(main())


def test_a_session_ends_with_the_callers_grant(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_to(tmp_path) as (running, client, reader):
            await enter(client, reader)
            await reader.who()
            running.server._directory = Directory([])
            with pytest.raises(StockadeError) as caught:
                await reader.who()
            assert caught.value.reason == "PEER_UNKNOWN"

    run(main())


def test_it_is_only_entered_on_record(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_to(tmp_path) as (running, client, reader):
            asking.set(Asking(secret=await link(client), uid=ME))
            running.engine.store.own.failure = StockadeError("RECORD_FULL", "no room")
            with pytest.raises(StockadeError, match="no room"):
                await reader.enter()
            served = running.server._console
            assert served is not None
            assert not served.sessions._sessions

    run(main())


def test_the_door_is_nobodys_to_find(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, ON):
            private = tmp_path / ".s.sock.d"
            assert private.stat().st_mode & 0o777 == 0o700
            assert (private / console.FOLDER).stat().st_mode & 0o777 == 0o711
        assert not private.exists()

    run(main())
