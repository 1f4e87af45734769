"""An interrupted `run` leaves no call behind, whatever it was waiting for, and does not hang."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from supervisor.client import AsyncSupervisor, Supervisor
from supervisor.v1 import tool_pb2
from tests.unit.client import fake_daemon as fake
from tests.unit.client.fake_daemon import Abort, FakeDaemon
from tests.unit.client.test_aio import use

Wait = Callable[[], None]


class Stop(BaseException):
    """What a handler of a signal raises in a program that waits."""


@contextlib.contextmanager
def interrupting(ready: threading.Event) -> Iterator[None]:
    """Raise Stop in the main thread once `ready` is set, as Ctrl-C raises KeyboardInterrupt."""

    def stop(_: int, __: FrameType | None) -> None:
        raise Stop

    def send() -> None:
        if ready.wait(10):
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    former = signal.signal(signal.SIGUSR1, stop)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, former)


@pytest.fixture
def running(daemon: FakeDaemon) -> Iterator[threading.Event]:
    """A call that runs until the test ends; set once it was asked for."""
    begun, over = threading.Event(), threading.Event()

    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        yield fake.accepted()
        begun.set()
        over.wait(20)

    daemon.play("Execute", script)
    daemon.play("Signal", lambda _: tool_pb2.SignalResponse())
    yield begun
    over.set()


@pytest.fixture
def accepting(daemon: FakeDaemon) -> Iterator[threading.Event]:
    """A call that the daemon has and does not tell of; set once it was asked for."""
    begun, over = threading.Event(), threading.Event()

    def script(_: Any) -> Iterator[tool_pb2.CallEvent]:
        begun.set()
        over.wait(20)
        return iter([])

    def calls(_: Any) -> tool_pb2.ListCallsResponse:
        ours = daemon.asked("Execute")[0].request_id
        late = len(daemon.asked("ListCalls")) > 1
        others = [fake.call(call_id="other", request_id="r")]
        found = [fake.call(call_id="ours", request_id=ours)] if late else []
        return tool_pb2.ListCallsResponse(calls=others + found)

    daemon.play("Execute", script)
    daemon.play("ListCalls", calls)
    daemon.play("Signal", lambda _: tool_pb2.SignalResponse())
    yield begun
    over.set()


def killed(daemon: FakeDaemon) -> list[tuple[str, int]]:
    assert all(request.why for request in daemon.asked("Signal"))
    return [(request.call_id, request.signal) for request in daemon.asked("Signal")]


def test_the_call_is_killed(
    daemon: FakeDaemon, client: Supervisor, running: threading.Event
) -> None:
    with interrupting(running), pytest.raises(Stop) as caught:
        client.run(["x"], profile="p")
    assert killed(daemon) == [(fake.CALL_ID, signal.SIGKILL)]
    assert not getattr(caught.value, "__notes__", [])


def test_a_call_whose_id_is_not_known_is_found(
    daemon: FakeDaemon, client: Supervisor, accepting: threading.Event
) -> None:
    with interrupting(accepting), pytest.raises(Stop):
        client.run(["x"], profile="p")
    assert killed(daemon) == [("ours", signal.SIGKILL)]


def test_what_cannot_be_killed_is_said(
    daemon: FakeDaemon, client: Supervisor, running: threading.Event
) -> None:
    def refuse(_: Any) -> Any:
        raise Abort("PERMISSION_DENIED", "NOT_GRANTED")

    daemon.play("Signal", refuse)
    with interrupting(running), pytest.raises(Stop) as caught:
        client.run(["x"], profile="p")
    assert "NOT_GRANTED" in caught.value.__notes__[0]


def test_a_daemon_that_does_not_answer_is_not_waited_for(
    daemon: FakeDaemon,
    client: Supervisor,
    running: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()
    monkeypatch.setattr("supervisor.client.interrupted.STOP_S", 0.2)
    daemon.play("Signal", lambda _: over.wait(20))
    with interrupting(running), pytest.raises(Stop) as caught:
        client.run(["x"], profile="p")
    over.set()
    assert "NO_ANSWER" in caught.value.__notes__[0]


def test_an_ended_call_is_left_alone(daemon: FakeDaemon, client: Supervisor) -> None:
    def fail(*_: Any) -> Any:
        raise Stop

    daemon.play("Execute", lambda _: iter([fake.accepted(), fake.finished(2)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supervisor.client.collect.Collector.finish", fail)
        with pytest.raises(Stop):
            client.run(["x"], profile="p")
    assert not daemon.asked("Signal")


def test_execute_leaves_the_call(
    daemon: FakeDaemon, client: Supervisor, running: threading.Event
) -> None:
    with (
        interrupting(running),
        pytest.raises(Stop),
        client.execute(["x"], profile="p") as execution,
    ):
        execution.wait()
    assert not daemon.asked("Signal")


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_cancelling_kills_the_call(daemon: FakeDaemon, running: threading.Event, how: str) -> None:
    async def do(client: AsyncSupervisor) -> None:
        task = asyncio.create_task(client.run(["x"], profile="p"))
        await asyncio.to_thread(running.wait, 10)
        await asyncio.sleep(0.1)
        if how == "cancel":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await task

    use(daemon, do)
    assert killed(daemon) == [(fake.CALL_ID, signal.SIGKILL)]


def test_cancelling_finds_a_call_whose_id_is_not_known(
    daemon: FakeDaemon, accepting: threading.Event
) -> None:
    async def do(client: AsyncSupervisor) -> None:
        task = asyncio.create_task(client.run(["x"], profile="p"))
        await asyncio.to_thread(accepting.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    use(daemon, do)
    assert killed(daemon) == [("ours", signal.SIGKILL)]


def test_a_second_cancellation_does_not_stop_the_kill(
    daemon: FakeDaemon, running: threading.Event
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def slow(_: Any) -> tool_pb2.SignalResponse:
        asked.set()
        answer.wait(10)
        return tool_pb2.SignalResponse()

    daemon.play("Signal", slow)

    async def do(client: AsyncSupervisor) -> None:
        task = asyncio.create_task(client.run(["x"], profile="p"))
        await asyncio.to_thread(running.wait, 10)
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(asked.wait, 10)
        answer.set()

    use(daemon, do)
    assert killed(daemon) == [(fake.CALL_ID, signal.SIGKILL)]
