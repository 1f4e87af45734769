"""Entries as exporters get them: one of each kind at least, most of them from a real recorder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from supervisor.audit.account import erased_body
from supervisor.audit.contradicted import tell
from supervisor.audit.entry import Kind, Position, StoredEntry
from supervisor.audit.reading import read_log
from supervisor.audit.recorder import CallRecorder
from supervisor.audit.segment import MAGIC
from supervisor.audit.witness import Contradicted
from supervisor.call import outcome
from supervisor.call.events import (
    BROKER_DENIALS,
    Denied,
    Flow,
    Lost,
    Processes,
    Resized,
    Verdict,
    Wall,
)
from supervisor.call.types import Correlation, Digest, Json, OutputFile, SkippedFile, Stream
from supervisor.export.event import Entry, Head, Opening, Source
from supervisor.profile.model import Capture
from tests.support.records import (
    CALLER,
    FLOW,
    PROCESSES,
    WATCHED,
    begin,
    make_finished,
    make_profile,
    opened,
)

START = Position(segment=0, offset=len(MAGIC))
TRACE = "0af7651916cd43dd8448eb211c80319c"
CORRELATION = Correlation(
    agent="agent-7", session="session-1", workflow="flow",
    traceparent=f"00-{TRACE}-b7ad6b7169203331-01",
)  # fmt: skip
SOURCE = Source(origin="host.example.com/log", host="host.example.com", version="1.2.3")
HEAD = Head(1000, "cm9vdA==")

OUTCOMES: tuple[outcome.Outcome, ...] = (
    outcome.Exited(code=0), outcome.Exited(code=3), outcome.Signaled(signal=11, core_dumped=True),
    outcome.TimedOut(limit_s=1.5),
    outcome.OutOfMemory(limit_bytes=1 << 20, peak_bytes=1 << 21, kills=1),
    outcome.LimitExceeded(limit=outcome.LimitKind.DISK, used=9, allowed=8, subject="/work"),
    outcome.Stopped(by="tester", reason="SIGNAL"),
    outcome.Failed(reason="NO_RUNTIME", message="it is not there"),
    outcome.Interrupted(message="the daemon died"),
)  # fmt: skip

DENIALS = (
    Denied(wall=Wall.SYSCALL, name="socket", arguments=(2, 2**64 - 1, 0), pid=70, count=3,
           detail="socket(AF_INET, SOCK_STREAM, 0)", program=b"sh\xff", rule="syscalls"),
    Denied(wall=Wall.KERNEL, name="mount", detail="/proc", pid=70, program=b"sh"),
    Denied(wall=Wall.PROGRAM, name="exec", detail="/work/evil", pid=70, program=b"sh"),
    Denied(wall=Wall.PROGRAM, name="exec", detail="/work/evil"),
    Denied(wall=Wall.LIMIT, name="pids", used=65, allowed=64, rule="limits.pids"),
    Denied(wall=Wall.NETWORK, name="connect", detail="203.0.113.7:443 (example.com)"),
    Denied(wall=Wall.NETWORK, name="sendto", detail="[2001:db8::7]:53", pid=3),
    Denied(wall=Wall.NETWORK, name="bind"),
    *(Denied(wall=Wall.NETWORK, name=name, detail="evil.example.com:443 no rule", pid=7,
             rule="*.example.com:443") for name in sorted(BROKER_DENIALS)),
)  # fmt: skip

HOSTILE = '\n{"forged":1}\r\0\x1b[2J\x9b31m\x85\u2028\u202e|\\"\U0001f600'


def _flows() -> list[Flow]:
    flows = [replace(FLOW, verdict=verdict) for verdict in Verdict]
    flows.append(replace(FLOW, verdict=Verdict.FAILED, name="192.0.2.1", address="", port=0))
    return [*flows, replace(FLOW, name="", address="", verdict=Verdict.DENIED)]


async def _use(recorder: CallRecorder, end: outcome.Outcome) -> None:
    """Have all happen to a call that can."""
    recorder.started(0.25)
    recorder.output(Stream.STDOUT, b"hello")
    recorder.output(Stream.STDERR, b"x" * 4000)
    recorder.tell(DENIALS)
    recorder.tell([Denied(wall=Wall.SYSCALL, name="open", detail=HOSTILE, rule=HOSTILE)])
    recorder.processes(Processes(events=PROCESSES))
    recorder.tell([WATCHED, replace(WATCHED, killed=False)])
    recorder.tell(_flows())
    recorder.lost(Lost(what="exec", count=0, reason="DAEMON_DIED"))
    recorder.lost(Lost(what="denial", count=7, reason="RING_FULL"))
    recorder.signalled("tester", 15, "because\n")
    recorder.resized(Resized(rows=24, columns=80))
    digest = Digest.of(b"content")
    await recorder.finish(
        make_finished(
            end,
            outputs=(OutputFile(path=b"out/\xff", digest=digest, mode=0o644),),
            skipped=(SkippedFile(path=b"sock", reason="NOT_REGULAR"),),
        )
    )


def _own(append: Callable[[str, dict[str, Json]], object]) -> None:
    """Write the daemon's own entries."""
    caller: dict[str, Json] = {
        "name": "tester", "transport": "tls", "uid": None, "gid": None, "pid": None,
        "certificate_name": "tester.example.com",
    }  # fmt: skip
    local: dict[str, Json] = {**caller, "transport": "unix", "uid": 1000, "gid": 1, "pid": 99}
    peer: dict[str, Json] = {
        "transport": "tls", "address": "192.0.2.9:4711", "uid": None, "gid": None, "pid": None,
    }  # fmt: skip
    bodies: list[tuple[str, dict[str, Json]]] = [
        (Kind.DAEMON_STARTED, {"host": {"hostname": "h", "kernel": "6.1.0"}, "pid": 7}),
        (Kind.LOG_CUT, {"segment": 0, "offset": 10, "size_bytes": 3, "sha256": "ab" * 32}),
        (Kind.POLICY, {"version": "1", "configuration_sha256": "ab" * 32, "policy": {"a": [1]}}),
        (Kind.READ, {"caller": caller, "rpc": "GetRecord", "of": {"call": "call-0"}}),
        (Kind.READ, {"caller": local, "rpc": "ListRecords", "of": {"filter": {}}, "from": 7}),
        (Kind.REFUSED, {"reason": "PROFILE_DENIED", "rpc": "Execute", "caller": caller,
                        "peer": peer, "asked": {"profile": HOSTILE, "call_id": "c"}}),
        (Kind.UNAUTHENTICATED, {"reason": "CALLER_UNKNOWN", "rpc": "Execute", "caller": None,
                                "peer": peer, "certificate": "a, b"}),
        (Kind.UNAUTHENTICATED, {"reason": "CALLER_UNKNOWN", "rpc": "Execute", "caller": None,
                                "peer": None, "certificate": ""}),
        (Kind.REFUSALS_DROPPED, {"count": 9, "since_ns": 1_700_000_000_000_000_000,
                                 "until_ns": 1_700_000_010_000_000_000,
                                 "of": [{"kind": "refused", "reason": "X", "count": 9}]}),
        (Kind.KEY_ROTATED, {"statement": "stockade key rotation v1\n"}),
        (Kind.REMOVED, {"why": "age", "calls": ["call-0"], "uploads": [3], "files": ["ab"],
                        "files_count": 1, "bytes": 7}),
        (Kind.HELD, {"call": "call-0", "caller": local, "why": "a lawsuit"}),
        (Kind.RELEASED, {"call": "call-0", "caller": local, "why": "it is over"}),
        (Kind.ERASED, erased_body("call-0", CALLER, "asked for")),
        (Kind.WITNESSED, {"origin": "other/log", "size": 8, "root": "cm9vdA==", "caller": caller}),
        (Kind.CONSOLE_ENTERED, {"caller": {**local, "transport": "console", "pid": None},
                                "uid": 1000}),
        (Kind.EXPORT, {"action": "test", "sink": "siem", "caller": local}),
        (Kind.EXPORT, {"action": "discard", "sink": "siem", "caller": caller, "letters": 2,
                       "uids": ["7-ab-0", HOSTILE]}),
        (Kind.EXPORT, {"action": "reloaded", "caller": local, "added": ["siem"], "removed": [],
                       "changed": [], "unchanged": [], "ignored": ["limits"]}),
        (Kind.DAEMON_STOPPED, {}),
    ]  # fmt: skip
    for kind, body in bodies:
        append(kind, body)
    shorter = Contradicted("it was cut back", size=9, root="cm9vdA==", shorter=True)
    tell("witness-1", shorter, lambda body: append(Kind.HEAD_CONTRADICTED, dict(body)))


