"""How a call ends: by itself, by a limit, by a full record; the first cause is the outcome."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import NoReturn
from unittest import mock

import pytest

from supervisor.audit.recorder import CallRecorder, Shown
from supervisor.call.events import (
    Denied,
    Flow,
    Output,
    Processes,
    ProgramStarted,
    Started,
    Wall,
    Watched,
)
from supervisor.call.outcome import (
    Exited,
    Failed,
    LimitExceeded,
    LimitKind,
    Outcome,
    OutOfMemory,
    Signaled,
    Stopped,
    TimedOut,
)
from supervisor.call.types import Digest, Stream, as_list, as_map
from supervisor.engine import limits
from supervisor.errors import (
    AuditUnavailable,
)
from supervisor.profile.model import EffectiveProfile, Redact
from supervisor.sandbox import ProgramEnd
from tests.support.records import FLOW, PROCESSES, make_profile

from .harness import (
    EXIT_0,
    KILLED,
    FakeSandbox,
    Program,
    World,
    collect,
    end_of,
    hang,
    kinds,
    running,
    sealed,
    settle,
    until,
)

MOUNT = Denied(wall=Wall.SYSCALL, name="mount", arguments=(1, 2, 3, 4, 5, 6), pid=2)


def ends_with(end: ProgramEnd) -> Program:
    async def program(sandbox: FakeSandbox) -> ProgramEnd:
        return end

    return program


def small_output(allowed: int) -> EffectiveProfile:
    profile = make_profile()
    return replace(profile, limits=replace(profile.limits, output_bytes=allowed))


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (ProgramEnd(what="exit", value=7), Exited(code=7)),
        (
            ProgramEnd(what="signal", value=11, core_dumped=True),
            Signaled(signal=11, core_dumped=True),
        ),
        (KILLED, Signaled(signal=9)),
        (ProgramEnd(what="killed", value=0), Signaled(signal=9)),
    ],
)
def test_the_program_s_end_is_the_outcome(
    tmp_path: Path, end: ProgramEnd, outcome: Outcome
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"end"] = ends_with(end)
            assert (await world.finished(b"end")).outcome == outcome

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("what", "reason"),
    [("chdir", "WORKING_DIRECTORY"), ("exec", "EXEC_FAILED"), ("init", "INIT_FAILED")],
)
def test_a_program_that_did_not_run(tmp_path: Path, what: str, reason: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"end"] = ends_with(ProgramEnd(what=what, value=2))
            outcome = (await world.finished(b"end")).outcome
            assert isinstance(outcome, Failed)
            assert outcome.reason == reason

    asyncio.run(scenario())


@pytest.mark.parametrize("gate", ["prepare", "prepared"])
def test_a_call_that_is_stopped_while_it_is_prepared_never_starts(
    tmp_path: Path, gate: str
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.gates[gate] = asyncio.Event()
            subscription = await world.submit()
            await settle(lambda: gate in world.host.sandbox.log)
            await world.engine.signal(subscription.call_id, by="admin", signal=9, why="no")
            world.host.gates[gate].set()
            events = await collect(subscription)
            assert kinds(events) == ["Accepted", "Finished"]
            assert end_of(events).outcome == Stopped(by="admin", reason="SIGNAL", signal=9)
            assert "start" not in world.host.sandbox.log

    asyncio.run(scenario())


def test_the_first_cause_wins(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.gates["quiesce"] = asyncio.Event()
            subscription = await world.submit(b"hang")
            await until(subscription, Started)
            await world.engine.signal(subscription.call_id, by="admin", signal=9, why="")
            await settle(lambda: "quiesce" in world.host.sandbox.log)
            call = world.engine._live[subscription.call_id]
            call.stop_because(TimedOut(limit_s=1))
            world.host.sandbox.cgroup.kills = 1
            world.host.gates["quiesce"].set()
            outcome = end_of(await collect(subscription)).outcome
            assert outcome == Stopped(by="admin", reason="SIGNAL", signal=9)

    asyncio.run(scenario())


def test_the_time_limit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            events = await world.run(b"hang", timeout_s=0.01)
            assert end_of(events).outcome == TimedOut(limit_s=0.01)
            [denied] = [event.event for event in events if isinstance(event.event, Denied)]
            assert (denied.name, denied.rule, denied.allowed) == ("wall", "limits.wall", 10)

    asyncio.run(scenario())


def test_without_a_wish_the_profile_s_time_applies(tmp_path: Path) -> None:
    profile = make_profile()
    short = replace(profile, limits=replace(profile.limits, wall_s=0.01))

    async def scenario() -> None:
        async with running(tmp_path, profile=short) as world:
            assert (await world.finished(b"hang")).outcome == TimedOut(limit_s=0.01)

    asyncio.run(scenario())


def test_memory_is_noticed_after_the_end_too(tmp_path: Path) -> None:
    async def die(sandbox: FakeSandbox) -> ProgramEnd:
        sandbox.cgroup.kills = 1
        return ProgramEnd(what="signal", value=9)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"die"] = die
            events = await world.run(b"die")
            assert isinstance(end_of(events).outcome, OutOfMemory)
            [denied] = [event.event for event in events if isinstance(event.event, Denied)]
            assert denied.name == "memory"

    asyncio.run(scenario())


def test_a_limit_that_is_reached_ends_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POLL_S", 0)

    async def burn(sandbox: FakeSandbox) -> ProgramEnd:
        sandbox.cgroup.cpu_s = (100.0, 0.0)
        return await hang(sandbox)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"burn"] = burn
            outcome = (await world.finished(b"burn")).outcome
            assert outcome == LimitExceeded(limit=LimitKind.CPU, used=100_000, allowed=30_000)

    asyncio.run(scenario())


@pytest.mark.parametrize("stays", [True, False])
def test_too_much_output(tmp_path: Path, stays: bool) -> None:
    """Also where the program is gone before its last output is read."""

    async def flood(sandbox: FakeSandbox) -> ProgramEnd:
        await sandbox.out(b"x" * 600)
        await sandbox.out(b"x" * 600, stream=2)
        return await hang(sandbox) if stays else EXIT_0

    async def scenario() -> None:
        async with running(tmp_path, profile=small_output(1000)) as world:
            world.host.programs[b"flood"] = flood
            events = await world.run(b"flood")
            outcome = end_of(events).outcome
            assert outcome == LimitExceeded(limit=LimitKind.OUTPUT, used=1200, allowed=1000)
            # What the program wrote before it was stopped is on record all the same.
            assert sum(one.digest.size_bytes for one in end_of(events).streams) == 1200

    asyncio.run(scenario())


def test_output_up_to_the_limit_is_allowed(tmp_path: Path) -> None:
    async def fill(sandbox: FakeSandbox) -> ProgramEnd:
        await sandbox.out(b"x" * 1000)
        return EXIT_0

    async def scenario() -> None:
        async with running(tmp_path, profile=small_output(1000)) as world:
            world.host.programs[b"fill"] = fill
            assert (await world.finished(b"fill")).outcome == Exited(code=0)

    asyncio.run(scenario())


def test_everything_in_the_pipes_is_read_after_a_kill(tmp_path: Path) -> None:
    async def write_and_stay(sandbox: FakeSandbox) -> ProgramEnd:
        await sandbox.out(b"x" * 50_000)
        sandbox.kill()
        return await hang(sandbox)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"write"] = write_and_stay
            finished = await world.finished(b"write")
            [stdout] = [one for one in finished.streams if one.stream is Stream.STDOUT]
            assert stdout.digest == Digest.of(b"x" * 50_000)

    asyncio.run(scenario())


# A record that is full.


def _full_from_now_on(world: World, call_id: str) -> None:
    recorder = world.engine._live[call_id].recorder
    assert recorder is not None
    error = AuditUnavailable("RECORD_FULL", "no room")
    recorder.recording.write = mock.Mock(side_effect=error)  # type: ignore[method-assign]


@pytest.mark.parametrize("size", [10, 100_000], ids=["on the loop", "in a thread"])
def test_output_that_cannot_be_recorded_ends_the_call_and_is_not_delivered(
    tmp_path: Path, size: int
) -> None:
    go = asyncio.Event()

    async def write(sandbox: FakeSandbox) -> ProgramEnd:
        await go.wait()
        await sandbox.out(b"x" * size)
        return await hang(sandbox)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"write"] = write
            subscription = await world.submit(b"write")
            await until(subscription, Started)
            _full_from_now_on(world, subscription.call_id)
            go.set()
            events = await collect(await world.engine.attach(subscription.call_id, 1))
            outcome = end_of(events).outcome
            assert isinstance(outcome, Failed)
            assert outcome.reason == "RECORD_FULL"
            shown = [
                e.event for e in events if isinstance(e.event, Output) and not e.event.truncated
            ]
            assert shown == []
            assert sealed(world, subscription.call_id).outcome == outcome

    asyncio.run(scenario())


def test_input_that_cannot_be_recorded_ends_the_call_and_is_not_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"cat", stdin_open=True)
            await until(subscription, Started)
            _full_from_now_on(world, subscription.call_id)
            call_id = subscription.call_id
            with pytest.raises(AuditUnavailable):
                await world.engine.write_stdin(call_id, offset=0, data=b"secret", end=False)
            events = await collect(await world.engine.attach(call_id, 1))
            outcome = end_of(events).outcome
            assert isinstance(outcome, Failed)
            assert outcome.reason == "RECORD_FULL"
            assert "Output" not in kinds(events)

    asyncio.run(scenario())


def test_a_denial_that_cannot_be_recorded_ends_the_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"hang")
            await until(subscription, Started)
            recorder = world.engine._live[subscription.call_id].recorder
            error = AuditUnavailable("RECORD_FULL", "no room")
            with mock.patch.object(recorder, "tell", side_effect=error):
                world.host.sandbox.tell(MOUNT)
            outcome = end_of(await collect(subscription)).outcome
            assert isinstance(outcome, Failed)
            assert outcome.reason == "RECORD_FULL"

    asyncio.run(scenario())


def test_a_call_is_sealed_once_all_that_its_programs_did_is_on_record(tmp_path: Path) -> None:
    """It may still be looked through when the program, and the call, have ended."""
    first = PROCESSES[0]
    assert isinstance(first, ProgramStarted)
    told = [
        Processes(events=(replace(first, pid=n, argv=(b"pwd=b " * 2000,)),)) for n in range(1, 6)
    ]
    gate = threading.Event()
    real = CallRecorder.shown_processes

    def slow(recorder: CallRecorder, processes: Processes) -> Shown:
        assert gate.wait(20)
        return real(recorder, processes)

    async def busy(sandbox: FakeSandbox) -> ProgramEnd:
        sandbox.tell(*told)
        asyncio.get_running_loop().call_later(0.05, gate.set)
        return EXIT_0

    async def scenario() -> None:
        async with running(tmp_path, profile=make_profile(redact=Redact())) as world:
            world.host.programs[b"busy"] = busy
            with mock.patch.object(CallRecorder, "shown_processes", slow):
                events = await world.run(b"busy")
            assert end_of(events).outcome == Exited(code=0)
            entries = list(world.store.entries(events[-1].call_id))
            pids = [
                as_map(event)["pid"]
                for entry in entries
                if entry.kind == "processes"
                for event in as_list(entry.body()["events"])
            ]
            assert sorted(set(pids)) == pids == [1, 2, 3, 4, 5]
            assert entries[-1].kind == "outcome"

    asyncio.run(scenario())


def test_a_pump_that_breaks_ends_the_call(tmp_path: Path) -> None:
    async def write(sandbox: FakeSandbox) -> ProgramEnd:
        await sandbox.out(b"x")
        return await hang(sandbox)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"write"] = write
            world.host.gates["start"] = asyncio.Event()
            subscription = await world.submit(b"write")
            await settle(lambda: "start" in world.host.sandbox.log)
            recorder = world.engine._live[subscription.call_id].recorder
            with mock.patch.object(recorder, "output", side_effect=MemoryError()):
                world.host.gates["start"].set()
                outcome = end_of(await collect(subscription)).outcome
            assert isinstance(outcome, Failed)
            assert outcome.reason == "BUG"

    asyncio.run(scenario())


def test_the_end_does_not_wait_for_more_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.engine.pumps.GATHER_S", 1e6)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            assert (await world.finished(b"hello")).outcome == Exited(code=0)

    asyncio.run(scenario())


def test_a_system_call_under_kill_ends_the_call(tmp_path: Path) -> None:
    syscalls = replace(make_profile().syscalls, kill=frozenset({"mount"}))

    async def scenario() -> None:
        async with running(tmp_path, profile=replace(make_profile(), syscalls=syscalls)) as world:
            subscription = await world.submit(b"hang")
            await until(subscription, Started)
            world.host.sandbox.tell(replace(MOUNT, name="ptrace"))
            world.host.sandbox.tell(MOUNT)
            events = await collect(subscription)
            assert kinds(events) == ["Denied", "Denied", "Finished"]
            assert end_of(events).outcome == Stopped(by="daemon", reason="SYSCALL_KILL")

    asyncio.run(scenario())


def test_a_program_that_the_filter_killed_is_on_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"end"] = ends_with(ProgramEnd(what="signal", value=31))
            events = await world.run(b"end")
            assert end_of(events).outcome == Signaled(signal=31)
            [denied] = [event.event for event in events if isinstance(event.event, Denied)]
            assert (denied.wall, denied.name) == (Wall.SYSCALL, "SIGSYS")

    asyncio.run(scenario())


def test_a_connection_is_on_record_and_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"fetch"] = fetch
            events = await world.run(b"fetch")
            [flow] = [event for event in events if isinstance(event.event, Flow)]
            assert flow.event == FLOW
            [entry] = [e for e in world.store.entries(flow.call_id) if e.kind == "flow"]
            assert entry.sequence == flow.sequence
            assert end_of(events).outcome == Exited(code=0)

    asyncio.run(scenario())


def test_a_connection_that_cannot_be_recorded_ends_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise AuditUnavailable("RECORD_FULL", "no space")

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"fetch"] = fetch
            with monkeypatch.context() as patch:
                patch.setattr(CallRecorder, "tell", full)
                events = await world.run(b"fetch")
            assert "Flow" not in kinds(events)
            assert end_of(events).outcome == Failed(reason="RECORD_FULL", message="no space")

    asyncio.run(scenario())


async def fetch(sandbox: FakeSandbox) -> ProgramEnd:
    sandbox.tell(FLOW)
    return EXIT_0


def test_one_that_kills_and_got_through_ends_the_call(tmp_path: Path) -> None:
    """The probe is a second wall: the filter did not stop it."""

    async def leak(sandbox: FakeSandbox) -> ProgramEnd:
        sandbox.tell(Watched(name="ptrace", killed=True, rule="syscalls.kill: ptrace"))
        return await hang(sandbox)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"leak"] = leak
            events = await world.run(b"leak")
            assert "Watched" in kinds(events)
            assert end_of(events).outcome == Stopped(by="daemon", reason="SYSCALL_KILL")

    asyncio.run(scenario())
