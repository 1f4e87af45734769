"""The record as OCSF: events of every kind, from real entries and from made-up ones, are what OCSF
says, and say what the entry said."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.entry import CALL_KINDS, Kind
from supervisor.call.types import Json
from supervisor.export.event import Entry, Event, Head, Opening, uid_of
from supervisor.export.formats import json_line
from supervisor.export.formats.ocsf import PARTS_MAX, Ocsf
from supervisor.export.formats.ocsf_parts import as_it_is
from supervisor.export.formats.ocsf_shapes import Release
from tests.support.exported import HEAD, HOSTILE, SOURCE, TRACE, collect
from tests.support.ocsf import problems

Pairs = list[tuple[Entry, Opening | None]]
RELEASES = list(Release)
FINDING = 2004
DOCUMENT = Path(__file__).parents[4] / "docs/ocsf.md"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return collect(tmp_path_factory.mktemp("state"))


def made(
    entry: Entry, opening: Opening | None, release: Release = Release.V1_8, head: Head = HEAD
) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in Ocsf(SOURCE, release).encode(entry, opening, head)]


def of_kind(pairs: Pairs, kind: str) -> list[tuple[Entry, Opening | None]]:
    return [pair for pair in pairs if pair[0].kind == kind]


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Give an object of JSON that has no name twice."""
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def check_spelling(entry: Entry, opening: Opening | None, release: Release) -> None:
    """What `encode` puts together is what `told` tells."""
    for head in (HEAD, Head(size=0, root="")):
        events = Ocsf(SOURCE, release).encode(entry, opening, head)
        told = Ocsf(SOURCE, release, share=as_it_is).told(entry, opening, head)
        for event, (other, fields) in zip(events, told, strict=True):
            assert replace(event, data=b"") == other
            spelled = json.loads(event.data, object_pairs_hook=once)
            assert spelled == json.loads(json_line.encode(fields))


def check(events: Sequence[Event], entry: Entry, release: Release) -> None:
    assert events
    for number, event in enumerate(events):
        assert b"\n" not in event.data
        assert b"\r" not in event.data
        told = json.loads(event.data)
        assert not problems(told, release.value), told
        assert event.uid == told["metadata"]["uid"] == uid_of(entry, number)
        assert event.last == (number == len(events) - 1)
        assert (event.index, event.kind) == (entry.index, entry.kind)
        assert (event.class_uid, event.severity) == (told["class_uid"], told["severity_id"])
        assert told["metadata"]["sequence"] == entry.index
        place = told["unmapped"]["stockade"]
        assert (place["index"], place["leaf"]) == (entry.index, entry.leaf)
        assert place["head"] == HEAD._asdict()


@pytest.mark.parametrize("release", RELEASES)
def test_every_kind_becomes_what_ocsf_says(pairs: Pairs, release: Release) -> None:
    assert {entry.kind for entry, _ in pairs} == set(Kind)
    ocsf = Ocsf(SOURCE, release)
    for entry, opening in pairs:
        events = ocsf.encode(entry, opening, HEAD)
        check(events, entry, release)
        check_spelling(entry, opening, release)
        for event in events:
            assert "missing" not in json.loads(event.data)["unmapped"]["stockade"], event.data


@pytest.mark.parametrize("release", RELEASES)
def test_an_entry_gives_the_same_events_each_time(pairs: Pairs, release: Release) -> None:
    ocsf = Ocsf(SOURCE, release)
    for entry, opening in pairs:
        first = list(ocsf.encode(entry, opening, HEAD))
        assert list(ocsf.encode(entry, opening, HEAD)) == first
        assert list(Ocsf(SOURCE, release).encode(entry, opening, HEAD)) == first


def test_a_violation_is_a_finding_besides(pairs: Pairs) -> None:
    for entry, opening in pairs:
        events = made(entry, opening)
        violated = (
            entry.kind in (Kind.DENIED, Kind.LOST, Kind.HEAD_CONTRADICTED)
            or entry.body.get("verdict") == "denied"
            or entry.body.get("killed") is True
        )
        findings = [event for event in events if event["class_uid"] == FINDING]
        assert len(findings) == (1 if violated else 0), entry.kind
        for finding in findings:
            assert finding["finding_info"]["related_events"] == [
                {"uid": uid_of(entry, 0), "type_uid": events[0]["type_uid"]}
            ]
            assert events[0]["class_uid"] != FINDING


