"""A record as the daemon gives it, for the tests of what is shown of one."""

from __future__ import annotations

import json
from typing import Any

from supervisor.client import Record, wire
from supervisor.v1 import audit_pb2, tool_pb2, types_pb2
from tests.unit.client import fake_daemon as fake

MS = 1_000_000


def response(*, evil: str = "", live: bool = False) -> audit_pb2.GetRecordResponse:
    """Make the record of one call; `evil` stands wherever a program or a caller chose the text."""
    finished = fake.finish(
        streams=[fake.summary(b"42\n")],
        denials=3,
        outputs=[types_pb2.OutputFile(path=b"chart.png" + evil.encode(), digest=fake.blob(b"x"))],
        skipped=[types_pb2.SkippedFile(path=b"link", reason="NOT_REGULAR")],
    )
    bodies: list[tuple[str, dict[str, Any]]] = [
        (
            "intent",
            {
                "profile": {"mode": "enforce"},
                "host": {"kernel": "6.1"},
                "request": {
                    "argv": ["python3", "-c", "print(6*7)" + evil],
                    "env": {"A": "1" + evil},
                    "working_directory": "/work",
                    "files": [
                        {"path": "in.csv", "size_bytes": 3, "sha256": "ee" * 32, "mode": 0o644}
                    ],
                    "outputs": ["*.png"],
                    "timeout_s": 5,
                },
            },
        ),
        ("started", {"preparation_s": 0.02}),
        ("output", {"stream": "stdout", "offset": 0, "length": 1024}),
        ("output", {"stream": "stdout", "offset": 1024, "length": 1024}),
        ("output", {"stream": "stderr", "offset": 0, "length": 10}),
        (
            "denied",
            {
                "wall": "syscall",
                "name": "unshare",
                "arguments": [0x10000000, 0],
                "detail": "",
                "pid": 7,
                "program": "py" + evil,
                "count": 3,
                "rule": "syscalls",
                "used": 0,
                "allowed": 0,
            },
        ),
        ("signal", {"by": "ann", "signal": 15, "why": "enough" + evil}),
        ("outcome", {"outcome": {"kind": "exited", "code": 0}}),
    ]
    call = fake.call(argv=[b"python3" + evil.encode()])
    if not live:
        call.finished.CopyFrom(finished)
        call.state = types_pb2.CALL_STATE_CLOSED
    entries = []
    for sequence, (kind, body) in enumerate(bodies[: -1 if live else None], 1):
        raw = json.dumps({"body": body, "call": fake.CALL_ID, "kind": kind}).encode()
        entry = audit_pb2.RecordEntry(
            index=sequence, sequence=sequence, kind=kind, json=raw, leaf=fake.blob(raw)
        )
        entry.time.FromNanoseconds(fake.START_NS + sequence * 1_000_000)
        entries.append(entry)
    return audit_pb2.GetRecordResponse(call=call, entries=entries)


def record(**options: Any) -> Record:
    """Make it as the client gives it."""
    made = response(**options)
    return Record(
        call=wire.call(made.call), entries=tuple(wire.entry(entry) for entry in made.entries)
    )


def written_response(
    *entries: tuple[int, str, dict[str, Any]], finished: tool_pb2.Finished | None = None
) -> audit_pb2.GetRecordResponse:
    """Make the record of one call with these entries: milliseconds, kind and body of each."""
    made = audit_pb2.GetRecordResponse(call=fake.call(finished=finished))
    for sequence, (at_ms, kind, body) in enumerate(entries, 1):
        raw = json.dumps({"body": body}).encode()
        entry = made.entries.add(
            index=sequence, sequence=sequence, kind=kind, json=raw, leaf=fake.blob(raw)
        )
        entry.time.FromNanoseconds(fake.START_NS + at_ms * MS)
    return made


def written(*entries: tuple[int, str, dict[str, Any]]) -> Record:
    """Make it as the client gives it."""
    made = written_response(*entries)
    return Record(
        call=wire.call(made.call), entries=tuple(wire.entry(entry) for entry in made.entries)
    )
