"""One live call: the order of its steps, and what happens where one fails."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from unittest import mock

import pytest

from supervisor.audit.verify import verify
from supervisor.call.about import About, about
from supervisor.call.events import Started
from supervisor.call.outcome import (
    Exited,
    Failed,
    Stopped,
)
from supervisor.call.state import State
from supervisor.call.types import Correlation, Digest, InputFile
from supervisor.engine import limits
from supervisor.errors import (
    AuditUnavailable,
    HostError,
    InvariantError,
    RuntimeFailed,
    StockadeError,
)
from supervisor.sandbox import ProgramEnd
from tests.support.records import make_finished

from .harness import (
    EXIT_0,
    FakeSandbox,
    collect,
    end_of,
    kinds,
    running,
    sealed,
    settle,
    until,
)


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
            used = end_of(events).usage
            assert (used.pids_start, used.pids_peak, used.pids_told) == (3, 3, False)
            steps = [step for step in world.host.sandbox.log if step not in ("kill", "ready")]
            assert steps == [
                "prepare", "prepared", "arm", "try_fence", "start", "quiesce", "destroy",
            ]  # fmt: skip
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


@pytest.mark.parametrize("hint", ["", "chmod 0600 /etc/stockade/token"])
def test_what_to_do_about_the_host_stands_in_the_log_alone(
    tmp_path: Path, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.failures["prepare"] = HostError(
                "SECRET_UNAVAILABLE", "it is open", hint=hint
            )
            subscription = await world.submit()
            outcome = end_of(await collect(subscription)).outcome
            assert outcome == Failed(reason="SECRET_UNAVAILABLE", message="it is open")
            said = f"call {subscription.call_id}: it is open [SECRET_UNAVAILABLE]"
            (line,) = [one for one in caplog.records if one.levelname == "WARNING"]
            assert line.getMessage() == said + (f"; hint: {hint}" if hint else "")

    asyncio.run(scenario())


class Heard(logging.Handler):
    """Notes what each line is about, as it is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.subjects: list[About] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.subjects.append(about(record))


def test_what_is_logged_of_a_call_has_its_id_and_its_trace(tmp_path: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    given = Correlation(traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    heard, log = Heard(), logging.getLogger("stockade.engine")

    async def scenario() -> None:
        async with running(tmp_path) as world:
            world.host.failures["prepare"] = HostError("RUNC_FAILED", "no")
            traced = await world.submit(correlation=given)
            await collect(traced)
            plain = await world.submit()
            await collect(plain)
            assert heard.subjects == [About(traced.call_id, trace), About(plain.call_id)]

    log.addHandler(heard)
    try:
        asyncio.run(scenario())
    finally:
        log.removeHandler(heard)


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", ["ended", "quiesce", "disk_use", "socket_denials", "collect"])
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
