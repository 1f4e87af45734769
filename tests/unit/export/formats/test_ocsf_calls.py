"""What happens in a call, class by class."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from supervisor.audit.codec import (
    denied_to_json,
    flow_to_json,
    lost_to_json,
    outcome_to_json,
    processes_to_json,
    watched_to_json,
)
from supervisor.audit.entry import CALL_KINDS, Kind
from supervisor.call.events import Denied, Flow, Lost, Processes, Verdict, Wall
from supervisor.export.event import Entry, Opening
from supervisor.export.formats import ocsf_calls
from supervisor.export.formats.ocsf import Ocsf
from supervisor.export.formats.ocsf_calls import DRAFTERS, endpoint, file
from supervisor.export.formats.ocsf_shapes import Release
from tests.support.exported import HEAD, OUTCOMES, SOURCE
from tests.support.records import FLOW, PROCESSES, WATCHED
from tests.unit.export.formats.test_ocsf_parts import BODY

ENFORCED = {**BODY, "profile": {**BODY["profile"], "mode": "enforce"}}


def events(
    kind: str, body: Any, *, opening: Any = ENFORCED, release: Release = Release.V1_8
) -> list[dict[str, Any]]:
    entry = Entry(5, "ab" * 32, 1_700_000_000_123_456_789, kind, "call-1", 3, body)
    made = Ocsf(SOURCE, release).encode(entry, Opening(3, 4, opening), HEAD)
    return [json.loads(event.data) for event in made]


def test_every_kind_of_a_call_has_a_drafter() -> None:
    assert DRAFTERS.keys() == CALL_KINDS


@pytest.mark.parametrize(
    ("denied", "type_uid", "severity"),
    [
        (Denied(wall=Wall.SYSCALL, name="socket", pid=7), 100304, 3),
        (Denied(wall=Wall.KERNEL, name="mount", pid=7), 100304, 4),
        (Denied(wall=Wall.PROGRAM, name="exec", detail="/work/x", pid=7), 100701, 3),
        (Denied(wall=Wall.PROGRAM, name="exec", detail="/work/x"), 600399, 3),
        (Denied(wall=Wall.LIMIT, name="pids", used=65, allowed=64), 600399, 2),
        (Denied(wall=Wall.NETWORK, name="connect", detail="192.0.2.1:80 (a)"), 400105, 3),
        (Denied(wall=Wall.NETWORK, name="dns", detail="example.com no rule"), 400301, 3),
        (Denied(wall=Wall.NETWORK, name="http", detail="example.com:443 POST"), 400299, 3),
    ],
)
def test_a_wall_that_held(denied: Denied, type_uid: int, severity: int) -> None:
    event, finding = events(Kind.DENIED, denied_to_json(denied))
    assert (event["type_uid"], event["severity_id"]) == (type_uid, severity)
    assert (event["status"], event["action"], event["disposition"]) == (
        "Failure",
        "Denied",
        "Blocked",
    )
    assert (finding["type_uid"], finding["severity_id"]) == (200401, severity)
    assert event["status_code"] == denied.name
    assert event["unmapped"]["stockade"]["body"]["wall"] == denied.wall


def test_a_wall_that_would_have_held() -> None:
    body = denied_to_json(Denied(wall=Wall.KERNEL, name="mount", pid=7))
    for event in events(Kind.DENIED, {**body, "mode": "observe"}, opening=BODY):
        assert (event["action_id"], event["disposition_id"], event["severity_id"]) == (3, 17, 2)
    for event in events(Kind.DENIED, body, opening=BODY, release=Release.V1_1):
        assert (event["action_id"], event["action"]) == (99, "Observed")


def test_arguments_of_a_system_call_fit_everywhere() -> None:
    denied = Denied(wall=Wall.SYSCALL, name="bpf", arguments=(0, 2**64 - 1), pid=7)
    event = events(Kind.DENIED, denied_to_json(denied))[0]
    assert event["unmapped"]["stockade"]["body"]["arguments"] == ["0x0", "0xffffffffffffffff"]


def test_a_name_that_was_asked_for() -> None:
    denied = Denied(wall=Wall.NETWORK, name="dns", detail="example.com no rule")
    event, finding = events(Kind.DENIED, denied_to_json(denied))
    assert event["query"] == finding["evidences"][0]["query"] == {"hostname": "example.com"}


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("192.0.2.1:80", {"ip": "192.0.2.1", "port": 80}),
        ("[2001:db8::1]:80", {"ip": "2001:db8::1", "port": 80}),
        ("2001:db8::1", {"ip": "2001:db8::1"}),
        ("example.com", {"hostname": "example.com"}),
        ("example.com:443", {"hostname": "example.com", "port": 443}),
        ("example.com:x", {"hostname": "example.com:x"}),
        ("", {"name": "unknown"}),
    ],
)
def test_places(place: str, told: dict[str, Any]) -> None:
    assert endpoint(place) == told


def test_files() -> None:
    assert (file("/a/b")["name"], file("/a/b")["path"]) == ("b", "/a/b")
    assert (file("/")["name"], file("")["name"]) == ("/", "unknown")


@pytest.mark.parametrize(
    ("verdict", "activity", "action"),
    [
        (Verdict.CLOSED, "Close", "Allowed"),
        (Verdict.STOPPED, "Close", "Allowed"),
        (Verdict.RESET, "Reset", "Allowed"),
        (Verdict.BUDGET, "Reset", "Denied"),
        (Verdict.FAILED, "Fail", "Allowed"),
        (Verdict.DENIED, "Refuse", "Denied"),
    ],
)
def test_connections(verdict: Verdict, activity: str, action: str) -> None:
    event, *findings = events(Kind.FLOW, flow_to_json(replace(FLOW, verdict=verdict)))
    assert (event["activity_name"], event["action"]) == (activity, action)
    assert event["dst_endpoint"] == {
        "hostname": "api.example.com", "ip": "203.0.113.7", "port": 443,
    }  # fmt: skip
    assert event["traffic"] == {"bytes_out": 1200, "bytes_in": 34_000, "bytes": 35_200}
    assert (event["start_time"], event["duration"]) == (1_700_000_000_123, 312)
    assert event["actor"]["process"]["name"] == "curl\\xff"
    assert len(findings) == (verdict is Verdict.DENIED)


def test_a_connection_to_an_address() -> None:
    flow = Flow(name="192.0.2.1", address="", port=80, rule="", verdict=Verdict.FAILED)
    (event,) = events(Kind.FLOW, flow_to_json(flow))
    assert event["dst_endpoint"] == {"ip": "192.0.2.1", "port": 80}


@pytest.mark.parametrize("address", ["no address", ["192.0.2.1"], "2001:DB8::1"])
def test_an_address_that_is_none_stays(address: Any) -> None:
    body = {**flow_to_json(FLOW), "address": address}
    (event,) = events(Kind.FLOW, body)
    assert event["unmapped"]["stockade"]["body"]["address"] == address
    (event,) = events(Kind.FLOW, flow_to_json(FLOW))
    assert "address" not in event["unmapped"]["stockade"]["body"]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_how_a_call_ended(outcome: Any) -> None:
    body = {
        "outcome": outcome_to_json(outcome),
        "timeline": {"started_ns": 2_000_000_000, "ended_ns": 3_500_000_000},
    }
    (event,) = events(Kind.OUTCOME, body)
    kind = body["outcome"]["kind"]
    assert (event["activity_name"], event["status_code"]) == ("Finish", kind)
    well = kind == "exited" and outcome.code == 0
    assert event["status"] == ("Success" if well else "Failure")
    assert event["severity_id"] == ocsf_calls.OUTCOME_SEVERITY[kind]
    assert event["api"]["response"].get("code") == getattr(outcome, "code", None)
    assert (event["start_time"], event["end_time"], event["duration"]) == (2000, 3500, 1500)
    assert event["unmapped"]["stockade"]["body"]["outcome"] == body["outcome"]


def test_processes() -> None:
    body = {**processes_to_json(Processes(events=PROCESSES)), "redactions": [1]}
    first, _, last = events(Kind.PROCESSES, body)
    assert first["actor"]["process"]["pid"] == 60
    assert first["process"]["cmd_line"] == "env '\\xff%'"
    assert first["process"]["container"] == {"uid": "call-1"}
    assert first["unmapped"]["stockade"]["body"]["redactions"] == [1]
    assert last["process"]["pid"] == 70
    (event,) = events(Kind.PROCESSES, {"events": ["none"]})
    assert event["unmapped"]["stockade"]["body"] == {"event": "none"}
    (event,) = events(Kind.PROCESSES, {"events": []})
    assert event["class_uid"] == 0
    old = events(Kind.PROCESSES, body, release=Release.V1_1)[0]
    assert "working_directory" not in old["process"]
    assert old["unmapped"]["stockade"]["body"]["directory"] == {"base64": "L3dvcmsv/w=="}


def test_watched_system_calls() -> None:
    event, finding = events(Kind.WATCHED, watched_to_json(WATCHED))
    assert (event["kernel"]["system_call"], event["count"]) == ("socket", 3)
    assert (event["disposition"], finding["severity"]) == ("Allowed", "High")
    event, _ = events(Kind.WATCHED, watched_to_json(WATCHED), opening=BODY)
    assert event["disposition"] == "Logged"
    assert len(events(Kind.WATCHED, {**watched_to_json(WATCHED), "killed": False})) == 1


def test_what_was_lost() -> None:
    body = lost_to_json(Lost(what="exec", count=7, reason="RING_FULL"))
    event, finding = events(Kind.LOST, body)
    assert (event["class_uid"], event["count"], event["severity"]) == (1008, 7, "High")
    assert (event["log_name"], event["status_detail"]) == (SOURCE.origin, "RING_FULL")
    assert finding["finding_info"]["title"] == "The record has a gap: exec"


@pytest.mark.parametrize(
    ("kind", "body", "activity", "severity"),
    [
        (Kind.STARTED, {"preparation_s": 0.5}, "Start", 1),
        (Kind.OUTPUT, {"stream": "stdout", "length": 5, "offset": 0}, "Output", 1),
        (Kind.TRUNCATED, {"stream": "stdout", "why": "cap"}, "Truncate", 2),
        (Kind.TRUNCATED, {"stream": "stdout", "why": "redaction"}, "Truncate", 3),
        (Kind.RESIZED, {"rows": 1, "columns": 2}, "Resize", 1),
        (Kind.SIGNAL, {"by": "n", "signal": 9}, "Signal", 2),
    ],
)
def test_steps(kind: str, body: dict[str, Any], activity: str, severity: int) -> None:
    (event,) = events(kind, body)
    assert (event["type_uid"], event["activity_name"]) == (600399, activity)
    assert event["severity_id"] == severity
    assert event["unmapped"]["stockade"]["body"] == body
    assert "disposition" not in event
    (event,) = events(kind, body, opening=BODY)
    assert event["disposition"] == "Logged"


def test_a_call_that_begins() -> None:
    body = {**ENFORCED, "redaction": {"found": 1}}
    (event,) = events(Kind.INTENT, body)
    assert (event["type_uid"], event["disposition"]) == (600301, "Allowed")
    assert event["api"]["request"] == {"uid": "r", "data": BODY["request"]}
    assert "request" not in event["unmapped"]["stockade"]["body"]
    assert event["unmapped"]["stockade"]["body"]["redaction"] == {"found": 1}
    (event,) = events(Kind.INTENT, BODY, opening=BODY)
    assert event["disposition"] == "Logged"
