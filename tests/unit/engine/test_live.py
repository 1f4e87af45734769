"""One live call: the order of its steps, and every way in which it can end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from supervisor.audit.verify import verify
from supervisor.call.events import Denied, Finished, Output, Started, Wall
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
from supervisor.call.state import State
from supervisor.call.types import Digest, InputFile, Stream
from supervisor.engine import limits
from supervisor.errors import (
    AuditUnavailable,
    CallStateError,
    HostError,
    InvariantError,
    RuntimeFailed,
    StockadeError,
)
from supervisor.profile.model import EffectiveProfile
from supervisor.sandbox import ProgramEnd
from tests.support.records import make_finished, make_profile

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


def sealed(world: World, call_id: str) -> Finished:
    """Give the outcome as the record has it, and see that nothing is left live."""
    summary, state = world.engine.get(call_id)
    assert state is State.CLOSED
    assert world.engine.list(live_only=True) == ([], "")
    assert summary.finished is not None
    return summary.finished


def test_a_call_from_intent_to_outcome(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"hello")
            assert not subscription.attached
            events = await collect(subscription)
            assert kinds(events) == ["Accepted", "Started", "Output", "Finished"]
            assert [event.sequence for event in events] == [1, 2, 3, 4]
            assert end_of(events).outcome == Exited(code=0)
            assert sealed(world, subscription.call_id) == end_of(events)
            steps = [step for step in world.host.sandbox.log if step != "kill"]
            assert steps == ["prepare", "prepared", "arm", "start", "quiesce", "destroy"]
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_intent_is_on_record_before_anything_is_prepared(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit()
            await collect(subscription)
            assert world.host.log[0] == ("prepare", {subscription.call_id})

    asyncio.run(scenario())


def test_states_on_the_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            gates = {name: asyncio.Event() for name in ("prepare", "start", "quiesce")}
            world.host.gates.update(gates)
            subscription = await world.submit(b"hang")
            seen = []
            for name in gates:
                await settle(lambda name=name: name in world.host.sandbox.log)  # type: ignore[misc]
                seen.append(world.engine.get(subscription.call_id)[1])
                gates[name].set()
                if name == "start":
                    await settle(lambda: world.engine.get(subscription.call_id)[1] == "running")
                    seen.append(State.RUNNING)
                    world.host.sandbox.kill()
            await collect(subscription)
            assert seen == [State.PREPARING, State.ARMED, State.RUNNING, State.DRAINING]

    asyncio.run(scenario())


def test_inputs_come_from_the_request_or_the_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            stored = world.store.blobs.put(b"stored")
            inline = InputFile(path=b"inline", digest=Digest.of(b"here"), data=b"here")
            await world.run(files=(inline, InputFile(path=b"stored", digest=stored)))
            assert world.host.sandbox.inputs == {b"inline": b"here", b"stored": b"stored"}

    asyncio.run(scenario())


def test_outputs_are_kept_and_granted(tmp_path: Path) -> None:
    async def leave(sandbox: FakeSandbox) -> ProgramEnd:
        sandbox.left[b"result"] = b"content"
        return EXIT_0

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"leave"] = leave
            assert (await world.finished(b"leave")).outputs == ()
            [output] = (await world.finished(b"leave", outputs=("*",))).outputs
            assert (output.path, output.digest) == (b"result", Digest.of(b"content"))
            assert world.store.may_read_blob(output.digest, "tester")

    asyncio.run(scenario())


# Failures.

FAILURES = [
    HostError("READ_PATH_MISSING", "gone"),
    RuntimeFailed("OCI_CREATE_FAILED", "no"),
    OSError(24, "too many"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", ["prepare", "prepared", "arm", "start"])
def test_a_step_that_fails_is_the_outcome(tmp_path: Path, step: str, error: Exception) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.failures[step] = error
            subscription = await world.submit()
            events = await collect(subscription)
            outcome = end_of(events).outcome
            assert isinstance(outcome, Failed)
            assert outcome.reason == (error.reason if isinstance(error, StockadeError) else "BUG")
            assert sealed(world, subscription.call_id).outcome == outcome
            assert world.host.sandbox.log[-1] == "destroy"
            if step != "start":
                assert "start" not in world.host.sandbox.log
                assert kinds(events) == ["Accepted", "Finished"]
                assert end_of(events).timeline.started_ns == 0
        assert verify(tmp_path).ok

    asyncio.run(scenario())


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", ["ended", "quiesce", "disk_use", "network_denials", "collect"])
def test_what_fails_after_the_start_still_ends_sealed(
    tmp_path: Path, step: str, error: Exception
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.failures[step] = error
            subscription = await world.submit(b"hello", outputs=("*",))
            outcome = end_of(await collect(subscription)).outcome
            assert isinstance(outcome, Failed)
            assert outcome.reason == (error.reason if isinstance(error, StockadeError) else "BUG")
            assert sealed(world, subscription.call_id).outcome == outcome
            assert world.host.sandbox.log[-1] == "destroy"
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_a_sandbox_that_stays_leaves_no_reader_on_its_pipes(tmp_path: Path) -> None:
    """Its descriptors are closed and their numbers are somebody else's soon."""

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.failures["quiesce"] = RuntimeFailed("SANDBOX_STAYS", "D state")
            subscription = await world.submit(b"hang")
            await until(subscription, Started)
            before = asyncio.all_tasks()
            await world.engine.signal(subscription.call_id, by="a", signal=9, why="")
            events = await collect(subscription)
            assert isinstance(end_of(events).outcome, Stopped)
            del world.host.failures["quiesce"]
            for _ in range(3):
                await asyncio.sleep(0)
            pumps = [task for task in before if "_pump(" in repr(task)]
            assert len(pumps) == 2
            assert all(task.done() for task in pumps)
            # The numbers are used again, by a call that must not notice.
            assert kinds(await world.run(b"hello")) == ["Accepted", "Started", "Output", "Finished"]

    asyncio.run(scenario())