def collect(folder: Path) -> list[tuple[Entry, Opening | None]]:
    """Give entries of every kind, each with the opening of its call."""
    found: list[StoredEntry] = []

    async def main() -> None:
        short = Capture(mode="head", bytes_max=100)
        async with opened(folder) as store:
            for number, end in enumerate(OUTCOMES):
                mode = "observe" if number == 1 else "enforce"
                profile = make_profile(mode=mode, stderr=short)
                argv = (b"sh", b"-c", b"\xff echo \n\x1b[1m") if number else (b"true",)
                correlation = CORRELATION if number < 2 else Correlation()
                recorder = await begin(
                    store, f"call-{number}", profile=profile, argv=argv, correlation=correlation
                )
                await _use(recorder, end)
            long = await begin(store, "call-long", argv=(b"x" * 30_000,))
            await long.finish(make_finished())
            store.grant_blob(Digest.of(b"content"), "tester")
            _own(store.own.append)
            await store.own.commit()
            found.extend(read_log(store._journal, START))

    asyncio.run(main())
    openings: dict[str, Opening] = {}
    pairs = []
    for one in found:
        body = one.body()
        if one.kind == Kind.INTENT:
            openings[one.call_id] = Opening(one.index, one.time_ns, body)
        entry = Entry(
            one.index, one.leaf, one.time_ns, one.kind, one.call_id, one.sequence, body
        )  # fmt: skip
        pairs.append((entry, openings.get(one.call_id)))
    return pairs
