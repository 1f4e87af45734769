"""Signals and standard input of a live call, and who is said to have ended it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.call.events import Output, Resized, Started
from supervisor.call.outcome import (
    Exited,
    Failed,
    Outcome,
    Signaled,
    Stopped,
)
from supervisor.call.types import Stream, Terminal
from supervisor.errors import (
    CallStateError,
    CapacityError,
    HostError,
    InputUnread,
    NotPermitted,
)
from supervisor.sandbox import ProgramEnd
from tests.support.records import make_profile

from .harness import (
    FakeSandbox,
    collect,
    end_of,
    running,
    settle,
    until,
)

TERMINAL = replace(make_profile(), terminal=True)


def test_a_signal_reaches_the_program_when_it_can(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.gates["start"] = asyncio.Event()
            subscription = await world.submit(b"hang")
            call_id = subscription.call_id
            await settle(lambda: "start" in world.host.sandbox.log)
            sending = asyncio.ensure_future(
                world.engine.signal(call_id, by="admin", signal=15, why="please")
            )
            await asyncio.sleep(0.01)
            assert world.host.sandbox.signals == []
            world.host.gates["start"].set()
            await sending
            assert world.host.sandbox.signals == [15]
            assert world.host.sandbox.log.index("start") < world.host.sandbox.log.index("ready")
            [entry] = [e for e in world.store.entries(call_id) if e.kind == "signal"]
            assert entry.body() == {"by": "admin", "signal": 15, "why": "please"}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (ProgramEnd(what="signal", value=15), Stopped(by="admin", reason="SIGNAL", signal=15)),
        (ProgramEnd(what="signal", value=11), Signaled(signal=11)),
        (ProgramEnd(what="exit", value=0), Exited(code=0)),
    ],
)
def test_who_ended_a_program_that_got_a_signal(
    tmp_path: Path, end: ProgramEnd, outcome: Outcome
) -> None:
    async def wait_for_signal(sandbox: FakeSandbox) -> ProgramEnd:
        await settle(lambda: sandbox.signals)
        return end

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"wait"] = wait_for_signal
            subscription = await world.submit(b"wait")
            await world.engine.signal(subscription.call_id, by="admin", signal=15, why="")
            assert end_of(await collect(subscription)).outcome == outcome

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [9, 15])
def test_a_call_that_has_ended_takes_no_signal_and_no_input(tmp_path: Path, number: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.gates["quiesce"] = asyncio.Event()
            subscription = await world.submit()
            await settle(lambda: "quiesce" in world.host.sandbox.log)
            for _ in range(2):  # while it drains, and when it is gone
                with pytest.raises(CallStateError) as raised:
                    await world.engine.signal(subscription.call_id, by="a", signal=number, why="")
                assert raised.value.reason == "CALL_CLOSED"
                world.host.gates["quiesce"].set()
                await collect(await world.engine.attach(subscription.call_id, 1))
            with pytest.raises(InputUnread) as unread:
                await world.engine.write_stdin(subscription.call_id, offset=0, data=b"x", end=False)
            assert unread.value.reason == "CALL_CLOSED"

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["kill", "drain"])
def test_taking_outputs_can_be_stopped(tmp_path: Path, way: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.held.add("collect")
            subscription = await world.submit(outputs=("**",))
            await settle(lambda: "collect" in world.host.sandbox.log)
            if way == "kill":
                await world.engine.signal(subscription.call_id, by="a", signal=9, why="")
                events = await collect(subscription)
                assert isinstance(end_of(events).outcome, Exited)
            else:
                await world.engine.drain(0.0)
            assert "hurry" in world.host.sandbox.log

    asyncio.run(scenario())


def test_a_signal_for_a_call_that_never_starts_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.gates["prepare"] = asyncio.Event()
            world.host.failures["prepare"] = HostError("READ_PATH_MISSING", "gone")
            subscription = await world.submit()
            sending = asyncio.ensure_future(
                world.engine.signal(subscription.call_id, by="a", signal=15, why="")
            )
            await settle(lambda: "prepare" in world.host.sandbox.log)
            world.host.gates["prepare"].set()
            with pytest.raises(CallStateError):
                await sending

    asyncio.run(scenario())


def test_standard_input_from_the_request_and_after(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"cat", stdin=b"first ", stdin_open=True)
            call_id = subscription.call_id
            assert await world.engine.write_stdin(call_id, offset=6, data=b"second", end=True) == 12
            events = await collect(subscription)
            output = b"".join(e.event.data for e in events if isinstance(e.event, Output))
            assert output == b"first second"
            assert end_of(events).outcome == Exited(code=0)
            read_back = b"".join(
                data.data for data in world.store.read_stream(call_id, Stream.STDIN)
            )
            assert read_back == b"first second"

    asyncio.run(scenario())


def test_standard_input_that_was_not_kept_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.gates["prepare"] = asyncio.Event()
            subscription = await world.submit(b"cat", stdin=b"all")
            with pytest.raises(CallStateError) as raised:
                await world.engine.write_stdin(
                    subscription.call_id, offset=3, data=b"more", end=False
                )
            assert raised.value.reason == "STDIN_CLOSED"
            world.host.gates["prepare"].set()
            assert end_of(await collect(subscription)).outcome == Exited(code=0)

    asyncio.run(scenario())


def test_who_writes_to_a_call_that_ends_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"hang", stdin_open=True)
            await until(subscription, Started)
            writing = asyncio.ensure_future(
                world.engine.write_stdin(
                    subscription.call_id, offset=0, data=b"x" * (1 << 20), end=False
                )
            )
            await asyncio.sleep(0.01)
            assert not writing.done()
            world.host.sandbox.kill()
            with pytest.raises(CallStateError) as raised:
                await writing
            assert raised.value.reason == "STDIN_CLOSED"

    asyncio.run(scenario())


def test_a_terminal_is_resized_once_it_is_there_and_on_record_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, profile=TERMINAL) as world:
            world.host.gates["start"] = asyncio.Event()
            subscription = await world.submit(b"hang", terminal=Terminal(rows=24, columns=80))
            call_id = subscription.call_id
            await settle(lambda: "start" in world.host.sandbox.log)
            resizing = asyncio.ensure_future(
                world.engine.resize_terminal(call_id, rows=50, columns=132)
            )
            await asyncio.sleep(0.01)
            assert world.host.sandbox.sizes == []
            world.host.gates["start"].set()
            await resizing
            await world.engine.resize_terminal(call_id, rows=50, columns=132)
            assert world.host.sandbox.sizes == [(50, 132)]
            [entry] = [e for e in world.store.entries(call_id) if e.kind == "resized"]
            assert entry.body() == {"rows": 50, "columns": 132}
            event = await until(subscription, Resized)
            assert event.sequence == entry.sequence
            await world.engine.signal(call_id, by="admin", signal=9, why="")
            await collect(subscription)
            with pytest.raises(CallStateError) as raised:
                await world.engine.resize_terminal(call_id, rows=1, columns=1)
            assert raised.value.reason == "CALL_CLOSED"
            recorded = [e.event for e in world.store.events(call_id, 1)]
            assert Resized(rows=50, columns=132) in recorded

    asyncio.run(scenario())


def test_a_terminal_is_resized_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.engine.live.RESIZES_MAX", 3)

    async def scenario() -> None:
        async with running(tmp_path, profile=TERMINAL) as world:
            subscription = await world.submit(b"hang", terminal=Terminal(rows=24, columns=80))
            for rows in range(1, 4):
                await world.engine.resize_terminal(subscription.call_id, rows=rows, columns=9)
            with pytest.raises(CapacityError) as raised:
                await world.engine.resize_terminal(subscription.call_id, rows=9, columns=9)
            assert raised.value.reason == "RESIZES_LIMIT"
            assert world.host.sandbox.sizes[-1] == (3, 9)

    asyncio.run(scenario())


def test_a_call_without_a_terminal_has_no_size(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"hang")
            with pytest.raises(CallStateError) as raised:
                await world.engine.resize_terminal(subscription.call_id, rows=9, columns=9)
            assert raised.value.reason == "TERMINAL_MISSING"

    asyncio.run(scenario())


def test_a_profile_that_says_nothing_gives_no_terminal(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            with pytest.raises(NotPermitted) as raised:
                await world.submit(b"true", terminal=Terminal(rows=24, columns=80))
            assert raised.value.reason == "TERMINAL_DENIED"
            assert "terminal: allow" in raised.value.hint
            assert not world.host.sandboxes

    asyncio.run(scenario())


def test_a_terminal_that_the_program_could_not_have_is_told(tmp_path: Path) -> None:
    async def fail(sandbox: FakeSandbox) -> ProgramEnd:
        return ProgramEnd(what="terminal", value=5)

    async def scenario() -> None:
        async with running(tmp_path, profile=TERMINAL) as world:
            world.host.programs[b"x"] = fail
            finished = await world.finished(b"x", terminal=Terminal(rows=24, columns=80))
            assert isinstance(finished.outcome, Failed)
            assert finished.outcome.reason == "TERMINAL_FAILED"

    asyncio.run(scenario())


def test_a_secret_of_ours_is_never_stored(tmp_path: Path) -> None:
    """It is the caller's to see, where a far side hands it back, and the record's to forget."""
    secret = b"correct-horse-battery"

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.secret_values = {"api": secret}
            subscription = await world.submit(b"cat", stdin=b"key=" + secret, stdin_open=True)
            call_id = subscription.call_id
            more = b"." * 200_000 + secret
            offset = 4 + len(secret)
            await world.engine.write_stdin(call_id, offset=offset, data=more, end=True)
            events = await collect(subscription)
            output = b"".join(e.event.data for e in events if isinstance(e.event, Output))
            assert output == b"key=" + secret + more
            for stream in (Stream.STDIN, Stream.STDOUT):
                pieces = list(world.store.read_stream(call_id, stream))
                assert [piece.found.rule for piece in pieces if piece.found] == ["api"] * 2
                assert secret not in b"".join(piece.data for piece in pieces)

    asyncio.run(scenario())