@pytest.mark.parametrize("release", RELEASES)
def test_events_of_a_call_say_whose_it_is(pairs: Pairs, release: Release) -> None:
    for entry, opening in pairs:
        for event in made(entry, opening, release):
            if not entry.call:
                assert "call" not in event["unmapped"]["stockade"]
                continue
            assert opening is not None
            assert event["metadata"]["correlation_uid"] == entry.call
            call = event["unmapped"]["stockade"]["call"]
            profile = opening.body["profile"]
            assert isinstance(profile, dict)
            assert call["profile"] == {key: profile[key] for key in ("name", "digest", "mode")}
            assert call["caller"]["name"] == "tester"
            assert event["unmapped"]["stockade"]["sequence"] == entry.sequence
            if entry.call in ("call-0", "call-1"):
                assert (call["agent"], call["session"]) == ("agent-7", "session-1")
                assert (call["trace_id"], call["span_id"]) == (TRACE, "b7ad6b7169203331")
                if release is not Release.V1_1 and event["class_uid"] == 6003:
                    assert event["trace"] == {"uid": TRACE, "flags": ["01"]}
            else:
                assert "trace" not in event


def test_the_document_says_which_class_it_is(pairs: Pairs) -> None:
    rows = [line.split("|")[1:4] for line in DOCUMENT.read_text().splitlines() if line[:3] == "| `"]
    classes = {
        kind: {int(number) for number in re.findall(r" (\d{4})\b", row[1])}
        for row in rows
        for kind in re.findall("`(.+?)`", row[0])
    }
    findings = {kind: row[2].strip() for row in rows for kind in re.findall("`(.+?)`", row[0])}
    assert classes.keys() == set(Kind)
    for kind, documented in classes.items():
        told = [made(entry, opening) for entry, opening in of_kind(pairs, kind)]
        seen = {one["class_uid"] for events in told for one in events} - {FINDING}
        assert seen == documented, kind
        found = {any(one["class_uid"] == FINDING for one in events) for events in told}
        assert found == {"": {False}, "always": {True}}.get(findings[kind], {True, False}), kind


def test_what_is_only_observed_is_logged(pairs: Pairs) -> None:
    seen = set()
    for entry, opening in of_kind(pairs, Kind.DENIED):
        for event in made(entry, opening):
            seen.add((entry.call == "call-1", event["action_id"], event["disposition_id"]))
            assert event["policy"]["is_applied"] == (entry.call != "call-1")
    assert seen == {(False, 2, 2), (True, 3, 17)}


def test_a_rule_is_told(pairs: Pairs) -> None:
    ruled = [pair for pair in of_kind(pairs, Kind.FLOW) if pair[0].body["verdict"] == "denied"]
    for entry, opening in ruled:
        event, finding = made(entry, opening)
        assert event["firewall_rule"] == {"name": "*.example.com:443"}
        assert finding["finding_info"]["analytic"]["name"] == "*.example.com:443"
        assert event["unmapped"]["stockade"]["rule"] == "*.example.com:443"


def test_every_process_is_an_event_of_its_own(pairs: Pairs) -> None:
    entry, opening = of_kind(pairs, Kind.PROCESSES)[0]
    started, argv, ended = made(entry, opening)
    assert [one["activity_id"] for one in (started, argv, ended)] == [1, 99, 2]
    assert started["process"]["file"]["path"] == "/usr/bin/env"
    assert started["process"]["working_directory"] == "/work/\\xff"
    assert started["process"]["parent_process"]["pid"] == 60
    assert argv["unmapped"]["stockade"]["body"]["data"] == {"base64": "bW9yZQD+"}
    assert ended["exit_code"] == 3
    assert [one.time_ns for one in Ocsf(SOURCE).encode(entry, opening, HEAD)] == [7, 8, 9]


