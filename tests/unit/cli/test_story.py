"""A record as a story: everything that the record must name, and nothing that bites."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from supervisor.audit.codec import flow_to_json
from supervisor.call.types import Digest
from supervisor.cli import story
from supervisor.client import Record, RecordEntry, wire
from supervisor.v1 import types_pb2
from tests.support.records import FLOW
from tests.unit.cli import record
from tests.unit.client import fake_daemon as fake


def told(capsys: pytest.CaptureFixture[str], made: Record) -> str:
    story.tell(made)
    return capsys.readouterr().out


def test_everything_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    shown = told(capsys, record.record())
    for what in (
        "python3 -c 'print(6*7)'",
        "owner (unix, uid 0)",
        f"python sha256:{fake.DIGEST} enforce",
        "writer",
        "armed      +10 ms",
        "unshare(0x10000000) x3",
        "stdout 2.0 KiB in 2 pieces",
        "stdout  3 B   3 B        " + fake.summary(b"42\n").digest.sha256,
        "12 ms user",
        "4.0 MiB at most",
        "the call exited with 0",
        "sha256:" + "cd" * 32,
        "kernel 6.1",
        "out        chart.png  1 B          " + fake.blob(b"x").sha256,
        "not taken  link       NOT_REGULAR",
        "ann sent signal 15: enough",
        "A=1",
        "in         in.csv     3 B          " + "ee" * 32,
    ):
        assert what in shown, what


def test_hostile_text_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\u202e\n"
    shown = told(capsys, record.record(evil=evil))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\e[2J\\u202e\\n" in shown


def test_a_live_call_has_no_end_yet(capsys: pytest.CaptureFixture[str]) -> None:
    made = record.record(live=True)
    shown = told(capsys, made)
    assert shown.splitlines()[0] == "call call-1: running"
    assert "phases" not in shown
    assert "streams" not in shown
    assert "in  in.csv  3 B   " + "ee" * 32 in shown
    assert "chart.png" not in shown


def test_many_files_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    files = [types_pb2.OutputFile(path=b"f%d" % n, digest=fake.blob(b"x")) for n in range(201)]
    made = Record(call=wire.call(fake.call(finished=fake.finish(outputs=files))), entries=())
    shown = told(capsys, made)
    assert "f199" in shown
    assert "f200" not in shown
    assert "and 1 more; --json has all" in shown


def test_names_of_files_are_quoted_once(capsys: pytest.CaptureFixture[str]) -> None:
    files = [types_pb2.OutputFile(path=b"a b", digest=fake.blob(b"x"))]
    call = wire.call(fake.call(finished=fake.finish(outputs=files)))
    given = {"path": "c d", "size_bytes": 1, "sha256": "ee"}
    intent = record.written((1, "intent", {"request": {"files": [given]}})).entries
    shown = told(capsys, Record(call=call, entries=intent))
    assert "out  'a b'  1 B" in shown
    assert "in   'c d'  1 B" in shown


def test_who_started_whom(capsys: pytest.CaptureFixture[str]) -> None:
    """After the beginning of the call, as all other times."""
    started = {"what": "started", "pid": 7, "parent_pid": 1, "time_ns": fake.START_NS + 5_000_000,
               "path": "/bin/sh", "argv": ["sh"]}  # fmt: skip
    shown = told(capsys, record.written((60_000, "processes", {"events": [started]})))
    assert "\n+5 ms                     not on record  7 /bin/sh: sh\n" in shown


def test_a_call_that_never_ran(capsys: pytest.CaptureFixture[str]) -> None:
    failed = fake.finish(failed=types_pb2.Failed(reason="OCI_CREATE_FAILED", message="no"))
    failed.timeline.ClearField("started")
    made = Record(call=wire.call(fake.call(finished=failed)), entries=())
    shown = told(capsys, made)
    assert "did not run: no [OCI_CREATE_FAILED]" in shown
    assert "started" not in shown


def test_a_call_that_a_wall_ended_did_run(capsys: pytest.CaptureFixture[str]) -> None:
    failed = fake.finish(failed=types_pb2.Failed(reason="WALL_NOT_STANDING", message="gone"))
    shown = told(capsys, Record(call=wire.call(fake.call(finished=failed)), entries=()))
    assert "the call was ended: gone [WALL_NOT_STANDING]" in shown
    assert "did not run" not in shown


def test_what_an_interrupted_call_used_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    interrupted = fake.finish(interrupted=types_pb2.Interrupted(message="the daemon died"))
    interrupted.ClearField("usage")
    shown = told(capsys, Record(call=wire.call(fake.call(finished=interrupted)), entries=()))
    assert [line.split() for line in shown.splitlines() if "not known" in line] == [
        ["cpu", "not", "known"],
        ["memory", "not", "known"],
    ]
    assert "0 B" not in shown


def test_what_processes_did_has_the_time_when_they_did_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not that of the entry, which the next daemon may have written."""
    events = [
        {"what": "started", "pid": 7, "time_ns": fake.START_NS + 5_000_000, "path": "/bin/true"},
        {"what": "ended", "pid": 7, "time_ns": fake.START_NS + 9_000_000, "code": 0},
        {"what": "ended", "pid": 8, "code": 0},
    ]
    entry = RecordEntry(
        index=1, sequence=1, time_ns=fake.START_NS + 60_000_000_000, kind="processes",
        json=json.dumps({"body": {"events": events}}).encode(), leaf=Digest.of(b""),
    )  # fmt: skip
    shown = told(capsys, Record(call=wire.call(fake.call()), entries=(entry,)))
    rows = [line.split() for line in shown.splitlines() if " processes " in line]
    assert [(row[1:3], row[4]) for row in rows] == [
        (["+5", "ms"], "7"), (["+9", "ms"], "7"), (["+60", "s"], "8"),
    ]  # fmt: skip


