"""Values of a call and their JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.codec import (
    ARGV_PREVIEW_BYTES,
    caller_from_json,
    caller_to_json,
    clip_argv,
    denied_from_json,
    denied_to_json,
    fields_to_json,
    finished_from_json,
    finished_to_json,
    flow_from_json,
    flow_to_json,
    lost_from_json,
    lost_to_json,
    outcome_from_json,
    outcome_to_json,
    watched_from_json,
    watched_to_json,
)
from supervisor.audit.entry import ENTRY_BYTES_MAX
from supervisor.call.events import Denied, Flow, Lost, Timeline, Verdict, Wall, Watched
from supervisor.call.outcome import (
    KINDS,
    Exited,
    Failed,
    Interrupted,
    LimitExceeded,
    LimitKind,
    Outcome,
    OutOfMemory,
    Signaled,
    Stopped,
    TimedOut,
)
from supervisor.call.types import (
    Caller,
    Digest,
    Json,
    OutputFile,
    SkippedFile,
    Stream,
    StreamSummary,
    Usage,
    canonical_json,
)
from tests.support.records import FLOW, WATCHED, make_finished

OUTCOMES: list[Outcome] = [
    Exited(code=3),
    Signaled(signal=11, core_dumped=True),
    TimedOut(limit_s=1.5),
    OutOfMemory(limit_bytes=1, peak_bytes=2, kills=3),
    LimitExceeded(limit=LimitKind.DISK, used=5, allowed=4, subject="/work"),
    Stopped(by="tester", reason="SIGNAL", signal=15),
    Failed(reason="WALL", message="no"),
    Interrupted(message="died"),
]


def through_json(value: dict[str, Json]) -> dict[str, Json]:
    back: dict[str, Json] = json.loads(json.dumps(value))
    return back


def test_every_outcome_is_here() -> None:
    assert {type(outcome) for outcome in OUTCOMES} == set(KINDS)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: KINDS[type(outcome)])
def test_outcomes_come_back(outcome: Outcome) -> None:
    assert outcome_from_json(through_json(outcome_to_json(outcome))) == outcome


@given(path=st.binary(max_size=20), size=st.integers(0, 2**63))
def test_finished_comes_back(path: bytes, size: int) -> None:
    finished = make_finished(
        streams=(
            StreamSummary(
                stream=Stream.STDOUT,
                digest=Digest(sha256="a" * 64, size_bytes=size),
                stored_bytes=3,
            ),
        ),
        outputs=(OutputFile(path=path, digest=Digest.of(path), mode=0o644),),
        skipped=(SkippedFile(path=path, reason="TOO_LARGE"),),
        timeline=Timeline(accepted_ns=1, destroyed_ns=9),
        usage=Usage(cpu_user_s=1.25, pids_peak=4),
        denials=2,
        record="f" * 64,
        record_bytes=12,
    )
    data = through_json(finished_to_json(finished))
    assert finished_from_json(data, record="f" * 64, record_bytes=12) == finished


@given(
    st.builds(
        Denied,
        wall=st.sampled_from(Wall),
        name=st.text(max_size=20),
        arguments=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        detail=st.text(max_size=20),
        pid=st.integers(0, 2**22),
        program=st.binary(max_size=16),
        count=st.integers(1, 2**40),
        rule=st.text(max_size=20),
        used=st.integers(0, 2**63),
        allowed=st.integers(0, 2**63),
    )
)
def test_denials_come_back(denied: Denied) -> None:
    assert denied_from_json(through_json(denied_to_json(denied))) == denied


def test_texts_are_cut_so_that_an_entry_takes_them() -> None:
    wide = "\U0001f600" * 10_000
    denied = Denied(
        wall=Wall.SYSCALL,
        name=wide,
        detail=wide,
        rule=wide,
        program=b"\xff" * 5000,
        arguments=(2**64 - 1,) * 99,
    )
    lost = Lost(what=wide, count=1, reason=wide)
    for body in (denied_to_json(denied), lost_to_json(lost)):
        assert len(json.dumps(body)) < ENTRY_BYTES_MAX - 1000


def test_losses_and_callers_come_back() -> None:
    lost = Lost(what="denial", count=3, reason="queue full")
    caller = Caller(name="a", transport="tls", certificate_name="agent.example.com")
    assert lost_from_json(through_json(lost_to_json(lost))) == lost
    assert caller_from_json(through_json(caller_to_json(caller))) == caller


def test_only_plain_fields_are_taken() -> None:
    with pytest.raises(TypeError):
        fields_to_json(OutputFile(path=b"x", digest=Digest.of(b""), mode=0))


def test_numbers_are_numbers() -> None:
    data = denied_to_json(Denied(wall=Wall.LIMIT, name="pids"))
    with pytest.raises(TypeError):
        denied_from_json({**data, "pid": "1"})


def test_arguments_are_clipped() -> None:
    assert clip_argv([b"a", b"b"]) == (b"a", b"b")
    clipped = clip_argv([b"x" * 3000, b"y" * 3000, b"z"])
    assert clipped[0] == b"x" * 3000
    assert sum(map(len, clipped)) <= ARGV_PREVIEW_BYTES
    assert len(clipped) == 2


def test_a_watched_call() -> None:
    for watched in (WATCHED, Watched(name="getppid", count=7)):
        assert watched_from_json(json.loads(json.dumps(watched_to_json(watched)))) == watched
    long = Watched(name="x" * 999, detail="y" * 9999, program=b"z" * 999, rule="r" * 999)
    assert len(json.dumps(watched_to_json(long))) < ENTRY_BYTES_MAX


@given(
    st.builds(
        Flow,
        name=st.text(max_size=253),
        address=st.ip_addresses().map(str) | st.just(""),
        port=st.integers(0, 2**16 - 1),
        rule=st.text(max_size=512),
        verdict=st.sampled_from(Verdict),
        reason=st.text(max_size=20),
        sent=st.integers(0, 2**63),
        received=st.integers(0, 2**63),
        started_ns=st.integers(0, 2**63),
        duration_s=st.floats(0, 1e9) | st.integers(0, 9).map(float),
        pid=st.integers(0, 2**22),
        program=st.binary(max_size=16),
    )
)
def test_flows_come_back(flow: Flow) -> None:
    assert flow_from_json(json.loads(canonical_json(flow_to_json(flow)))) == flow


def test_a_flow_fits_into_an_entry_whatever_is_in_it() -> None:
    """The broker keeps its texts short; the record does not rely on that."""
    wide = "\U0001f600" * 10_000
    flow = replace(FLOW, name=wide, address=wide, rule=wide, reason=wide, program=b"\xff" * 5000)
    assert len(json.dumps(flow_to_json(flow))) < ENTRY_BYTES_MAX - 1000


@pytest.mark.parametrize(
    ("field", "value"),
    [("verdict", "lost"), ("port", "443"), ("sent", 1.5), ("duration_s", "1"), ("pid", None)],
)
def test_a_flow_that_is_none(field: str, value: Json) -> None:
    with pytest.raises((TypeError, ValueError)):
        flow_from_json({**flow_to_json(FLOW), field: value})
