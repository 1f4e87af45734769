"""Admission, ids, health, the end of the daemon, and what is refused."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.entry import Position
from supervisor.audit.reading import read_log
from supervisor.audit.segment import MAGIC
from supervisor.call.events import Started, Watched
from supervisor.call.outcome import Exited, Failed, Interrupted, Stopped
from supervisor.call.state import State
from supervisor.call.types import Caller
from supervisor.engine import engine as engine_module
from supervisor.engine.engine import SIGNAL_MAX, new_call_id
from supervisor.errors import (
    AuditUnavailable,
    CapacityError,
    HostError,
    InvalidRequest,
    NotFound,
    OutOfRange,
    ShuttingDown,
)
from tests.support.records import CALLER, begin, make_profile, opened

from .harness import World, collect, end_of, kinds, running, settle, until

SHUT_DOWN = Stopped(by="daemon", reason="SHUTDOWN", signal=9)
OTHER = Caller(name="other", transport="unix", uid=1001)


def entries_of_the_daemon(world: World) -> list[str]:
    start = Position(segment=0, offset=len(MAGIC))
    return [e.kind for e in read_log(world.store._journal, start) if not e.call_id]


# Ids.


def test_a_call_id_is_a_uuid_of_version_7() -> None:
    ids = [new_call_id() for _ in range(500)]
    assert len(set(ids)) == len(ids)
    for text in ids:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122


@given(st.lists(st.integers(0, (1 << 48) - 1), min_size=2, max_size=5, unique=True))
def test_call_ids_sort_by_the_millisecond(milliseconds: list[int]) -> None:
    found = []
    for one in milliseconds:
        with mock.patch.object(engine_module.time, "time_ns", lambda one=one: one * 1_000_000):
            found.append(new_call_id())
    assert sorted(found) == [text for _, text in sorted(zip(milliseconds, found, strict=True))]
    assert [int(text.replace("-", "")[:12], 16) for text in found] == milliseconds


# Admission.


def test_no_more_calls_than_allowed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, calls_max=2, retry_after_s=7.0) as world:
            first = await world.submit(b"hang")
            await world.submit(b"hang")
            with pytest.raises(CapacityError) as raised:
                await world.submit()
            assert raised.value.reason == "CALLS_LIMIT"
            assert raised.value.retry_after_s == 7.0
            assert len(world.host.sandboxes) == 2
            await world.engine.signal(first.call_id, by="a", signal=9, why="")
            await collect(first)
            assert end_of(await world.run()).outcome == Exited(code=0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "error", [CapacityError("JOURNAL_FULL", "full"), AuditUnavailable("JOURNAL_UNAVAILABLE", "x")]
)
@pytest.mark.parametrize("step", ["check_admission", "begin"])
def test_what_cannot_be_recorded_is_not_started(
    tmp_path: Path, step: str, error: CapacityError | AuditUnavailable
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            with mock.patch.object(world.store, step, side_effect=error), \
                    pytest.raises(type(error)) as raised:  # fmt: skip
                await world.submit(request_id="again")
            assert raised.value.reason == error.reason
            assert world.figures.rejected == [error.reason]
            assert not any("prepare" in sandbox.log for sandbox in world.host.sandboxes)
            assert world.engine.list(live_only=True) == ([], "")
            # Nothing of the attempt stands in the way of the next.
            assert end_of(await world.run(request_id="again")).outcome == Exited(code=0)

    asyncio.run(scenario())


def test_a_caller_that_goes_away_while_intent_is_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            gate = asyncio.Event()

            async def wait(*args: object) -> None:
                await gate.wait()

            with mock.patch.object(world.store, "begin", wait):
                submitting = asyncio.ensure_future(world.submit())
                await settle(lambda: world.host.sandboxes)
                submitting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await submitting
            assert world.engine.list(live_only=True) == ([], "")
            assert world.host.sandbox.log == []

    asyncio.run(scenario())


# What can be asked of calls.


def test_calls_that_nobody_knows(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            engine = world.engine
            for ask in (
                engine.attach("nobody", 1),
                engine.signal("nobody", by="a", signal=15, why=""),
                engine.write_stdin("nobody", offset=0, data=b"", end=False),
            ):
                with pytest.raises(NotFound) as raised:
                    await ask
                assert raised.value.reason == "CALL_NOT_FOUND"
            for look in (engine.get, engine.owner):
                with pytest.raises(NotFound):
                    look("nobody")

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [-1, 0, SIGNAL_MAX + 1, 9 + (1 << 32)])
def test_numbers_that_are_no_signal(tmp_path: Path, number: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"hang")
            with pytest.raises(InvalidRequest) as raised:
                await world.engine.signal(subscription.call_id, by="a", signal=number, why="")
            assert raised.value.reason == "SIGNAL_INVALID"

    asyncio.run(scenario())


def test_a_sequence_that_is_not_there_yet(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            live = await world.submit(b"hang")
            await until(live, Started)
            follower = await world.engine.attach(live.call_id, 3)
            with pytest.raises(OutOfRange) as raised:
                await world.engine.attach(live.call_id, 4)
            assert raised.value.reason == "SEQUENCE_AHEAD"
            world.host.sandbox.kill()
            assert kinds(await collect(follower)) == ["Finished"]
            # After the outcome comes nothing, so there is nothing to wait for.
            assert kinds(await collect(await world.engine.attach(live.call_id, 3))) == ["Finished"]
            with pytest.raises(OutOfRange):
                await world.engine.attach(live.call_id, 4)

    asyncio.run(scenario())


def test_lists_of_calls(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            done = (await world.run(profile="one"))[0].call_id
            mine = (await world.submit(b"hang", profile="one")).call_id
            theirs = (await world.submit(b"hang", caller=OTHER, profile="two")).call_id
            await settle(lambda: world.engine.get(theirs)[1] is State.RUNNING)

            def listed(**wanted: object) -> list[str]:
                found, _ = world.engine.list(**wanted)  # type: ignore[arg-type]
                return [summary.call_id for summary, _ in found]

            assert listed() == [theirs, mine, done]
            assert listed(live_only=True) == [theirs, mine]
            assert listed(caller="other") == listed(caller="other", live_only=True) == [theirs]
            assert listed(profile="one") == [mine, done]
            assert listed(profile="one", live_only=True) == [mine]
            assert listed(limit=1, live_only=True) == [theirs]
            states = [state for _, state in world.engine.list()[0]]
            assert states == [State.RUNNING, State.RUNNING, State.CLOSED]
            assert [world.engine.owner(call) for call in (theirs, mine)] == ["other", "tester"]

    asyncio.run(scenario())


# Start, health, drain.


def test_calls_of_a_former_daemon_are_closed_at_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            call_id = (await begin(store)).call_id
        async with running(tmp_path) as world:
            assert world.host.opened == 1
            finished = world.store.get_call(call_id).finished
            assert finished is not None
            assert isinstance(finished.outcome, Interrupted)
            assert kinds(await collect(await world.engine.attach(call_id, 1)))[-1] == "Finished"

    asyncio.run(scenario())


def test_what_a_former_daemon_s_observed_call_still_had_to_tell(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            call_id = (await begin(store, profile=make_profile(mode="observe"))).call_id
        async with running(tmp_path, start=False) as world:
            world.host.left[call_id] = (Watched(name="getppid", count=3),)
            await world.engine.start()
            assert world.host.modes == {call_id: "observe"}
            entries = list(world.store.entries(call_id))
            assert [entry.kind for entry in entries] == ["intent", "watched", "outcome"]
            assert {entry.body()["mode"] for entry in entries} == {"observe"}

    asyncio.run(scenario())


def test_a_daemon_says_that_it_began_and_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            await world.run()
            await world.engine.drain(0)
            own = entries_of_the_daemon(world)
            assert (own[0], own[-1]) == ("daemon_started", "daemon_stopped")
            assert world.host.closed == 1
            assert world.host.brokers_ended

    asyncio.run(scenario())


def test_a_host_that_cannot_be_used_takes_no_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, start=False) as world:
            assert world.engine.health_problems == ("NOT_STARTED",)
            with pytest.raises(ShuttingDown):
                await world.submit()
            world.host.failures["open"] = HostError("LEFTOVER_STAYS", "no")
            with pytest.raises(HostError):
                await world.engine.start()

    asyncio.run(scenario())


def test_a_wall_that_is_required_and_missing(tmp_path: Path) -> None:
    """Nothing is started and nothing recorded, as with every refusal; it is counted."""

    async def scenario() -> None:
        demanding = replace(make_profile(), require=("cgroup-v2", "guard"))
        async with running(tmp_path, profile=demanding) as world:
            with pytest.raises(HostError) as caught:
                await world.submit()
            error = caught.value
            assert (error.reason, error.metadata["wall"]) == ("WALL_MISSING", "guard")
            assert "no BPF LSM" in error.message
            assert error.hint.startswith("lsm=bpf")
            assert world.host.sandboxes == []
            assert world.figures.rejected == ["WALL_MISSING"]
            assert world.store.list_calls(limit=1)[0] == []

    asyncio.run(scenario())


def test_a_runtime_that_the_host_does_not_have(tmp_path: Path) -> None:
    """No other takes its place: nothing is started and nothing recorded."""

    async def scenario() -> None:
        async with running(tmp_path, profile=replace(make_profile(), runtime="crun")) as world:
            world.host.failures["crun"] = HostError("RUNTIME_NEEDS_CGROUP_V2", "not here")
            with pytest.raises(HostError) as caught:
                await world.submit()
            assert caught.value.reason == "RUNTIME_NEEDS_CGROUP_V2"
            assert caught.value.metadata["profile"] in caught.value.message
            assert "runtime: crun; not here" in caught.value.message
            assert world.host.sandboxes == []
            assert world.figures.rejected == ["RUNTIME_NEEDS_CGROUP_V2"]
            assert world.store.list_calls(limit=1)[0] == []

    asyncio.run(scenario())


def test_a_wall_that_is_required_and_stands(tmp_path: Path) -> None:
    async def scenario() -> None:
        fit = replace(make_profile(), require=("cgroup-v2",))
        async with running(tmp_path, profile=fit) as world:
            assert (await world.finished()).outcome == Exited(code=0)

    asyncio.run(scenario())


def test_health_names_what_is_wrong(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            engine = world.engine
            assert engine.healthy
            assert engine.health_problems == ()
            full = CapacityError("JOURNAL_FULL", "full")
            with mock.patch.object(world.store, "check_admission", side_effect=full):
                assert engine.health_problems == ("JOURNAL_FULL",)
                assert not engine.healthy
            await engine.drain(0)
            assert set(engine.health_problems) == {"NOT_STARTED", "SHUTTING_DOWN"}

    asyncio.run(scenario())


async def end_by_a_wall(world: World) -> str:
    """Give why a live call was ended; no other may be taken afterwards."""
    outcome = (await world.finished(b"hang")).outcome
    assert isinstance(outcome, Failed)
    assert outcome.reason == "WALL_NOT_STANDING"
    assert world.engine.health_problems == ("WALL_NOT_STANDING",)
    with pytest.raises(HostError) as refused:
        await world.submit()
    assert refused.value.reason == "WALL_NOT_STANDING"
    return outcome.message


def test_denials_that_belong_to_no_call_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "FENCE_S", 0.01)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            await settle(lambda: world.figures.strays_seen)
            assert world.figures.strays_seen == {"connect": 3}

    asyncio.run(scenario())


def test_a_fence_with_a_fault_ends_calls_and_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "FENCE_S", 0.01)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.fence.missing = ["fence: it is gone", "fence: and this one"]
            assert await end_by_a_wall(world) == "fence: it is gone; fence: and this one"

    asyncio.run(scenario())


@pytest.mark.parametrize("watch", ["watch_fence", "watch_locks", "reap_strangers"])
def test_a_watch_that_fails_ends_calls_and_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: str
) -> None:
    """What nobody watches any more does not stand."""
    for period in ("FENCE_S", "LOCKS_S", "REAP_S"):
        monkeypatch.setattr(engine_module, period, 0.01)
    bug = mock.Mock(side_effect=RuntimeError("a bug"))

    async def scenario() -> None:
        async with running(tmp_path) as world:
            place: tuple[object, str] = {
                "watch_fence": (world.host.fence, "faults"),
                "watch_locks": (engine_module, "_count_locks"),
                "reap_strangers": (engine_module, "reap_strangers"),
            }[watch]
            with mock.patch.object(*place, bug):
                assert await end_by_a_wall(world) == f"{watch} ended: RuntimeError('a bug')"

    asyncio.run(scenario())


def test_a_drain_waits_for_calls_that_end_by_themselves(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.gates["start"] = asyncio.Event()
            subscription = await world.submit()
            draining = asyncio.ensure_future(world.engine.drain(1e6))
            await settle(lambda: "start" in world.host.sandbox.log)
            with pytest.raises(ShuttingDown) as raised:
                await world.submit()
            assert raised.value.reason == "SHUTTING_DOWN"
            assert "SHUTTING_DOWN" in world.engine.health_problems
            assert not draining.done()
            world.host.gates["start"].set()
            assert end_of(await collect(subscription)).outcome == Exited(code=0)
            await draining

    asyncio.run(scenario())


def test_a_host_that_cannot_be_cleaned_up_is_told_once(tmp_path: Path) -> None:
    """Its error comes out, and what asks again after it does no harm."""

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.failures["close"] = HostError("STOP_INCOMPLETE", "no")
            with pytest.raises(HostError):
                await world.engine.drain(0)
            await world.engine.drain(0)
            assert entries_of_the_daemon(world).count("daemon_stopped") == 1
            assert world.host.closed == 1

    asyncio.run(scenario())


def test_a_drain_waits_for_nothing_that_cannot_be_recorded(tmp_path: Path) -> None:
    """It is killed at once, also where the record fails only while it is waited for."""

    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"hang")
            await until(subscription, Started)
            draining = asyncio.ensure_future(world.engine.drain(1e6))
            await settle(lambda: world.engine.health_problems)
            assert not draining.done()
            with mock.patch.object(type(world.store), "healthy", new=False):
                assert end_of(await collect(subscription)).outcome == SHUT_DOWN
                await draining

    asyncio.run(scenario())


def test_a_drain_whose_record_fails_still_cleans_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            lost = AuditUnavailable("JOURNAL_UNAVAILABLE", "no")
            with (
                mock.patch.object(world.store, "note", side_effect=lost),
                pytest.raises(AuditUnavailable),
            ):
                await world.engine.drain(0)
            assert world.host.closed == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("gate", ["prepare", "prepared", "start"])
def test_a_drain_ends_what_does_not_end(tmp_path: Path, gate: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            late = await world.submit(b"hang")
            await until(late, Started)
            world.host.gates[gate] = asyncio.Event()
            early = await world.submit(b"hang")
            await settle(lambda: gate in world.host.sandboxes[1].log)
            draining = asyncio.ensure_future(world.engine.drain(0))
            assert end_of(await collect(late)).outcome == SHUT_DOWN
            assert not draining.done(), "a call is still being prepared"
            world.host.gates[gate].set()
            await draining
            assert end_of(await collect(early)).outcome == SHUT_DOWN
            assert world.host.closed == 1

    asyncio.run(scenario())


def test_a_drain_does_not_wait_for_a_call_that_was_never_admitted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            gate = asyncio.Event()

            async def fail(*args: object) -> None:
                await gate.wait()
                raise AuditUnavailable("JOURNAL_UNAVAILABLE", "the disk is gone")

            with mock.patch.object(world.store, "begin", fail):
                submitting = asyncio.ensure_future(world.submit())
                await settle(lambda: world.host.sandboxes)
                draining = asyncio.ensure_future(world.engine.drain(1e6))
                await asyncio.sleep(0)
                gate.set()
                with pytest.raises(AuditUnavailable):
                    await submitting
                await draining

    asyncio.run(scenario())


def test_the_record_s_failure_does_not_keep_the_daemon(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.store._journal.fail("log", OSError(5, "the disk is gone"))
            await world.engine.drain(0)
            assert world.host.closed == 1

    asyncio.run(scenario())


# Callers that go away.


@pytest.mark.parametrize("kills", [True, False])
def test_a_caller_that_goes_away(tmp_path: Path, kills: bool) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"hang", kill_on_disconnect=kills)
            await until(subscription, Started)
            follower = await world.engine.attach(subscription.call_id, 1)
            await follower.close()
            assert world.engine.get(subscription.call_id)[1] is State.RUNNING
            await subscription.close()
            if kills:
                events = await collect(await world.engine.attach(subscription.call_id, 1))
                wanted = Stopped(by=CALLER.name, reason="DISCONNECTED", signal=9)
                assert end_of(events).outcome == wanted
            else:
                await asyncio.sleep(0.01)
                assert world.engine.get(subscription.call_id)[1] is State.RUNNING

    asyncio.run(scenario())


def test_going_away_after_the_end_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.gates["quiesce"] = asyncio.Event()
            subscription = await world.submit(kill_on_disconnect=True)
            await settle(lambda: "quiesce" in world.host.sandbox.log)
            await subscription.close()
            world.host.gates["quiesce"].set()
            events = await collect(await world.engine.attach(subscription.call_id, 1))
            assert end_of(events).outcome == Exited(code=0)

    asyncio.run(scenario())