def test_1_1_keeps_beside_what_it_has_not(pairs: Pairs) -> None:
    entry, opening = of_kind(pairs, Kind.INTENT)[0]
    (new,), (old,) = made(entry, opening), made(entry, opening, Release.V1_1)
    assert "trace" not in old
    beside = old["unmapped"]["stockade"]["ocsf"]
    for name in ("trace", "policy", "disposition_id", "action"):
        assert beside[name] == new[name]
    entry, opening = of_kind(pairs, Kind.LOST)[0]
    event, finding = made(entry, opening, Release.V1_1)
    assert (event["class_uid"], event["type_uid"], event["activity_name"]) == (0, 99, "Lose")
    assert finding["finding_info"]["related_events"][0]["type_uid"] == 99
    assert event["unmapped"]["stockade"]["ocsf"]["log_name"] == SOURCE.origin


def test_1_9_says_the_agent_and_where_the_log_has_it(pairs: Pairs) -> None:
    entry, opening = of_kind(pairs, Kind.DENIED)[0]
    event, finding = made(entry, opening, Release.V1_9)
    assert event["ai_agent"]["uid"] == "agent-7"
    assert event["ai_agent"]["instance_uid"] == "session-1"
    assert {"ai_operation", "record_integrity"} <= set(event["metadata"]["profiles"])
    for one in (event, finding):
        (attestation,) = one["attestation_list"]
        assert attestation["chain_uid"] == SOURCE.origin
        assert attestation["fingerprint"]["value"] == entry.leaf


def test_no_head_is_told_where_there_is_none(pairs: Pairs) -> None:
    entry, opening = pairs[0]
    (event,) = made(entry, opening, head=Head(0, ""))
    assert "head" not in event["unmapped"]["stockade"]


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_sandbox_says_forges_nothing(pairs: Pairs, release: Release) -> None:
    hostile = [pair for pair in of_kind(pairs, Kind.DENIED) if pair[0].body["name"] == "open"]
    assert hostile
    for entry, opening in hostile:
        for event in Ocsf(SOURCE, release).encode(entry, opening, HEAD):
            assert len(event.data.splitlines()) == len(event.data.decode().splitlines()) == 1
            assert not re.search("[\0-\x1f\x7f-\x9f\u2028\u202e]", event.data.decode())
            assert json.loads(event.data)["status_detail"] == HOSTILE


@pytest.mark.parametrize("release", RELEASES)
def test_a_call_without_its_opening_is_told_all_the_same(pairs: Pairs, release: Release) -> None:
    for entry, _ in pairs:
        check(Ocsf(SOURCE, release).encode(entry, None, HEAD), entry, release)


def test_more_calls_than_are_kept_are_told_right(pairs: Pairs) -> None:
    entry, opening = of_kind(pairs, Kind.STARTED)[0]
    assert opening is not None
    ocsf = Ocsf(SOURCE)
    first = list(ocsf.encode(entry, opening, HEAD))
    for number in range(PARTS_MAX + 1):
        ocsf.encode(entry, Opening(1000 + number, 1, opening.body), HEAD)
    assert len(ocsf._calls) == PARTS_MAX
    assert list(ocsf.encode(entry, opening, HEAD)) == first
    # Another log's opening with the same index is another.
    other = Opening(opening.index, opening.time_ns, {**opening.body, "profile": {"name": "other"}})
    (event,) = ocsf.encode(entry, other, HEAD)
    assert json.loads(event.data)["policy"]["name"] == "other"


def test_an_unknown_kind_is_told(pairs: Pairs) -> None:
    body: dict[str, Json] = {"what": "is new", "n": [1]}
    for release in RELEASES:
        entry = Entry(7, "ab" * 32, 1, "new_kind", "", 0, body)
        check(Ocsf(SOURCE, release).encode(entry, None, HEAD), entry, release)
        (event,) = made(entry, None, release)
        assert (event["class_uid"], event["metadata"]["event_code"]) == (0, "new_kind")
        assert event["unmapped"]["stockade"]["body"] == body


