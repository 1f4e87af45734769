"""What another profile would have meant for a recorded call: judged by what is on record, and never
more."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from supervisor.audit.codec import (
    denied_to_json,
    finished_to_json,
    flow_to_json,
    lost_to_json,
    processes_to_json,
    watched_to_json,
)
from supervisor.call.events import (
    OTHER_ARGUMENTS,
    Denied,
    Lost,
    Processes,
    ProgramStarted,
    Timeline,
    Verdict,
    Wall,
)
from supervisor.call.outcome import Interrupted, TimedOut
from supervisor.call.types import (
    CallRequest,
    Digest,
    InputFile,
    Stream,
    StreamSummary,
    Terminal,
    Usage,
)
from supervisor.egress.plan import Plan
from supervisor.profile.resolve import rules_of
from supervisor.profile.what_if import Change, Entry, Side, judge
from supervisor.profile.why import Judge
from tests.support.records import FLOW, PROCESSES, WATCHED, make_finished

from .conftest import COMPLETE, MakeSet

BASE = COMPLETE.replace("16MiB}", "16MiB, egress: 10MiB}")
WITH_HOST = """\
egress: [{host: api.example.com, port: 443, why: x}]
syscalls: {allow: ["@network-io"]}"""
REQUEST = CallRequest(
    request_id="r", profile="base", argv=(b"x",), env={"A": b""}, stdin=b"typed", timeout_s=5.0,
    files=(InputFile(path=b"a", digest=Digest(sha256="ab" * 32, size_bytes=2 << 20)),),
)  # fmt: skip
MS = 1_000_000


def side(make_set: MakeSet, body: str) -> Side:
    child = f"profile: child\nextends: base\nwhy: A test.\n{body}\n"
    profile = make_set(base=BASE, child=child).effective("child")
    canonical = json.loads(profile.canonical)
    decide = Plan.of(rules_of(canonical)).decide
    return Side(canonical=canonical, judge=Judge(canonical, profile.lines, decide))


@pytest.fixture
def ask(make_set: MakeSet) -> Any:
    def asked(old: str, new: str, *entries: Entry, **changes: Any) -> Change:
        given = changes.pop("request", REQUEST)
        intent = {"request": json.loads(given.canonical())} if given else {"request_preview": {}}
        ended = finished_to_json(make_finished(**changes))
        sides = side(make_set, old), side(make_set, new)
        return judge(*sides, [("intent", intent), *entries, ("outcome", ended)])

    return asked


def told(findings: tuple[Any, ...]) -> list[tuple[str, str]]:
    return [(str(one.what), one.of) for one in findings]


def denied(wall: Wall, name: str, detail: str = "", **changes: Any) -> Entry:
    return "denied", denied_to_json(Denied(wall=wall, name=name, detail=detail, **changes))


def flow(**changes: Any) -> Entry:
    given = replace(FLOW, rule="", verdict=Verdict.CLOSED, reason="")
    return "flow", flow_to_json(replace(given, **changes))


def watched(name: str, *arguments: int) -> Entry:
    return "watched", watched_to_json(
        replace(WATCHED, name=name, arguments=arguments, detail="", killed=False)
    )


def started(path: bytes) -> Entry:
    first = PROCESSES[0]
    assert isinstance(first, ProgramStarted)
    return "processes", processes_to_json(Processes(events=(replace(first, path=path),)))


def test_nothing_is_otherwise_where_nothing_is(ask: Any) -> None:
    entries = (denied(Wall.SYSCALL, "kcmp"), flow(), watched("read"), started(b"/usr/bin/env"))
    assert ask(WITH_HOST, WITH_HOST, *entries).as_before
    # More is allowed, and nobody had asked for it.
    assert ask(WITH_HOST, WITH_HOST + "\nlimits: {pids: 999}", *entries).as_before


@pytest.mark.parametrize(
    ("new", "entry", "of"),
    [
        ('syscalls: {allow: [{name: memfd_create, why: x}]}',
         denied(Wall.SYSCALL, "memfd_create", count=2), "memfd_create x2"),
        (WITH_HOST, denied(Wall.NETWORK, "dns", "api.example.com A"), "dns api.example.com A x1"),
        (WITH_HOST, denied(Wall.NETWORK, "connect", "api.example.com:443 tcp"),
         "connect api.example.com:443 tcp x1"),
        (WITH_HOST, denied(Wall.SYSCALL, "socket", "socket(AF_INET)", arguments=(2, 1, 0),
                           rule=f"socket {OTHER_ARGUMENTS}"), "socket(AF_INET) x1"),
        ("limits: {cpu: 31s}", denied(Wall.LIMIT, "cpu", used=30_001, allowed=30_000), "cpu"),
        ("files: {write: [{path: /work, size: 999MiB}]}",
         denied(Wall.LIMIT, "disk", "/work", used=1, allowed=1), "disk /work"),
    ],
)  # fmt: skip
def test_what_was_denied_is_let_through(ask: Any, new: str, entry: Entry, of: str) -> None:
    found = ask("", new, entry)
    assert [one.of for one in found.let_through] == [of]
    assert (found.denied, found.unknown) == ((), ())
    assert ask("", "", entry).as_before


def test_a_denial_that_no_profile_explains(ask: Any) -> None:
    entry = denied(Wall.SYSCALL, "read", rule="nobody knows")
    found = ask("", WITH_HOST, entry)
    assert (told(found.unknown), found.let_through) == ([("syscall", "read x1")], ())


def test_a_call_that_timed_out(ask: Any) -> None:
    ended = {"outcome": TimedOut(limit_s=5), "request": replace(REQUEST, timeout_s=None)}
    assert told(ask("limits: {wall: 5s}", "limits: {wall: 9s}", **ended).let_through) == [
        ("limit", "wall")
    ]
    # Its caller had asked for so little.
    assert ask("", "limits: {wall: 999s}", outcome=TimedOut(limit_s=5)).as_before


@pytest.mark.parametrize("verdict", [Verdict.CLOSED, Verdict.FAILED, Verdict.BUDGET])
def test_a_connection_that_no_rule_is_for(ask: Any, verdict: Verdict) -> None:
    found = ask(WITH_HOST, "", flow(verdict=verdict))
    assert told(found.denied) == [("connection", "api.example.com:443")]
    assert ask(WITH_HOST, "", flow(verdict=Verdict.DENIED)).denied == ()


def test_a_name_that_led_into_a_private_network(ask: Any) -> None:
    private = WITH_HOST.replace("443,", "443, private: true,")
    found = ask(private, WITH_HOST, flow(address="10.0.0.9"))
    assert told(found.denied) == [("connection", "api.example.com:443")]
    assert "10.0.0.9 is private" in found.denied[0].why
    assert not ask(private, WITH_HOST, flow(address="1.1.1.1")).denied


@pytest.mark.parametrize(
    ("old", "new", "known"),
    [
        ("inspect: none", "inspect: none", True),
        ("inspect: tls", "inspect: none", True),
        ("inspect: none", "inspect: tls", False),
        ("inspect: http", "inspect: http, methods: [GET]", False),
        ("inspect: http, methods: [GET]", "inspect: http, methods: [GET, PUT]", True),
        ("inspect: http, methods: [GET, PUT]", "inspect: http, methods: [GET]", False),
        ("inspect: http, paths: [/a]", "inspect: http, paths: [/b]", False),
    ],
)
def test_what_was_said_on_a_connection_is_not_on_record(
    ask: Any, old: str, new: str, known: bool
) -> None:
    rules = [WITH_HOST.replace("443,", f"443, {what},") for what in (old, new)]
    found = ask(*rules, flow(address="1.1.1.1"))
    assert (found.denied, not found.unknown) == ((), known)


def test_system_calls_that_were_watched(ask: Any) -> None:
    old = 'syscalls: {allow: ["@network-io"], watch: [socket]}'
    inet, unix = watched("socket", 2, 1, 0), watched("socket", 1, 1, 0)
    found = ask(old, "", inet, unix)
    assert told(found.denied) == [("syscall", "socket")]
    assert ask(old, "", unix).denied == ()
    assert ask(old, old, inet).as_before


def test_system_calls_that_nobody_watched(ask: Any) -> None:
    allows = "syscalls: {allow: [{name: memfd_create, why: x}]}"
    assert told(ask(allows, "").unknown) == [("syscall", "memfd_create")]
    watches = allows.replace("}]}", "}], watch: [memfd_create]}")
    assert ask(watches, "").as_before  # it did not make it
    assert told(ask(watches, "", watched("memfd_create")).denied) == [("syscall", "memfd_create")]
    sockets = told(ask('syscalls: {allow: ["@network-io"]}', "").unknown)
    assert ("syscall", "sockets of @network-io") in sockets


def test_programs(ask: Any) -> None:
    runs = "files: {write: [{path: /opt/b, size: 1MiB, exec: true, why: x}]}"
    path = started(b"/opt/b/mine")
    assert told(ask(runs, runs.replace("exec: true, why: x", "exec: false"), path).denied) == [
        ("program", "/opt/b/mine")
    ]
    found = ask(runs, "", path)
    assert told(found.denied) == [("program", "/opt/b/mine")]
    assert told(found.unknown) == [("files.write", "/opt/b")]
    # Where the image has it: its own profile says nothing of it either.
    assert ask(runs, runs, started(b"/bin/sh")).as_before


@pytest.mark.parametrize(
    ("new", "of"),
    [
        ("limits: {wall: 6s}", "wall"),
        ("limits: {cpu: 1s}", "cpu"),
        ("limits: {pids: 3}", "pids"),
        ("limits: {output: 1KiB}", "output"),
        ("limits: {egress: 1KiB}", "egress"),
    ],
)
def test_more_was_used_than_would_be_allowed(ask: Any, new: str, of: str) -> None:
    streams = tuple(
        StreamSummary(stream=stream, digest=Digest(sha256="ab" * 32, size_bytes=600),
                      stored_bytes=0) for stream in (Stream.STDOUT, Stream.STDERR)
    )  # fmt: skip
    ran = Timeline(accepted_ns=1, started_ns=MS, ended_ns=7001 * MS)
    usage = Usage(cpu_user_s=0.6, cpu_system_s=0.6, memory_peak_bytes=9 << 20,
                  pids_peak=4, pids_start=2)  # fmt: skip
    entry = flow(sent=600, received=600)
    found = ask(WITH_HOST, f"{WITH_HOST}\n{new}", entry, streams=streams, timeline=ran, usage=usage)
    assert told(found.denied) == [("limit", of)]
    assert found.unknown == ()
    # As much as was used is enough; nothing is said of a limit that is no lower.
    assert ask(WITH_HOST, WITH_HOST, entry, streams=streams, timeline=ran, usage=usage).as_before


def test_limits_of_which_the_record_does_not_say_enough(ask: Any) -> None:
    usage = Usage(memory_peak_bytes=17 << 20)
    assert told(ask("", "limits: {memory: 16MiB}", usage=usage).unknown) == [("limit", "memory")]
    assert ask("", "limits: {memory: 17MiB}", usage=usage).as_before
    assert told(ask("", "limits: {files: 16}").unknown) == [("limit", "files")]
    died = Interrupted(message="died")
    assert told(ask("", "limits: {pids: 9, cpu: 1s}", outcome=died).unknown) == [
        ("limit", "cpu, pids")
    ]


@pytest.mark.parametrize("start", [0, 6])
def test_what_started_the_sandbox_is_not_held_against_a_limit(ask: Any, start: int) -> None:
    """It is in the peak, and gone when the program begins; older records do not say how many."""
    usage = Usage(pids_peak=6, pids_start=start)
    found = ask("", "limits: {pids: 4}", usage=usage)
    assert (told(found.unknown), found.denied) == ([("limit", "pids")], ())
    assert "6 at most, with what starts a sandbox" in found.unknown[0].why
    assert ask("", "limits: {pids: 6}", usage=usage).as_before


def test_a_request_that_would_be_refused(ask: Any) -> None:
    request = replace(REQUEST, stdin=b"x" * 5000)
    found = ask("", "env: {A: theirs}\nlimits: {wall: 4s, output: 4KiB}\n", request=request)
    assert told(found.denied) == [
        ("request", "variable A"), ("request", "timeout"), ("request", "standard input"),
    ]  # fmt: skip
    small = ask("files: {write: [{path: /work, size: 9MiB}]}",
                "files: {write: [{path: /work, size: 1MiB}]}")  # fmt: skip
    assert told(small.denied) == [("request", "files")]
    terminal = replace(REQUEST, terminal=Terminal(rows=24, columns=80))
    allow = "terminal: allow"
    assert told(ask(allow, "", request=terminal).denied) == [("request", "terminal")]
    assert ask(allow, allow, request=terminal).as_before
    assert ask(allow, "").as_before
    assert told(ask("", "", request=None).unknown) == [("request", "files, variables")]


def test_what_a_host_or_a_mount_has_is_not_on_record(ask: Any) -> None:
    old = "files: {read: [{path: /srv/a, why: x}], write: [{path: /work, size: 9MiB}]}"
    new = "require: [guard]\nruntime: crun\nfiles: {write: [{path: /work, size: 8MiB}]}"
    assert told(ask(old, new).unknown) == [
        ("require", "guard"), ("runtime", "crun"), ("files.write", "/work"),
        ("files.read", "/srv/a"),
    ]  # fmt: skip


def test_another_image_has_other_programs(ask: Any) -> None:
    assert told(ask("", "image: dir:/srv/i", started(b"/bin/sh")).unknown) == [("program", "all")]


@pytest.mark.parametrize(
    ("what", "of"),
    [("denial", "denials"), ("exec", "programs"), ("flow", "connections")],
)
def test_what_was_lost_cannot_be_told(ask: Any, what: str, of: str) -> None:
    lost = ("lost", lost_to_json(Lost(what=what, count=0, reason="QUEUE_FULL")))
    assert told(ask("", "", lost).unknown) == [(of, "an unknown number lost")]


def test_a_call_that_still_runs(make_set: MakeSet) -> None:
    both = side(make_set, ""), side(make_set, "")
    intent = ("intent", {"request": json.loads(REQUEST.canonical())})
    assert told(judge(*both, [intent]).unknown) == [("call", "the rest")]