def denied(count: int, **body: object) -> Record:
    """Make a record with so many denials in a row; `{}` in a value is the number of each."""
    given = {"wall": "syscall", "name": "bpf", "detail": "", "count": 2, "rule": "r", **body}
    bodies = [
        {key: value.format(n) if isinstance(value, str) else value for key, value in given.items()}
        for n in range(count)
    ]
    return Record(
        call=wire.call(fake.call()),
        entries=tuple(
            RecordEntry(
                index=n, sequence=n, time_ns=fake.START_NS, kind="denied",
                json=json.dumps({"body": body}).encode(), leaf=Digest.of(b""),
            )
            for n, body in enumerate(bodies, 1)
        ),
    )  # fmt: skip


def test_denials_that_are_alike_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = told(capsys, denied(100, program="p{}", pid=7))
    assert "1-100" in shown
    assert shown.count("bpf() x200") == 2  # when it happened, and under what was denied
    assert "p0 7, p1 7, p2 7 and 97 more" in shown


@pytest.mark.parametrize("differing", ["name", "detail", "rule"])
def test_denials_that_differ_are_listed_up_to_a_bound(
    capsys: pytest.CaptureFixture[str], differing: str
) -> None:
    lines = told(capsys, denied(60, **{differing: "z{}z"})).splitlines()
    start = lines.index("denied")
    assert len(lines[start:]) == 2 + 50 + 1  # the heading, the columns, the last line
    assert lines[-1] == "and 10 more; --json has all"
    assert any("120 denials of 60 kinds" in line for line in lines[:start])


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("started", {"preparation_s": 0.02}, "20 ms"),
        ("truncated", {"stream": "stdout", "offset": 5, "why": "cap"}, "from byte 5"),
        ("truncated", {"stream": "stdout", "offset": 5, "why": "cap", "length": 4}, "5 to 9"),
        ("truncated", {"stream": "stdout", "offset": 5, "why": "cap", "length": 0}, "after all"),
        ("lost", {"what": "denial", "count": 2, "reason": "full"}, "lost 2 of denial: full"),
        (
            "lost",
            {"what": "probe events", "count": 0, "reason": "R"},
            "lost an unknown number of probe events: R",
        ),
        ("watched", {"name": "getppid", "arguments": [], "count": 7}, "getppid x7"),
        (
            "watched",
            {"name": "kcmp", "arguments": [1, 2], "killed": True},
            "kcmp(1, 2) x1, and its process was killed",
        ),
        ("flow", flow_to_json(FLOW), "api.example.com:443 → 203.0.113.7 · rule "),
        (
            "denied",
            {"wall": "network", "name": "dns", "detail": "evil.example.com A", "count": 3},
            "dns: evil.example.com A x3",
        ),
        (
            "denied",
            {"wall": "network", "name": "connect", "detail": "tcp 203.0.113.9:443"},
            "connect(tcp 203.0.113.9:443) x1",
        ),
        (
            "denied",
            {"wall": "limit", "name": "egress", "used": 11 << 20, "allowed": 10 << 20},
            "egress: 11 MiB used, 10 MiB allowed x1",
        ),
        (
            "denied",
            {
                "wall": "limit",
                "name": "egress",
                "rule": "limits.egress",
                "used": 1_002_975,
                "allowed": 1 << 20,
            },
            "egress: 979.468 KiB used, 1 MiB allowed, and more came at once than was left x1",
        ),
        ("denied", {"wall": "of sound", "name": "x", "detail": "y"}, "x(y) x1"),
        ("outcome", {"outcome": {"kind": "exited", "code": 3}}, "exited (code 3)"),
        (
            "denied",
            {"wall": "limit", "name": "memory", "used": 3 << 20, "allowed": 2 << 20},
            "memory: 3 MiB used, 2 MiB allowed x1",
        ),
        (
            "outcome",
            {"outcome": {"kind": "limit_exceeded", "limit": "cpu", "used": 1011, "allowed": 1000}},
            "limit_exceeded (limit cpu, used 1.011 s, allowed 1 s)",
        ),
        (
            "outcome",
            {"outcome": {"kind": "out_of_memory", "limit_bytes": 1 << 20, "kills": 1}},
            "out_of_memory (limit 1 MiB, kills 1)",
        ),
        (
            "outcome",
            {"outcome": {"kind": "timed_out", "limit_s": 2.0}},
            "timed_out (limit 2 s)",
        ),
        ("spell", {"a": 1, "b": "c"}, "a=1, b=c"),
    ],
)
def test_happening(kind: str, body: dict[str, object], shown: str) -> None:
    assert shown in story.happening(kind, body)


