"""Every value of the union has a message, and it comes back from the client as the same value."""

from __future__ import annotations

import typing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.api import messages
from supervisor.call import events, outcome
from supervisor.call.state import State
from supervisor.call.types import (
    Digest,
    OutputFile,
    SkippedFile,
    Stream,
    StreamSummary,
    Usage,
)
from supervisor.client import wire
from tests.support.records import FLOW, PROCESSES, WATCHED

OUTCOMES: list[outcome.Outcome] = [
    outcome.Exited(code=3),
    outcome.Signaled(signal=11, core_dumped=True),
    outcome.TimedOut(limit_s=1.5),
    outcome.OutOfMemory(limit_bytes=10, peak_bytes=9, kills=2),
    *(
        outcome.LimitExceeded(limit=limit, used=7, allowed=5, subject="/work")
        for limit in outcome.LimitKind
    ),
    outcome.Stopped(by="me", reason="SIGNAL", signal=15),
    outcome.Failed(reason="OCI_CREATE_FAILED", message="no"),
    outcome.Interrupted(message="the daemon died"),
]


def make_finished(ended: outcome.Outcome) -> events.Finished:
    return events.Finished(
        outcome=ended,
        timeline=events.Timeline(
            accepted_ns=1_000_000_001, preparing_ns=2, armed_ns=3, started_ns=4, ended_ns=5
        ),
        streams=tuple(
            StreamSummary(stream=stream, digest=Digest.of(b"abc"), stored_bytes=2)
            for stream in Stream
        ),
        outputs=(OutputFile(path=b"\xff", digest=Digest.of(b"x"), mode=0o600),),
        skipped=(SkippedFile(path=b"link", reason="NOT_REGULAR"),),
        usage=Usage(cpu_user_s=0.25, cpu_system_s=1.75, memory_peak_bytes=5, pids_peak=6),
        denials=4,
        record="cd" * 32,
        record_bytes=77,
    )


EVENTS: list[events.Event] = [
    events.Accepted(profile="p", profile_digest="d", mode="enforce", attached=True),
    events.Started(preparation_s=0.125),
    events.Output(stream=Stream.STDERR, data=b"\xff\0", offset=2**40, truncated=True),
    *(
        events.Denied(
            wall=wall,
            name="ptrace",
            arguments=(2**64 - 1, 0),
            detail="x",
            pid=1,
            program=b"\xff",
            count=3,
            rule="syscalls.allow",
            used=2**40,
            allowed=2**39,
        )
        for wall in events.Wall
    ),
    events.Processes(events=PROCESSES),
    WATCHED,
    *(replace(FLOW, verdict=verdict) for verdict in events.Verdict),
    events.Resized(rows=50, columns=132),
    events.Lost(what="output", count=2**40, reason="SLOW"),
    events.KeepAlive(),
    *(make_finished(ended) for ended in OUTCOMES),
]


def test_the_lists_are_complete() -> None:
    assert {type(event) for event in EVENTS} == set(typing.get_args(events.Event))
    assert {type(ended) for ended in OUTCOMES} == set(typing.get_args(outcome.Outcome))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_the_client_reads_what_was_said(event: events.Event) -> None:
    value = events.CallEvent(
        call_id="c", sequence=9, time_ns=1_700_000_000_123_456_789, event=event
    )
    assert wire.event(messages.call_event(value)) == value


def test_a_negative_argument_is_the_register() -> None:
    denied = events.Denied(wall=events.Wall.SYSCALL, name="read", arguments=(-1,))
    assert list(messages.denied(denied).arguments) == [2**64 - 1]


def test_a_phase_that_was_not_reached_is_not_set() -> None:
    line = messages.timeline(events.Timeline(accepted_ns=1))
    assert line.HasField("accepted")
    assert not line.HasField("started")


def test_tables_are_complete() -> None:
    assert set(messages.STATES) == set(State)
    assert set(messages.STREAMS) == set(Stream)
    assert set(messages.LIMITS) == set(outcome.LimitKind)
    assert set(messages.VERDICTS) == set(events.Verdict)


@given(st.integers(min_value=0, max_value=10**15))
def test_durations_are_exact_to_the_nanosecond(value_ns: int) -> None:
    assert abs(messages.duration(value_ns / 1e9).ToNanoseconds() - value_ns) <= 200
