"""Spans of calls: of the caller's trace or of their own, and no time before another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from supervisor.call.safe import safe
from supervisor.export.event import Entry, Opening
from supervisor.export.formats.spans import Spans
from tests.support.exported import HEAD, HOSTILE, SOURCE, TRACE, collect

Pair = tuple[Entry, Opening]


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Entry, Opening | None]]:
    return collect(tmp_path_factory.mktemp("entries"))


@pytest.fixture(scope="module")
def outcome(entries: list[tuple[Entry, Opening | None]]) -> Pair:
    for entry, opening in entries:
        if entry.kind == "outcome" and opening is not None:
            return entry, opening
    raise AssertionError("no outcome")


def spans(entry: Entry, opening: Opening) -> list[dict[str, Any]]:
    (event,) = Spans(SOURCE).encode(entry, opening, HEAD)
    found: list[dict[str, Any]] = json.loads(event.data)["spans"]
    return found


def asked(opening: Opening, **changes: Any) -> Opening:
    body = json.loads(json.dumps(opening.body))
    body["request"] |= changes
    return replace(opening, body=body)


def with_trace(opening: Opening, traceparent: str) -> Opening:
    return asked(opening, correlation={"agent": "a", "traceparent": traceparent})


def test_outcomes_alone_become_spans(entries: list[tuple[Entry, Opening | None]]) -> None:
    made = Spans(SOURCE)
    for entry, opening in entries:
        events = made.encode(entry, opening, HEAD)
        assert bool(events) == (entry.kind == "outcome")
        for event in events:
            assert b"\n" not in event.data
            assert made.encode(entry, opening, HEAD) == [event]


def test_a_call_is_a_span_below_the_callers_and_its_phases_are_below_that(outcome: Pair) -> None:
    entry, opening = outcome
    timeline = {"accepted_ns": 10, "preparing_ns": 20, "started_ns": 40, "ended_ns": 70}
    entry = replace(entry, time_ns=90, body={**entry.body, "timeline": timeline, "denials": 3})
    call, *phases = spans(entry, opening)
    assert call["name"] == "execute_tool python"
    assert (call["trace"], call["parent"]) == (TRACE, "b7ad6b7169203331")
    assert (call["start"], call["end"], call["error"]) == (10, 90, "")
    assert [(one["name"], one["start"], one["end"]) for one in phases] == [
        ("accepted", 10, 20), ("preparing", 20, 40), ("started", 40, 70), ("ended", 70, 90),
    ]  # fmt: skip
    assert {one["parent"] for one in phases} == {call["span"]}
    ids = [one["span"] for one in (call, *phases)]
    assert len(set(ids)) == len(ids)
    assert {one["trace"] for one in phases} == {TRACE}
    told = call["attributes"]
    assert told["gen_ai.operation.name"] == "execute_tool"
    assert told["gen_ai.tool.name"] == "python"
    assert told["gen_ai.tool.call.id"] == entry.call
    assert (told["gen_ai.agent.name"], told["gen_ai.conversation.id"]) == ("agent-7", "session-1")
    assert (told["stockade.index"], told["stockade.leaf"]) == (entry.index, entry.leaf)
    assert (told["stockade.log"], told["stockade.caller"]) == (SOURCE.origin, "tester")
    assert (told["stockade.outcome"], told["process.exit.code"]) == ("exited", 0)
    assert told["stockade.denials"] == 3
    assert told["stockade.program"] == "true"
    assert told["stockade.profile.digest"] == opening.body["profile"]["digest"]


@pytest.mark.parametrize(
    ("traceparent", "sent"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", True),
        (f"00-{TRACE}-b7ad6b7169203331-00", False),
        (f"00-{TRACE}-b7ad6b7169203331-03", True),
        (f"01-{TRACE}-b7ad6b7169203331-01-more", True),
    ],
)
def test_who_names_a_trace_decides(traceparent: str, sent: bool, outcome: Pair) -> None:
    entry, opening = outcome
    events = Spans(SOURCE).encode(entry, with_trace(opening, traceparent), HEAD)
    assert [event.traceparent for event in events] == ([traceparent] if sent else [])


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-b7ad6b7169203331-01"])
def test_without_a_trace_a_call_is_one_of_its_own(traceparent: str, outcome: Pair) -> None:
    entry, opening = outcome
    (event,) = Spans(SOURCE).encode(entry, with_trace(opening, traceparent), HEAD)
    assert event.traceparent == ""
    call = json.loads(event.data)["spans"][0]
    assert call["trace"] == hashlib.sha256(entry.call.encode()).hexdigest()[:32]
    assert call["parent"] == ""


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"kind": "exited", "code": 0}, ""),
        ({"kind": "exited", "code": 3}, ""),
        ({"kind": "timed_out"}, "timed_out"),
        ({}, "unknown"),
    ],
)
def test_a_failure_is_named(body: dict[str, Any], error: str, outcome: Pair) -> None:
    entry, opening = outcome
    call = spans(replace(entry, body={**entry.body, "outcome": body}), opening)[0]
    assert (call["error"], call["attributes"].get("error.type", "")) == (error, error)


def test_no_phase_ends_before_it_begins(outcome: Pair) -> None:
    entry, opening = outcome
    timeline = {"accepted_ns": 100, "preparing_ns": 50, "started_ns": 120}
    entry = replace(entry, time_ns=60, body={**entry.body, "timeline": timeline})
    for span in spans(entry, opening):
        assert 100 <= span["start"] <= span["end"] <= 120
    call, phase = spans(
        replace(entry, time_ns=5, body={"outcome": {}}), replace(opening, time_ns=3)
    )
    assert (call["start"], call["end"], phase["name"]) == (3, 5, "accepted")


def test_what_a_caller_chose_is_bounded_and_moves_nothing(outcome: Pair) -> None:
    entry, opening = outcome
    long = HOSTILE + "x" * 10_000
    hostile = asked(
        opening, argv=[long], correlation={"agent": long, "session": 7, "workflow": [1]}
    )
    (event,) = Spans(SOURCE).encode(entry, hostile, HEAD)
    assert len(event.data) < 10_000
    assert not set(event.data) & {0, 10, 13, 27, 0x85, 0x9B}
    told = json.loads(event.data)["spans"][0]["attributes"]
    assert told["gen_ai.agent.name"] == safe(long[:1000]) == told["stockade.program"]
    assert told["gen_ai.agent.name"].isprintable()
    assert "gen_ai.conversation.id" not in told
