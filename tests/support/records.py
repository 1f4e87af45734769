"""What tests of the record share: profiles, requests, outcomes, and a store in a folder."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from supervisor.audit.journal import JournalOptions
from supervisor.audit.recorder import CallRecorder
from supervisor.audit.store import Store
from supervisor.call.events import (
    Finished,
    Flow,
    MoreArgv,
    ProcessEnded,
    ProgramStarted,
    Timeline,
    Verdict,
    Watched,
)
from supervisor.call.outcome import Exited, Outcome
from supervisor.call.types import Caller, CallRequest, Usage
from supervisor.profile.model import (
    Capture,
    EffectiveProfile,
    EgressRule,
    Image,
    ImageKind,
    Limits,
    PortRange,
    RecordPolicy,
    Redact,
    SyscallPolicy,
)

PROCESSES = (
    ProgramStarted(
        time_ns=7, pid=70, parent_pid=60, uid=1000, gid=1000, path=b"/usr/bin/env",
        directory=b"/work/\xff", argv=(b"env", b"\xff%"), argv_bytes=4096, cut=("argv",),
    ),
    MoreArgv(time_ns=8, pid=70, offset=2048, data=b"more\0\xfe"),
    ProcessEnded(
        time_ns=9, pid=70, parent_pid=60, code=3, signal=0, cpu_user_s=0.5, cpu_system_s=0.25,
        memory_peak_bytes=4096,
    ),
)  # fmt: skip
"""One of each thing that a process does."""

WATCHED = Watched(
    name="socket", arguments=(2, 1, 0), detail="socket(AF_INET, SOCK_STREAM, 0)", pid=70,
    program=b"sh\xff", count=3, rule="syscalls.watch: socket", killed=True,
)  # fmt: skip
"""Each field has a value of its own."""

FLOW = Flow(
    name="api.example.com", address="203.0.113.7", port=443, rule="*.example.com:443",
    verdict=Verdict.RESET, reason="by the far side", sent=1200, received=34_000,
    started_ns=1_700_000_000_123_456_789, duration_s=0.3125, pid=70, program=b"curl\xff",
)  # fmt: skip
"""Each field has a value of its own."""

RULE = EgressRule(host="*.example.com", ports=(PortRange(low=443, high=443),))

IDENTITY = "AGE-SECRET-KEY-1F5VEZRMLWWA6PU7J259PSWA3N7F5ZVWF89KKDWLPEGTRHUJJQ2ASCZH5MM"
RECIPIENT = "age1fn4xrkhun9x6kflu55w438zne89xsaxhmpvzcuq9a42zl2d7l4wqdnajw7"
"""A key pair for tests alone."""

CALLER = Caller(name="tester", transport="unix", uid=1000, gid=1000, pid=4242)
FULL = Capture(mode="full")
AS_IT_IS = Redact(off="Tests look for the very bytes.")
HOST = {"kernel": "6.1.0", "hostname": "host.example.com"}


def make_profile(
    *,
    stdin: Capture = FULL,
    stdout: Capture = FULL,
    stderr: Capture = FULL,
    name: str = "python",
    mode: str = "enforce",
    egress: tuple[EgressRule, ...] = (),
    redact: Redact = AS_IT_IS,
) -> EffectiveProfile:
    """Give a profile that records as said."""
    canonical = f'{{"profile":"{name}"}}'.encode()
    return EffectiveProfile(
        name=name,
        lineage=("base", name),
        why="Tests.",
        require=(),
        runtime="runc",
        image=Image(kind=ImageKind.HOST),
        read=(),
        write=(),
        syscalls=SyscallPolicy(
            allow=frozenset({"read"}), kill=frozenset(), sets=frozenset({"@basic-io"})
        ),
        env={},
        limits=Limits(
            wall_s=60, cpu_s=30, memory_bytes=1 << 29, pids=64, files=256, output_bytes=1 << 24
        ),
        record=RecordPolicy(stdin=stdin, stdout=stdout, stderr=stderr, redact=redact),
        mode=mode,
        canonical=canonical,
        digest=hashlib.sha256(canonical).hexdigest(),
        lines=(),
        egress=egress,
    )


def make_request(request_id: str = "request-1", **changes: Any) -> CallRequest:
    """Give a request for `true`."""
    return replace(CallRequest(request_id=request_id, profile="python", argv=(b"true",)), **changes)


def make_finished(outcome: Outcome | None = None, **changes: Any) -> Finished:
    """Give what the engine knows at the end of a call."""
    finished = Finished(
        outcome=outcome or Exited(code=0),
        timeline=Timeline(accepted_ns=1, preparing_ns=2, started_ns=3, ended_ns=4, destroyed_ns=5),
        streams=(),
        outputs=(),
        skipped=(),
        usage=Usage(cpu_user_s=0.25, cpu_system_s=0.5, memory_peak_bytes=4096, pids_peak=2),
        denials=0,
    )
    return replace(finished, **changes)


class Clock:
    """A clock that goes on by a microsecond with each look."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        self.now_ns += 1000
        return self.now_ns


@contextlib.asynccontextmanager
async def opened(
    directory: Path, options: JournalOptions | None = None, **more: Any
) -> AsyncIterator[Store]:
    """Have a store open in `directory`."""
    store = Store.open(directory, clock_ns=Clock(), options=options, **more)
    try:
        yield store
    finally:
        await store.close()


async def begin(
    store: Store,
    call_id: str = "call-1",
    *,
    profile: EffectiveProfile | None = None,
    secrets: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> CallRecorder:
    """Begin a call, with a request id that follows from its id."""
    request = make_request(f"request-of-{call_id}", **changes)
    profile = profile or make_profile()
    return await store.begin(call_id, CALLER, request, profile, HOST, secrets)