TEXTS = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(
    (HOSTILE, "\ud800", "\x00", "\U0001f600", "closed", "denied", "dns", "network", "limit", "http",
     "syscall", "program", "started", "ended", "exited", "observe", "192.0.2.1:80", "[::1]:9",
     "00-" + TRACE + "-b7ad6b7169203331-01", "tls", "unix", "::1%lo")
)  # fmt: skip
NUMBERS = st.integers() | st.sampled_from((2**63, 2**64 - 1, 2**64, -(2**63), -(2**70), 10**300))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "action", "address", "agent", "allowed", "argv", "arguments", "asked", "base64", "by", "call",
    "calls", "caller", "certificate_name", "code", "correlation", "count", "cut", "data", "detail",
    "digest",
    "directory", "duration_s", "ended_ns", "events", "files_count", "fingerprint", "host",
    "hostname", "kernel", "killed", "kind", "length", "mode", "name", "of", "offset", "origin",
    "outcome", "parent_pid", "path", "peer", "pid", "port", "profile", "program", "reason",
    "received", "request", "request_id", "request_preview", "rows", "rpc", "rule", "sent",
    "session", "sha256", "signal", "since_ns", "sink", "size", "started_ns", "stream", "time_ns",
    "timeline", "traceparent", "transport", "uid", "until_ns", "verdict", "version", "wall",
    "what", "why", "witness", "workflow",
)  # fmt: skip
NESTED = st.recursive(
    VALUES,
    lambda inner: (
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=6) | st.lists(inner, max_size=2)
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(NAMES) | TEXTS, NESTED, max_size=12)


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from([*Kind, "new"]), body=BODIES, opening=BODIES, index=st.integers(0, 2**63)
)
def test_any_body_becomes_what_ocsf_says(
    kind: str, body: dict[str, Json], opening: dict[str, Json], index: int
) -> None:
    of_call = kind in CALL_KINDS
    entry = Entry(
        index % 2**62,
        "ab" * 32,
        1_700_000_000_000_000_000,
        kind,
        "call" if of_call else "",
        1,
        body,
    )
    asked = Opening(index, 1, opening) if of_call else None
    for release in RELEASES:
        check(Ocsf(SOURCE, release).encode(entry, asked, HEAD), entry, release)
        check_spelling(entry, asked, release)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_real_body_with_something_else_in_it_is_told_whole(
    data: st.DataObject, pairs: Pairs
) -> None:
    """Whatever stands in a body is somewhere in its events, also where it is not what was meant."""
    entry, opening = pairs[data.draw(st.integers(0, len(pairs) - 1))]
    mark = st.sampled_from(([{"deep": "M4RK"}], "M4RK", {"M4RK": 1}, ["M4RK", 2**70]))
    marked: dict[str, Json] = {**entry.body, "new": "M4RK"}
    for name in data.draw(st.sets(st.sampled_from([*entry.body, "x"]))):
        marked[name] = data.draw(mark)
    events_of = entry.body.get("events")
    if isinstance(events_of, list) and data.draw(st.booleans()):
        marked["events"] = [
            {**one, **data.draw(st.dictionaries(st.sampled_from(list(one)), mark))}
            for one in events_of
            if isinstance(one, dict)
        ]
    wanted = json.dumps(marked).count("M4RK")
    changed = Entry(
        entry.index, entry.leaf, entry.time_ns, entry.kind, entry.call, entry.sequence, marked
    )
    for release in RELEASES:
        events = Ocsf(SOURCE, release).encode(changed, opening, HEAD)
        check(events, changed, release)
        assert b"".join(event.data for event in events).count(b"M4RK") >= wanted


def test_how_fast_it_is(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints, and asserts nothing of time."""
    entry, opening = of_kind(pairs, Kind.DENIED)[1]
    for release in RELEASES:
        ocsf = Ocsf(SOURCE, release)
        begin = time.process_time()
        events = sum(len(ocsf.encode(entry, opening, HEAD)) for _ in range(2000))
        with capsys.disabled():
            rate = events / (time.process_time() - begin)
            sys.stdout.write(f"\nOCSF {release}: {rate:.0f} events/s")
        assert events == 4000
