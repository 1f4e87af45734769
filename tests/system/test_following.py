"""Follow a call, feed it and stop it: Attach, WriteStdin, Signal, and what a disconnect does."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import uuid
from dataclasses import replace

import pytest

from supervisor.call.events import Accepted, CallEvent, Finished, KeepAlive, Output
from supervisor.call.outcome import Exited, Signaled, Stopped
from supervisor.call.state import State
from supervisor.client import Stream, Supervisor
from supervisor.errors import CallStateError, InvalidRequest, NotFound, OutOfRange, RequestConflict
from tests.support.daemon import Daemon
from tests.support.following import end_of, is_output, is_started, until, wait_for
from tests.support.rounds import rounds
from tests.support.threads import at_once

TALK = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo out $i; echo err $i >&2; sleep 0.05; done"]
ECHO = ["cat"]
UNHANDLED = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]


def merged(events: list[CallEvent]) -> list[CallEvent]:
    """Take out what only the live stream has, and the mark that a follower attached."""
    kept = [event for event in events if not isinstance(event.event, KeepAlive)]
    return [
        replace(event, event=replace(event.event, attached=False))
        if isinstance(event.event, Accepted)
        else event
        for event in kept
    ]


def follow(client: Supervisor, call_id: str, from_sequence: int = 1) -> list[CallEvent]:
    with client.attach(call_id, from_sequence) as execution:
        return list(execution)


class TestAttach:
    def test_from_every_sequence_of_a_finished_call(self, shared_daemon: Daemon) -> None:
        client = shared_daemon.client
        with client.execute(TALK, profile="shell") as execution:
            first = merged(list(execution))
        assert first[0].event.attached is False  # type: ignore[union-attr]
        for begin in range(1, len(first) + 1):
            assert merged(follow(client, execution.call_id, begin)) == first[begin - 1 :]

    def test_while_it_runs_from_anywhere(self, shared_daemon: Daemon) -> None:
        """Followers that come at any moment, from any place, see what the first one sees."""
        client = shared_daemon.client
        for _ in range(rounds(1)):
            with client.execute(TALK, profile="shell") as execution:
                begins = [random.randint(1, 8) for _ in range(6)]

                def late(begin: int, call_id: str = execution.call_id) -> list[CallEvent]:
                    time.sleep(random.random() * 0.6)
                    wait_for(lambda: client.get(call_id).last_sequence >= begin - 1)
                    return follow(client, call_id, begin)

                followed = at_once(late, begins)
                first = merged(list(execution))
            for begin, events in zip(begins, followed, strict=True):
                assert merged(events) == first[begin - 1 :]

    def test_ahead_of_the_call(self, shared_daemon: Daemon) -> None:
        call = shared_daemon.client.run(["true"], profile="base")
        last = shared_daemon.client.get(call.call_id).last_sequence
        for begin in (last + 1, last + 2, 2**40):
            with pytest.raises(OutOfRange) as raised:
                follow(shared_daemon.client, call.call_id, begin)
            assert raised.value.reason == "SEQUENCE_AHEAD"
        assert len(follow(shared_daemon.client, call.call_id, last)) == 1

    def test_to_a_call_that_is_not_there(self, shared_daemon: Daemon) -> None:
        with pytest.raises(NotFound) as raised:
            follow(shared_daemon.client, str(uuid.uuid4()))
        assert raised.value.reason == "CALL_NOT_FOUND"


class TestRepeats:
    def test_the_same_request_attaches(self, shared_daemon: Daemon) -> None:
        request_id = str(uuid.uuid4())

        def once(_: int) -> list[CallEvent]:
            with shared_daemon.client.execute(
                TALK, profile="shell", request_id=request_id
            ) as execution:
                return list(execution)

        results = at_once(once, range(5))
        assert len({events[0].call_id for events in results}) == 1
        attached = [events[0].event.attached for events in results]  # type: ignore[union-attr]
        assert sorted(attached) == [False, True, True, True, True]
        assert all(merged(events) == merged(results[0]) for events in results)
        assert merged(once(0)) == merged(results[0])

    def test_another_request_under_the_same_id(self, shared_daemon: Daemon) -> None:
        request_id = str(uuid.uuid4())

        def once(number: int) -> str:
            try:
                shared_daemon.client.run(
                    ["echo", str(number)], profile="base", request_id=request_id
                )
            except RequestConflict as error:
                return error.reason
            return "ran"

        results = at_once(once, range(5))
        assert sorted(results) == ["REQUEST_ID_REUSED"] * 4 + ["ran"]


class TestDisconnect:
    def test_the_call_goes_on(self, shared_daemon: Daemon) -> None:
        with Supervisor(shared_daemon.address) as other:
            execution = other.execute(["sh", "-c", "sleep 0.4; echo on"], profile="base")
            until(execution, is_started)
            call_id = execution.call_id
        assert end_of(shared_daemon.client.attach(call_id)).outcome == Exited(code=0)

    def test_unless_it_was_to_end_with_its_caller(self, shared_daemon: Daemon) -> None:
        with Supervisor(shared_daemon.address) as other:
            execution = other.execute(["sleep", "50"], profile="base", kill_on_disconnect=True)
            until(execution, is_started)
            call_id = execution.call_id
        finished = end_of(shared_daemon.client.attach(call_id))
        assert finished.outcome == Stopped(by="owner", reason="DISCONNECTED")

    def test_before_it_runs(self, shared_daemon: Daemon) -> None:
        """Closing at once hits the call in the middle of its preparation."""
        for _ in range(rounds(3)):
            execution = shared_daemon.client.execute(
                ["sleep", "50"], profile="base", kill_on_disconnect=True
            )
            call_id = execution.call_id
            execution.close()
            finished = end_of(shared_daemon.client.attach(call_id))
            assert finished.outcome == Stopped(by="owner", reason="DISCONNECTED")


class TestStdin:
    def test_a_conversation(self, shared_daemon: Daemon) -> None:
        with shared_daemon.client.execute(
            ECHO, profile="base", stdin=b"zero\n", stdin_open=True
        ) as execution:
            heard = [until(execution, is_output).event.data]  # type: ignore[union-attr]
            for line in (b"one\n", b"two\n", b"\xff\x00\n"):
                execution.write_stdin(line)
                heard.append(until(execution, is_output).event.data)  # type: ignore[union-attr]
            execution.close_stdin()
            finished = end_of(execution)
        assert heard == [b"zero\n", b"one\n", b"two\n", b"\xff\x00\n"]
        assert finished.outcome == Exited(code=0)
        recorded = b"".join(shared_daemon.client.read_output(execution.call_id, Stream.STDIN))
        assert recorded == b"".join(heard)

    def test_offsets_make_writes_repeatable(self, shared_daemon: Daemon) -> None:
        client = shared_daemon.client
        with client.execute(ECHO, profile="base", stdin_open=True) as execution:
            call_id = execution.call_id
            assert client.write_stdin(call_id, b"abc", offset=0) == 3
            assert client.write_stdin(call_id, b"abc", offset=0) == 3
            for offset in (2, 4):
                with pytest.raises(OutOfRange) as raised:
                    client.write_stdin(call_id, b"def", offset=offset)
                assert raised.value.reason == "STDIN_OFFSET"
            assert client.write_stdin(call_id, b"def", offset=3, end=True) == 6
            with pytest.raises(CallStateError) as closed:
                client.write_stdin(call_id, b"more", offset=6)
            call = execution.wait()
        assert closed.value.reason in ("STDIN_CLOSED", "CALL_CLOSED")
        assert call.stdout == b"abcdef"

    def test_input_that_was_not_kept_open(self, shared_daemon: Daemon) -> None:
        client = shared_daemon.client
        with client.execute(["sleep", "5"], profile="base") as execution:
            with pytest.raises(CallStateError) as raised:
                client.write_stdin(execution.call_id, b"x", offset=0)
            execution.cancel()
        assert raised.value.reason == "STDIN_CLOSED"

    def test_input_for_a_call_that_has_ended(self, shared_daemon: Daemon) -> None:
        call = shared_daemon.client.run(["true"], profile="base")
        with pytest.raises(CallStateError) as raised:
            shared_daemon.client.write_stdin(call.call_id, b"x", offset=0)
        assert raised.value.reason == "CALL_CLOSED"

    def test_a_writer_that_is_faster_than_the_program(self, shared_daemon: Daemon) -> None:
        """The program ends while the pipe is full: the writer is told, and nothing hangs."""
        client = shared_daemon.client
        argv = ["sh", "-c", "head -c 10; sleep 0.3"]
        with client.execute(argv, profile="base", stdin_open=True) as execution:
            with pytest.raises(CallStateError) as raised:
                for _ in range(50):
                    execution.write_stdin(b"y" * 500_000)
            finished = end_of(execution)
        assert raised.value.reason in ("STDIN_CLOSED", "CALL_CLOSED")
        assert finished.outcome == Exited(code=0)


class TestSignal:
    @pytest.mark.parametrize("number", UNHANDLED)
    def test_a_program_that_does_not_handle_it(self, shared_daemon: Daemon, number: int) -> None:
        with shared_daemon.client.execute(["sleep", "50"], profile="base") as execution:
            until(execution, is_started)
            execution.signal(number, why="enough")
            finished = end_of(execution)
        assert finished.outcome == Stopped(by="owner", reason="SIGNAL", signal=number)
        entries = shared_daemon.client.record(execution.call_id).entries
        assert [entry.body()["body"] for entry in entries if entry.kind == "signal"] == [
            {"by": "owner", "signal": number, "why": "enough"}
        ]

    def test_a_program_that_handles_it(self, shared_daemon: Daemon) -> None:
        script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
        with shared_daemon.client.execute(["sh", "-c", script], profile="shell") as execution:
            until(execution, is_output)
            execution.signal(signal.SIGTERM)
            told = until(execution, is_output).event
            finished = end_of(execution)
        assert isinstance(told, Output)
        assert told.data == b"caught\n"
        assert finished.outcome == Exited(code=7)

    def test_kill_ends_all_of_it(self, shared_daemon: Daemon) -> None:
        script = "trap '' TERM INT; (setsid sleep 60 &); (sleep 60 &); echo ready; sleep 60"
        with shared_daemon.client.execute(["sh", "-c", script], profile="shell") as execution:
            until(execution, is_output)
            execution.signal(signal.SIGKILL)
            finished = end_of(execution)
        assert finished.outcome == Stopped(by="owner", reason="SIGNAL", signal=signal.SIGKILL)
        assert shared_daemon.sandbox_processes() == []

    def test_during_the_preparation(self, shared_daemon: Daemon) -> None:
        """A signal right after Accepted waits for the program; SIGKILL does not."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with shared_daemon.client.execute(["sleep", "50"], profile="base") as execution:
                execution.signal(number)
                finished = end_of(execution)
            assert finished.outcome == Stopped(by="owner", reason="SIGNAL", signal=number)

    def test_kill_at_any_moment_of_the_preparation(self, shared_daemon: Daemon) -> None:
        """Whatever step it hits, the outcome is the same, and it is no bug."""

        def one(delay_s: float) -> Finished:
            with shared_daemon.client.execute(["sleep", "50"], profile="base") as execution:
                time.sleep(delay_s)
                execution.signal(signal.SIGKILL)
                return end_of(execution)

        delays = [random.uniform(0, 0.12) for _ in range(rounds(24))]
        killed = Stopped(by="owner", reason="SIGNAL", signal=signal.SIGKILL)
        assert [end.outcome for end in at_once(one, delays)] == [killed] * len(delays)
        log = shared_daemon.log.read_text()
        assert "Traceback" not in log, log

    def test_an_end_that_somebody_on_the_host_made(self, shared_daemon: Daemon) -> None:
        """Not one of our signals, and no reason to lose the call."""
        with shared_daemon.client.execute(["sleep", "50"], profile="base") as execution:
            until(execution, is_started)
            wait_for(lambda: len(shared_daemon.sandbox_processes()) == 2)
            for pid in shared_daemon.sandbox_processes():
                with contextlib.suppress(ProcessLookupError):  # the init's end is the others'
                    os.kill(pid, signal.SIGKILL)
            assert end_of(execution).outcome == Signaled(signal=signal.SIGKILL)

    def test_a_signal_that_the_program_survives_is_not_the_outcome(
        self, shared_daemon: Daemon
    ) -> None:
        script = "trap '' TERM; echo ready; sleep 0.3; kill -KILL $$"
        with shared_daemon.client.execute(["sh", "-c", script], profile="shell") as execution:
            until(execution, is_output)
            execution.signal(signal.SIGTERM)
            finished = end_of(execution)
        assert finished.outcome == Signaled(signal=signal.SIGKILL)

    @pytest.mark.parametrize("number", [0, -1, 65, 2**31 - 1])
    def test_what_is_no_signal(self, shared_daemon: Daemon, number: int) -> None:
        with shared_daemon.client.execute(["sleep", "50"], profile="base") as execution:
            with pytest.raises(InvalidRequest) as raised:
                execution.signal(number)
            execution.cancel()
        assert raised.value.reason == "SIGNAL_INVALID"

    def test_a_call_that_has_ended(self, shared_daemon: Daemon) -> None:
        call = shared_daemon.client.run(["true"], profile="base")
        with pytest.raises(CallStateError) as raised:
            shared_daemon.client.signal(call.call_id, signal.SIGTERM)
        assert raised.value.reason == "CALL_CLOSED"


def test_live_calls_are_listed_with_their_state(shared_daemon: Daemon) -> None:
    client = shared_daemon.client
    with client.execute(["sleep", "50"], profile="base", agent="lister") as execution:
        until(execution, is_started)
        listed = {call.call_id: call for call in client.list_calls(live_only=True)}
        assert listed[execution.call_id].state is State.RUNNING
        assert listed[execution.call_id].correlation.agent == "lister"
        assert listed[execution.call_id].argv == (b"sleep", b"50")
        execution.cancel()
        end_of(execution)
    wait_for(lambda: client.get(execution.call_id).state is State.CLOSED)
    assert execution.call_id not in {call.call_id for call in client.list_calls(live_only=True)}
