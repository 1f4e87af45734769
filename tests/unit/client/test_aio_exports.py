"""The async client does with sinks what the sync one does."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.client import AsyncSupervisor
from supervisor.client.aio_exports import AsyncExports
from supervisor.client.exports import Exports
from supervisor.errors import NotFound
from supervisor.v1 import export_pb2
from tests.unit.client import fake_daemon as fake
from tests.unit.client.conftest import FAST
from tests.unit.client.fake_daemon import Abort, FakeDaemon


def test_same_names_and_arguments() -> None:
    names = {name for name in vars(Exports) if not name.startswith("_")}
    assert names and names == {name for name in vars(AsyncExports) if not name.startswith("_")}
    for name in names:
        first, second = (
            inspect.signature(getattr(kind, name)).parameters for kind in (Exports, AsyncExports)
        )
        assert list(first.values()) == list(second.values()), name


def test_each_method(daemon: FakeDaemon) -> None:
    def tested(_: Any) -> Iterator[export_pb2.TestSinkResponse]:
        yield export_pb2.TestSinkResponse(index=7, acknowledged=True, sink=fake.sink())

    def sent(_: Any) -> Iterator[export_pb2.RedeliverDeadLettersResponse]:
        yield export_pb2.RedeliverDeadLettersResponse(letters=1, delivered=["1-ab-0"])

    letters = export_pb2.ListDeadLettersResponse(letters=[fake.letter(1)])
    daemon.play("ListSinks", lambda _: export_pb2.ListSinksResponse(sinks=[fake.sink()]))
    daemon.play("TestSink", tested)
    daemon.play("ReplaySink", lambda _: export_pb2.ReplaySinkResponse(index=17, entries=3))
    daemon.play("ListDeadLetters", lambda _: letters)
    daemon.play("RedeliverDeadLetters", sent)
    daemon.play("DiscardDeadLetters", lambda _: export_pb2.DiscardDeadLettersResponse(discarded=4))
    daemon.play("Reload", lambda _: export_pb2.ReloadResponse(added=["a"]))

    async def main() -> None:
        async with AsyncSupervisor(daemon.address, retry=FAST) as client:
            assert [sink.name for sink in await client.sinks()] == ["siem"]
            assert [one.index async for one in client.test_sink("siem", wait=2)] == [7]
            assert (await client.replay_sink("siem", index=17)).entries == 3
            assert [one.index async for one in client.dead_letters("siem")] == [1]
            assert [one.delivered async for one in client.redeliver("siem")] == [("1-ab-0",)]
            assert await client.discard("siem") == 4
            assert (await client.reload_sinks()).added == ("a",)

    asyncio.run(main())
    assert daemon.asked("TestSink")[0].wait.ToSeconds() == 2


def test_a_stream_that_is_refused(daemon: FakeDaemon) -> None:
    def script(_: Any) -> Iterator[Any]:
        raise Abort("NOT_FOUND", "SINK_UNKNOWN")
        yield

    daemon.play("TestSink", script)

    async def main() -> None:
        async with AsyncSupervisor(daemon.address, retry=FAST) as client:
            with pytest.raises(NotFound):
                [one async for one in client.test_sink("siem")]

    asyncio.run(main())
    assert len(daemon.asked("TestSink")) == 1