def test_processes_have_a_line_each_and_many_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    ended = [{"what": "ended", "pid": pid, "code": 0} for pid in range(100, 100 + 25)]
    body = json.dumps({"body": {"events": ended}}).encode()
    made = record.record()
    entry = replace(made.entries[0], kind="processes", json=body)
    shown = told(capsys, replace(made, entries=(*made.entries, entry)))
    assert "100 exits with 0" in shown
    assert "119 exits with 0" in shown
    assert "120 exits" not in shown
    assert "and 5 more; --json has them all" in shown


def started(**event: object) -> str:
    return story.happening("processes", {"events": [{"what": "started", "pid": 7, **event}]})


def test_a_program_is_told_with_its_path_folder_and_arguments() -> None:
    assert started(path="/usr/bin/env", directory="/work", argv=["env", "a b"]) == (
        "7 runs /usr/bin/env in /work: env 'a b'"
    )
    forged = started(path="/work/b: /usr/bin/cat", directory="/work", argv=["harmless"])
    assert forged == "7 runs '/work/b: /usr/bin/cat' in /work: harmless"
    assert "$'/work/\\ex'" in started(path="/work/\x1bx", directory="/", argv=["x"])


@pytest.mark.parametrize("directory", ["/work", "/work/" + "d" * 300])
def test_a_long_path_hides_no_arguments(capsys: pytest.CaptureFixture[str], directory: str) -> None:
    event = {
        "what": "started", "pid": 7, "path": "/work/" + "x" * 300, "directory": directory,
        "argv": ["rm", "-rf", "/srv", "y" * 300],
    }  # fmt: skip
    line = story.happening("processes", {"events": [event]})
    assert "xx…: rm -rf /srv yyy" in line
    assert line.endswith("…")
    assert len(line) == story.TEXT_WIDTH
    made = record.record()
    body = json.dumps({"body": {"events": [event]}}).encode()
    entry = replace(made.entries[0], kind="processes", json=body)
    shown = told(capsys, replace(made, entries=(*made.entries, entry)))
    assert line in shown
    assert "… is where something was cut; --json has it whole" in shown


