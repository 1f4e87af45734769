"""The same request again: it attaches, whenever it comes; another body or caller is another
matter."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.call.events import Accepted, Started
from supervisor.call.outcome import Exited, Stopped
from supervisor.call.types import Caller
from supervisor.errors import AuditUnavailable, CallStateError, RequestConflict
from tests.support.records import CALLER
from tests.support.rounds import rounds

from .harness import World, collect, end_of, running, settle, until

ONE = "4b9a4c0e-request"


def runs(world: World) -> int:
    """Count programs that were started."""
    return sum("start" in sandbox.log for sandbox in world.host.sandboxes)


def test_a_repeat_of_a_live_call_attaches(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            first = await world.submit(b"hang", request_id=ONE)
            await until(first, Started)
            second = await world.submit(b"hang", request_id=ONE)
            assert (first.attached, second.attached) == (False, True)
            assert second.call_id == first.call_id
            accepted = await until(second, Accepted)
            assert isinstance(accepted.event, Accepted)
            assert accepted.event.attached
            world.host.sandbox.kill()
            assert end_of(await collect(first)) == end_of(await collect(second))
            assert runs(world) == 1

    asyncio.run(scenario())


def test_a_repeat_of_a_finished_call_gives_the_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            first = await world.run(b"hello", request_id=ONE)
            again = await world.submit(b"hello", request_id=ONE)
            assert again.attached
            second = await collect(again)
            assert [event.sequence for event in second] == [event.sequence for event in first]
            assert second[1:] == first[1:]
            assert runs(world) == 1
        async with running(tmp_path) as later:  # and after a restart
            again = await later.submit(b"hello", request_id=ONE)
            assert (await collect(again))[1:] == first[1:]
            assert runs(later) == 0

    asyncio.run(scenario())


@settings(max_examples=rounds(10))
@given(st.integers(2, 6), st.integers(0, 3))
def test_repeats_while_intent_is_written_start_one_call(
    tmp_path_factory: pytest.TempPathFactory, repeats: int, turns: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path_factory.mktemp("state")) as world:

            async def submit(number: int) -> str:
                for _ in range(number * turns):
                    await asyncio.sleep(0)
                return end_of(await world.run(request_id=ONE)).record

            records = await asyncio.gather(*[submit(number) for number in range(repeats)])
            assert len(set(records)) == 1
            assert runs(world) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("gone", [True, False], ids=["the first goes away", "the record fails"])
def test_repeats_of_a_call_that_is_not_admitted_are_told(tmp_path: Path, gone: bool) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            gate = asyncio.Event()

            async def fail(*args: object) -> None:
                await gate.wait()
                raise AuditUnavailable("JOURNAL_UNAVAILABLE", "the disk is gone")

            with mock.patch.object(world.store, "begin", fail):
                first = asyncio.ensure_future(world.submit(request_id=ONE))
                await settle(lambda: world.host.sandboxes)
                second = asyncio.ensure_future(world.submit(request_id=ONE))
                await asyncio.sleep(0)
                if gone:
                    first.cancel()
                    with pytest.raises(CallStateError) as raised:
                        await second
                    assert raised.value.reason == "ABANDONED"
                else:
                    gate.set()
                    for submitting in (first, second):
                        with pytest.raises(AuditUnavailable):
                            await submitting
            assert runs(world) == 0

    asyncio.run(scenario())


def test_a_repeat_that_goes_away_while_it_waits_leaves_the_first_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            gate, begin = asyncio.Event(), world.store.begin

            async def wait(*args: object) -> object:
                await gate.wait()
                return await begin(*args)  # type: ignore[arg-type]

            with mock.patch.object(world.store, "begin", wait):
                first = asyncio.ensure_future(world.submit(request_id=ONE))
                await settle(lambda: world.host.sandboxes)
                second = asyncio.ensure_future(world.submit(request_id=ONE))
                await asyncio.sleep(0)
                second.cancel()
                await asyncio.sleep(0)
                gate.set()
                assert end_of(await collect(await first)).outcome == Exited(code=0)

    asyncio.run(scenario())


@pytest.mark.parametrize("live", [True, False])
def test_another_body_is_refused(tmp_path: Path, live: bool) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            program = b"hang" if live else b"true"
            first = await world.submit(program, request_id=ONE)
            if not live:
                await collect(first)
            for change in ({"stdin": b"other"}, {"timeout_s": 3.0}, {"profile": "other"}):
                with pytest.raises(RequestConflict) as raised:
                    await world.submit(program, request_id=ONE, **change)
                assert raised.value.reason == "REQUEST_ID_REUSED"
            assert world.figures.rejected == ["REQUEST_ID_REUSED"] * 3
            assert len(world.host.sandboxes) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("live", [True, False])
def test_another_caller_s_id_is_another_request(tmp_path: Path, live: bool) -> None:
    other = Caller(name="other", transport="unix", uid=1001)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            program = b"hang" if live else b"true"
            first = await world.submit(program, request_id=ONE)
            if not live:
                await collect(first)
            second = await world.submit(program, caller=other, request_id=ONE)
            assert not second.attached
            assert second.call_id != first.call_id
            assert world.engine.owner(second.call_id) == "other"

    asyncio.run(scenario())


def test_a_repeat_is_not_counted_against_the_limit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, calls_max=1) as world:
            first = await world.submit(b"hang", request_id=ONE)
            second = await world.submit(b"hang", request_id=ONE)
            assert second.call_id == first.call_id
            draining = asyncio.ensure_future(world.engine.drain(1e6))
            await asyncio.sleep(0)
            third = await world.submit(b"hang", request_id=ONE)  # starts nothing, so it may
            assert third.call_id == first.call_id
            world.host.sandbox.kill()
            await draining

    asyncio.run(scenario())


def test_a_repeat_that_goes_away_ends_a_call_that_was_to_end_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            first = await world.submit(b"hang", request_id=ONE, kill_on_disconnect=True)
            second = await world.submit(b"hang", request_id=ONE, kill_on_disconnect=True)
            await second.close()
            wanted = Stopped(by=CALLER.name, reason="DISCONNECTED", signal=9)
            assert end_of(await collect(first)).outcome == wanted

    asyncio.run(scenario())