def test_a_figure_that_cannot_be_read_is_no_reason_to_leave_a_call_open(tmp_path: Path) -> None:
    async def break_cgroup(sandbox: FakeSandbox) -> ProgramEnd:
        sandbox.cgroup.memory_peak = mock.Mock(side_effect=OSError(19, "gone"))  # type: ignore[method-assign]
        return EXIT_0

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.programs[b"break"] = break_cgroup
            subscription = await world.submit(b"break")
            outcome = end_of(await collect(subscription)).outcome
            assert isinstance(outcome, Failed)
            assert sealed(world, subscription.call_id).outcome == outcome
            assert world.host.sandbox.log[-1] == "destroy"

    asyncio.run(scenario())


def test_a_sandbox_that_cannot_be_taken_down_does_not_change_the_outcome(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.failures["destroy"] = OSError(16, "busy")
            assert (await world.finished()).outcome == Exited(code=0)

    asyncio.run(scenario())


def test_a_watch_that_breaks_ends_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would look at the limits any more."""
    monkeypatch.setattr(limits, "POLL_S", 0)

    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"hang")
            await until(subscription, Started)
            world.host.sandbox.cgroup.cpu = mock.Mock(side_effect=OSError(5, "broken"))  # type: ignore[method-assign]
            events = await collect(await world.engine.attach(subscription.call_id, 1))
            outcome = end_of(events).outcome
            assert isinstance(outcome, Failed)
            assert outcome.reason == "BUG"

    asyncio.run(scenario())


def test_an_outcome_that_cannot_be_recorded_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            subscription = await world.submit(b"hang")
            await until(subscription, Started)
            call = world.engine._live[subscription.call_id]
            assert call.recorder is not None
            gone = AuditUnavailable("JOURNAL_UNAVAILABLE", "the disk is gone")
            with mock.patch.object(call.recorder, "finish", side_effect=gone):
                world.host.sandbox.kill()
                with pytest.raises(AuditUnavailable):
                    await collect(subscription)
            assert call.state is State.CLOSED
            assert world.host.sandbox.log[-1] == "destroy"
            await call.recorder.finish(make_finished())  # so that the store can be closed

    asyncio.run(scenario())


# Ends.


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
            with mock.patch.object(recorder, "denied", side_effect=error):
                world.host.sandbox.tell(MOUNT)
            outcome = end_of(await collect(subscription)).outcome
            assert isinstance(outcome, Failed)
            assert outcome.reason == "RECORD_FULL"

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


# Signals and standard input of a live call.


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
            with pytest.raises(CallStateError):
                await world.engine.write_stdin(subscription.call_id, offset=0, data=b"x", end=False)

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
            read_back = b"".join(data for _, data in world.store.read_stream(call_id, Stream.STDIN))
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


def test_a_step_that_the_table_does_not_list_is_a_bug_that_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            with mock.patch(
                "supervisor.engine.live.advance", side_effect=InvariantError("STATE_TABLE", "no")
            ):
                subscription = await world.submit()
                with pytest.raises(StockadeError):
                    await collect(subscription)

    asyncio.run(scenario())