def test_connections_are_told_in_a_row_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    made = record.record()
    entries = [
        replace(
            made.entries[0], kind="flow",
            json=json.dumps({"body": flow_to_json(replace(FLOW, pid=pid))}).encode(),
        )
        for pid in (7, 8)
    ]  # fmt: skip
    shown = told(capsys, replace(made, entries=(*made.entries, *entries)))
    assert "2 connections, 2.3 KiB out, 66.4 KiB in; listed below" in shown
    _, row = shown.partition("\nconnections\n")[2].splitlines()[:2]
    assert row.startswith("api.example.com:443  203.0.113.7  *.example.com:443  2")


def test_a_hostile_name_that_was_denied_is_safe_and_cut(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\u202e\n" + "x" * 2000
    made = denied(1, wall="network", name="dns", detail=evil)
    shown = told(capsys, made)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.count("dns: \\e[2J\\u202e\\nxxx") == 2
    assert max(map(len, shown.splitlines())) < 350


def test_watched_calls_are_counted_by_name_and_sockets_by_family(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = {"name": "socket", "arguments": [2, 1, 0], "detail": "socket(AF_INET, SOCK_STREAM, 0)",
             "pid": 70, "program": "curl", "count": 1}  # fmt: skip
    more = {"name": "socket", "arguments": [2], "detail": "AF_INET", "pid": 0, "count": 4}
    unix = {"name": "socket", "arguments": [1], "detail": "AF_UNIX", "pid": 0, "count": 2}
    other = {"name": "getppid", "arguments": [], "detail": "", "pid": 0, "count": 5000}
    made = record.record()
    entries = [
        replace(made.entries[0], kind="watched", json=json.dumps({"body": body}).encode())
        for body in (first, more, unix, other)
    ]
    shown = told(capsys, replace(made, entries=(*made.entries, *entries)))
    assert "5007 system calls of 3 kinds; listed below" in shown
    lines = [line.split() for line in shown.partition("watched system calls")[2].splitlines()]
    assert ["getppid", "5000"] in lines
    assert ["socket(AF_INET)", "5", "socket(AF_INET,", "SOCK_STREAM,", "0)", "curl", "70"] in lines
    assert ["socket(AF_UNIX)", "2"] in lines


def test_what_happened_is_in_the_order_of_its_times(capsys: pytest.CaptureFixture[str]) -> None:
    """What processes did is recorded later; sequences tell the order on record."""
    ran = {"what": "started", "pid": 7, "time_ns": fake.START_NS + 5_000_000, "path": "/bin/sh"}
    made = record.written(
        (1, "started", {"preparation_s": 0.0}),
        (9, "output", {"stream": "stdout", "length": 1}),
        (10, "processes", {"events": [ran]}),
        (10, "signal", {"by": "ann", "signal": 15}),
        (10, "resized", {"columns": 80, "rows": 24}),
    )
    lines = told(capsys, made).split("what happened\n")[1].splitlines()[1:6]
    assert [tuple(line.split()[:4]) for line in lines] == [
        ("1", "+1", "ms", "started"), ("3", "+5", "ms", "processes"), ("2", "+9", "ms", "output"),
        ("4", "+10", "ms", "signal"), ("5", "+10", "ms", "resized"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "shown"),
    [(0, "6 at most, with what starts a sandbox"), (6, "6 at most, with what starts a sandbox"),
     (5, "6 at most")],
)  # fmt: skip
def test_how_many_processes_says_whose_they_are(
    capsys: pytest.CaptureFixture[str], start: int, shown: str
) -> None:
    usage = types_pb2.ResourceUsage(pids_peak=6, pids_start=start)
    finished = fake.finish()
    finished.usage.CopyFrom(usage)
    call = fake.call(finished=finished)
    text = told(capsys, Record(call=wire.call(call), entries=()))
    (line,) = (line for line in text.splitlines() if line.startswith("  processes"))
    assert line.removeprefix("  processes").strip() == shown
