"""What the daemon did itself, class by class."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.audit.entry import CALL_KINDS, Kind
from supervisor.export.event import Entry
from supervisor.export.formats.ocsf import Ocsf
from supervisor.export.formats.ocsf_own import DRAFTERS
from supervisor.export.formats.ocsf_shapes import Release
from tests.support.exported import HEAD, SOURCE

LOCAL = {"name": "n", "transport": "unix", "uid": 1000, "gid": 1, "pid": 99}
PEER = {"transport": "tls", "address": "192.0.2.9:4711", "uid": None, "gid": None, "pid": None}


def events(kind: str, body: Any, release: Release = Release.V1_8) -> list[dict[str, Any]]:
    entry = Entry(5, "ab" * 32, 1_700_000_000_123_456_789, kind, "", 0, body)
    return [json.loads(event.data) for event in Ocsf(SOURCE, release).encode(entry, None, HEAD)]


def test_every_kind_of_the_daemon_has_a_drafter() -> None:
    assert DRAFTERS.keys() == set(Kind) - CALL_KINDS


@pytest.mark.parametrize(
    ("kind", "body", "type_uid", "activity", "severity"),
    [
        (Kind.DAEMON_STARTED, {"pid": 7}, 600203, "Start", 1),
        (Kind.DAEMON_STOPPED, {}, 600204, "Stop", 1),
        (Kind.LOG_CUT, {"segment": 0}, 100899, "Cut", 3),
        (Kind.KEY_ROTATED, {"statement": "s"}, 100899, "Rotate key", 3),
        (Kind.REMOVED, {"why": "age", "files_count": 3}, 100802, "Delete", 2),
        (Kind.ERASED, {"call": "c", "why": "w", "caller": LOCAL}, 100802, "Delete", 3),
        (Kind.POLICY, {"version": "1"}, 501901, "Log", 1),
        (Kind.BLOB, {"sha256": "ab", "caller": "n"}, 600301, "Create", 1),
        (Kind.READ, {"rpc": "GetRecord", "of": {}, "caller": LOCAL}, 600302, "Read", 1),
        (Kind.HELD, {"call": "c", "why": "w", "caller": LOCAL}, 600303, "Update", 1),
        (Kind.RELEASED, {"call": "c", "why": "w", "caller": LOCAL}, 600303, "Update", 1),
        (Kind.WITNESSED, {"origin": "o", "caller": LOCAL}, 600301, "Create", 1),
        (Kind.CONSOLE_ENTERED, {"uid": 7, "caller": LOCAL}, 600301, "Create", 1),
        (Kind.EXPORT, {"action": "test", "sink": "siem", "caller": LOCAL}, 100803, "Export", 1),
        (Kind.EXPORT, {"action": "replay", "sink": "siem", "index": 7}, 100803, "Export", 1),
        (Kind.EXPORT, {"action": "discard", "sink": "siem"}, 100899, "Manage sinks", 2),
        (Kind.EXPORT, {"action": "reload", "caller": LOCAL}, 100899, "Manage sinks", 1),
        (Kind.EXPORT, {"action": ["new"], "sink": 7}, 100899, "Manage sinks", 1),
        (Kind.REFUSED, {"reason": "R", "rpc": "Execute"}, 600399, "Refuse", 2),
        (Kind.UNAUTHENTICATED, {"reason": "R", "rpc": "Execute"}, 600399, "Refuse", 3),
        (Kind.REFUSALS_DROPPED, {"count": 3}, 600399, "Refuse", 3),
    ],
)
def test_kinds(
    kind: str, body: dict[str, Any], type_uid: int, activity: str, severity: int
) -> None:
    (event,) = events(kind, body)
    assert (event["type_uid"], event["activity_name"]) == (type_uid, activity)
    assert event["severity_id"] == severity


def test_a_log_that_a_witness_does_not_know() -> None:
    body = {"witness": "w", "size": 9, "root": "r", "why": "it was cut back"}
    event, finding = events(Kind.HEAD_CONTRADICTED, body)
    assert (event["type_uid"], event["severity"], event["status"]) == (
        100899,
        "Critical",
        "Failure",
    )
    assert (finding["type_uid"], finding["severity"]) == (200401, "Critical")
    assert event["unmapped"]["stockade"]["body"] == {"witness": "w", "size": 9, "root": "r"}


def test_the_call_that_was_erased() -> None:
    (event,) = events(Kind.ERASED, {"call": "call-0", "why": "w", "caller": LOCAL})
    assert event["unmapped"]["stockade"]["body"]["call"] == "call-0"
    assert event["actor"]["user"]["name"] == "n"


def test_who_asked() -> None:
    (event,) = events(Kind.READ, {"rpc": "GetRecord", "of": {"call": "c"}, "caller": LOCAL})
    assert event["actor"] == {"user": {"name": "n", "uid": "1000"}, "process": {"pid": 99}}
    assert event["api"]["operation"] == "GetRecord"
    assert event["resources"] == [{"uid": "c", "type": "call"}]
    assert event["src_endpoint"] == {"hostname": SOURCE.host, "svc_name": "unix"}
    (event,) = events(Kind.BLOB, {"sha256": "ab", "caller": "n"})
    assert event["actor"]["user"] == {"name": "n"}


def test_who_saw_to_a_sink() -> None:
    body = {"action": "replay", "sink": "siem", "caller": LOCAL, "index": 7, "entries": 3}
    (event,) = events(Kind.EXPORT, body)
    assert event["actor"]["user"]["name"] == "n"
    assert event["message"] == "Entries are sent again to the sink siem"
    told = event["unmapped"]["stockade"]["body"]
    assert told == body
    (event,) = events(Kind.EXPORT, {"action": "reloaded", "added": ["x"]})
    assert event["message"] == "Sinks were read again from the configuration"


def test_nobody_known() -> None:
    body = {"reason": "R", "rpc": "Execute", "caller": None, "peer": PEER, "certificate": "c"}
    (event,) = events(Kind.UNAUTHENTICATED, body)
    assert (event["disposition"], event["status_code"]) == ("Unauthorized", "R")
    assert event["src_endpoint"] == {"ip": "192.0.2.9", "port": 4711}
    assert event["actor"] == {"invoked_by": "stockade"}
    (event,) = events(Kind.REFUSED, {**body, "caller": LOCAL})
    assert (event["disposition"], event["actor"]["user"]["name"]) == ("Blocked", "n")
    assert event["src_endpoint"]["ip"] == "192.0.2.9"


def test_refusals_that_were_counted() -> None:
    since, until = 1_700_000_000_000_000_000, 1_700_000_010_000_000_000
    (event,) = events(Kind.REFUSALS_DROPPED, {"count": 3, "since_ns": since, "until_ns": until})
    assert (event["count"], event["end_time"] - event["start_time"]) == (3, 10_000)
    assert event["unmapped"]["stockade"]["body"]["since_ns"] == since


def test_1_1_tells_of_the_log_as_of_a_base_event() -> None:
    (event,) = events(Kind.REMOVED, {"why": "age", "files_count": 3}, Release.V1_1)
    assert (event["type_uid"], event["activity_name"]) == (99, "Delete")
