"""Following a call with asyncio: what waiting is about; the rest is as in `test_execution`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.call import outcome
from supervisor.call.events import SLOW_SUBSCRIBER, Accepted, Finished
from supervisor.call.types import STDIN_CHUNK_BYTES_MAX, Terminal
from supervisor.client import AsyncSupervisor
from supervisor.errors import InvalidRequest
from supervisor.v1 import tool_pb2, types_pb2
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import FakeDaemon
from tests.unit.client.test_aio import use
from tests.unit.client.test_execution import reading, stopped_by_signal, too_large
from tests.unit.client.test_sync import WHOLE, breaking, broken, success


def test_resumes(daemon: FakeDaemon) -> None:
    daemon.play("Execute", breaking(abort=broken()), breaking(
        fake.accepted(), fake.output(2, WHOLE[:700]), abort=broken()))  # fmt: skip
    daemon.play(
        "Attach",
        breaking(fake.output(3, WHOLE[700:900], 700), fake.lost(9, SLOW_SUBSCRIBER)),
        breaking(fake.output(4, WHOLE[900:], 900), fake.finished(5, streams=[fake.summary(WHOLE)])),
    )
    call = use(daemon, lambda client: client.run(["x"], profile="python"))
    assert call.stdout == WHOLE
    assert [request.from_sequence for request in daemon.asked("Attach")] == [3, 4]
    assert len({request.request_id for request in daemon.asked("Execute")}) == 1


def test_events(daemon: FakeDaemon) -> None:
    daemon.play("Execute", success)

    async def do(client: AsyncSupervisor) -> list[type]:
        async with await client.execute(["x"], profile="python") as execution:
            assert execution.call_id == fake.CALL_ID
            return [type(event.event) async for event in execution]

    kinds = use(daemon, do)
    assert (kinds[0], kinds[-1]) == (Accepted, Finished)


def test_cancelling_the_task_leaves_the_call(daemon: FakeDaemon) -> None:
    held = threading.Event()

    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        yield fake.accepted()
        held.wait(10)

    daemon.play("Execute", script)

    async def do(client: AsyncSupervisor) -> None:
        execution = await client.execute(["x"], profile="python")
        waiting = asyncio.create_task(execution.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.set()

    use(daemon, do)
    assert not daemon.asked("Signal")


def test_cancel_stops_the_call(daemon: FakeDaemon) -> None:
    asked = threading.Event()

    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        yield fake.accepted()
        asked.wait(10)
        yield fake.finished(2, stopped=types_pb2.Stopped(by="me", reason="SIGNAL", signal=9))

    def signal(_: Any) -> tool_pb2.SignalResponse:
        asked.set()
        return tool_pb2.SignalResponse()

    daemon.play("Execute", script)
    daemon.play("Signal", signal)

    async def do(client: AsyncSupervisor) -> Any:
        execution = await client.execute(["x"], profile="python")
        await execution.cancel()
        return await execution.wait()

    assert isinstance(use(daemon, do).outcome, outcome.Stopped)


def test_a_terminal_is_asked_for_and_resized(daemon: FakeDaemon) -> None:
    daemon.play("Execute", success)
    daemon.play("ResizeTerminal", lambda _: tool_pb2.ResizeTerminalResponse())

    async def do(client: AsyncSupervisor) -> None:
        terminal = Terminal(rows=24, columns=80)
        async with await client.execute(["x"], profile="p", terminal=terminal) as execution:
            await execution.resize_terminal(rows=50, columns=132)

    use(daemon, do)
    (asked,), (resized,) = daemon.asked("Execute"), daemon.asked("ResizeTerminal")
    assert asked.terminal == tool_pb2.Terminal(rows=24, columns=80, term="xterm")
    wanted = tool_pb2.ResizeTerminalRequest(call_id=fake.CALL_ID, rows=50, columns=132)
    assert resized == wanted


def test_long_stdin(daemon: FakeDaemon) -> None:
    data = os.urandom(2 * STDIN_CHUNK_BYTES_MAX + 5)
    got: list[bytes] = []
    ended = threading.Event()

    def script(request: tool_pb2.ExecuteRequest) -> Iterator[tool_pb2.CallEvent]:
        got.append(request.stdin)
        reading(daemon, got, ended)
        yield fake.accepted()
        ended.wait(10)
        yield fake.finished(2)

    daemon.play("Execute", script)
    assert use(daemon, lambda client: client.run(["cat"], profile="p", stdin=data)).ok
    assert b"".join(got) == data


def test_stdin_that_is_refused_stops_the_call_and_says_why(daemon: FakeDaemon) -> None:
    stopped_by_signal(daemon)
    daemon.play("WriteStdin", too_large)

    async def do(client: AsyncSupervisor) -> None:
        stdin = bytes(2 * STDIN_CHUNK_BYTES_MAX)
        async with await client.execute(["cat"], profile="p", stdin=stdin) as execution:
            with pytest.raises(InvalidRequest) as caught:
                await execution.wait()
            assert execution.stdin_error is caught.value

    use(daemon, do)
    (request,) = daemon.asked("Signal")
    assert "STDIN_TOO_LARGE: ää" in request.why
    assert len(request.why.encode()) <= 1024
