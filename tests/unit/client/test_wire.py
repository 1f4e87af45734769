"""Messages become values; what is not known is an error, never a guess."""

from __future__ import annotations

import pytest

from supervisor.call import events, outcome
from supervisor.call.state import State
from supervisor.call.types import Digest, Stream
from supervisor.client import wire
from supervisor.errors import InvariantError
from supervisor.v1 import audit_pb2, profile_pb2, tool_pb2, types_pb2
from tests.unit.client import fake_daemon as fake

OUTCOMES = {
    "exited": (types_pb2.Exited(code=3), outcome.Exited(code=3)),
    "signaled": (
        types_pb2.Signaled(signal=11, core_dumped=True),
        outcome.Signaled(signal=11, core_dumped=True),
    ),
    "timed_out": (types_pb2.TimedOut(limit={"seconds": 2}), outcome.TimedOut(limit_s=2)),
    "out_of_memory": (
        types_pb2.OutOfMemory(limit_bytes=1, peak_bytes=2, kills=3),
        outcome.OutOfMemory(limit_bytes=1, peak_bytes=2, kills=3),
    ),
    "limit_exceeded": (
        types_pb2.LimitExceeded(
            limit=types_pb2.LIMIT_KIND_DISK, used=1, allowed=2, subject="/work"
        ),
        outcome.LimitExceeded(limit=outcome.LimitKind.DISK, used=1, allowed=2, subject="/work"),
    ),
    "stopped": (
        types_pb2.Stopped(by="me", reason="SIGNAL", signal=15),
        outcome.Stopped(by="me", reason="SIGNAL", signal=15),
    ),
    "failed": (types_pb2.Failed(reason="R", message="m"), outcome.Failed(reason="R", message="m")),
    "interrupted": (types_pb2.Interrupted(message="m"), outcome.Interrupted(message="m")),
}


def test_every_outcome_is_known() -> None:
    assert OUTCOMES.keys() == set(outcome.KINDS.values())


@pytest.mark.parametrize("kind", OUTCOMES)
def test_outcome(kind: str) -> None:
    message, value = OUTCOMES[kind]
    assert wire.finished(fake.finish(**{kind: message})).outcome == value


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (
            fake.accepted(),
            events.Accepted(profile="python", profile_digest=fake.DIGEST, mode="enforce"),
        ),
        (
            fake.event(2, started=tool_pb2.Started(preparation={"nanos": 500_000_000})),
            events.Started(preparation_s=0.5),
        ),
        (
            fake.output(2, b"\xff", 7, truncated=True, covered=9),
            events.Output(stream=Stream.STDOUT, data=b"\xff", offset=7, truncated=True, covered=9),
        ),
        (
            fake.denied(2, program=b"p"),
            events.Denied(
                wall=events.Wall.SYSCALL,
                name="unshare",
                arguments=(0x10000000,),
                pid=7,
                program=b"p",
                rule="syscalls",
            ),
        ),
        (
            fake.event(2, resized=tool_pb2.Resized(rows=50, columns=132)),
            events.Resized(rows=50, columns=132),
        ),
        (fake.lost(2, "why"), events.Lost(what="output", count=3, reason="why")),
        (fake.event(2, keep_alive=tool_pb2.KeepAlive()), events.KeepAlive()),
    ],
)
def test_event(message: tool_pb2.CallEvent, value: events.Event) -> None:
    found = wire.event(message)
    assert found.event == value
    assert (found.call_id, found.sequence) == (fake.CALL_ID, message.sequence)
    assert found.time_ns == fake.START_NS + message.sequence * 1_000_000


def test_every_event_is_known() -> None:
    names = {field.name for field in tool_pb2.CallEvent.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert names == set(wire._EVENTS)


def test_finished() -> None:
    found = wire.finished(fake.finish(streams=[fake.summary(b"abc")], denials=2))
    assert found.streams[0].digest == Digest.of(b"abc")
    assert found.timeline.destroyed_ns == fake.START_NS + 25_000_000
    assert (found.record, found.record_bytes, found.denials) == ("cd" * 32, 512, 2)
    assert (found.usage.cpu_user_s, found.usage.pids_peak) == (0.012, 2)


def test_call() -> None:
    found = wire.call(fake.call())
    assert (found.state, found.caller.uid, found.caller.pid) == (State.RUNNING, 0, None)
    assert found.finished is None
    assert wire.call(fake.call(finished=fake.finish())).finished is not None


def test_profile() -> None:
    line = profile_pb2.ProfileLine(path="limits.wall", value_json="60", file="base.yaml", line=3)
    found = wire.profile(profile_pb2.GetProfileResponse(canonical_json=b"{}", lines=[line]))
    assert (found.lines[0].path, found.lines[0].value, found.canonical) == (
        "limits.wall",
        60,
        b"{}",
    )


def test_finding() -> None:
    finding = profile_pb2.ProfileFinding(wall="files", exposure=profile_pb2.EXPOSURE_WIDE)
    assert wire.finding(finding).exposure == "wide"


def test_entry() -> None:
    entry = wire.entry(audit_pb2.RecordEntry(index=4, kind="intent", json=b'{"body":{"a":1}}'))
    assert (entry.index, entry.body()) == (4, {"body": {"a": 1}})


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (tool_pb2.CallEvent(), "EVENT_UNKNOWN"),
        (tool_pb2.CallEvent(finished=tool_pb2.Finished()), "OUTCOME_UNKNOWN"),
        (fake.output(1, b"", stream=0), "ENUM_UNKNOWN"),
        (fake.output(1, b"", stream=99), "ENUM_UNKNOWN"),
        (fake.denied(1, wall="spell"), "ENUM_UNKNOWN"),
        (fake.flow(1, verdict=0), "ENUM_UNKNOWN"),
        (fake.flow(1, verdict=99), "ENUM_UNKNOWN"),
    ],
)
def test_unknown(message: tool_pb2.CallEvent, reason: str) -> None:
    with pytest.raises(InvariantError) as caught:
        wire.event(message)
    assert caught.value.reason == reason


def test_pieces_that_are_given_again() -> None:
    def piece(offset: int, data: bytes, covered: int = 0) -> audit_pb2.ReadOutputResponse:
        return audit_pb2.ReadOutputResponse(data=data, offset=offset, covered=covered)

    assert wire.not_given(piece(0, b"abc"), 0) == (b"abc", 3)
    assert wire.not_given(piece(0, b"abc"), 2) == (b"c", 3)
    assert wire.not_given(piece(3, b"[mark]", 90), 3) == (b"[mark]", 93)
    assert wire.not_given(piece(3, b"[mark]", 90), 93) == (b"", 93)
    assert wire.not_given(piece(3, b"[mark]", 2), 3) == (b"[mark]", 5)
    assert wire.not_given(piece(93, b"d"), 93) == (b"d", 94)
