"""Batches of what processes did: none too large for an entry, none lost, and a budget of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.api.messages import call_event
from supervisor.audit.codec import processes_to_json
from supervisor.audit.entry import NO_LEAF, Head, Kind, encode_entry, marked
from supervisor.bpf import layout
from supervisor.bpf.decode import ArgvRecord, ExecRecord, ExitRecord
from supervisor.bpf.watch import Process
from supervisor.call.events import (
    CallEvent,
    Lost,
    MoreArgv,
    ProcessEnded,
    Processes,
    ProcessEvent,
    ProgramStarted,
)
from supervisor.client.address import MESSAGE_BYTES_MAX
from supervisor.sandbox.batches import BATCH_BYTES_MAX, Budget, batches

ABI = (Path(__file__).parents[3] / "probes/include/abi.h").read_text()
PATH_BYTES, ARGV_BYTES, CHUNK_BYTES = (
    int(ABI.partition(f"#define {name}_BYTES ")[2].split()[0]) for name in ("PATH", "ARGV", "CHUNK")
)
BASE = 1_879_048_192
HIGH = 2**63 - 1
WORST_HEAD = Head(
    index=HIGH, prev=NO_LEAF, time_ns=HIGH, kind=Kind.PROCESSES, call="c" * 64, sequence=HIGH
)
FILLS = {
    "not UTF-8": b"\xff",
    "control characters": b"\x01",
    "DEL": b"\x7f",
    "quotes": b'"',
    "backslashes": b"\\",
    "two bytes": "é".encode(),
    "three bytes": "€".encode(),
    "four bytes": "\U0001f600".encode(),
    "one byte each": b"\xff\0",
    "two bytes each": b"\xff\xff\0",
    "one control character each": b"\x01\0",
    "empty": b"\0",
}


def filled(fill: bytes, size: int) -> bytes:
    return (fill * size)[:size]


def program(
    sequence: int = 1, *, path: bytes = b"/usr/bin/sh", directory: bytes = b"/", argv: bytes = b""
) -> ExecRecord:
    return ExecRecord(
        sequence=sequence, call=5, time_ns=0, pid=2**31 - 1, parent_pid=2**31 - 1,
        uid=2**32 - 1, gid=2**32 - 1, path=path, directory=directory, argv=argv,
        argv_bytes=2**32 - 1,
        cut=layout.CUT_PATH | layout.CUT_DIRECTORY | layout.CUT_ARGV,
    )  # fmt: skip


def piece(sequence: int, data: bytes) -> ArgvRecord:
    return ArgvRecord(
        sequence=sequence, call=5, time_ns=0, pid=2**31 - 1, offset=2**32 - 1, data=data
    )


def end(sequence: int) -> ExitRecord:
    return ExitRecord(
        sequence=sequence, call=5, time_ns=0, pid=2**31 - 1, parent_pid=2**31 - 1, status=9,
        user_ns=HIGH, system_ns=HIGH, memory_peak_bytes=HIGH,
    )  # fmt: skip


def written(records: Sequence[Process]) -> list[ProcessEvent]:
    """Encode each batch as the record and as the API does; give all events of them."""
    events: list[ProcessEvent] = []
    for batch, size in batches(records, BASE, HIGH // 2):
        entry = encode_entry(WORST_HEAD, marked(processes_to_json(batch), "observe"))
        assert size <= BATCH_BYTES_MAX
        assert len(entry) < size + 400
        told = CallEvent(call_id="c" * 64, sequence=HIGH, time_ns=HIGH, event=batch)
        assert call_event(told).ByteSize() < MESSAGE_BYTES_MAX
        events += batch.events
    return events


def argv_of(events: Sequence[ProcessEvent]) -> list[bytes]:
    """Put the argv of each program together again, as bytes with NULs."""
    found: list[bytes] = []
    for event in events:
        if isinstance(event, ProgramStarted):
            found.append(b"\0".join(event.argv))
        elif isinstance(event, MoreArgv):
            # A NUL right before it ended the argument before.
            found[-1] = found[-1].ljust(event.offset, b"\0") + event.data
    return found


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_no_batch_of_starts_is_too_large(fill: bytes) -> None:
    argv = filled(fill, ARGV_BYTES)
    events = written([program(n, argv=argv) for n in range(40)])
    assert argv_of(events) == [argv.removesuffix(b"\0")] * 40


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("deep", [b"\x01", b"\xff", b'"'])
def test_not_one_start_is_too_large(fill: bytes, deep: bytes) -> None:
    path = filled(deep, PATH_BYTES)
    argv = filled(fill, ARGV_BYTES)
    one = program(path=path, directory=path, argv=argv)
    events = written([one])
    start = events[0]
    assert isinstance(start, ProgramStarted)
    assert (start.path, start.directory, start.argv_bytes) == (path, path, one.argv_bytes)
    [told] = argv_of(events)
    assert told.ljust(ARGV_BYTES, b"\0") == argv


def test_one_start_that_needs_two_events() -> None:
    path, argv = b"\x01" * PATH_BYTES, b"\xff\0" * (ARGV_BYTES // 2)
    start, more = written([program(path=path, directory=path, argv=argv)])
    assert isinstance(start, ProgramStarted)
    assert isinstance(more, MoreArgv)
    assert (more.offset, more.pid) == (256, start.pid)
    assert len(start.argv) == 128
    assert more.data == argv[256:]


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_no_batch_of_more_argv_is_too_large(fill: bytes) -> None:
    data = filled(fill, CHUNK_BYTES)
    events = written([piece(n, data) for n in range(20)])
    assert [event.data for event in events if isinstance(event, MoreArgv)] == [data] * 20


def test_no_batch_of_ends_is_too_large() -> None:
    events = written([end(n) for n in range(2000)])
    assert sum(isinstance(event, ProcessEnded) for event in events) == 2000


def test_small_events_share_an_entry() -> None:
    [(batch, _)] = batches([end(2), piece(3, b"x"), program(1)], BASE, 0)
    assert [type(event) for event in batch.events] == [ProgramStarted, ProcessEnded, MoreArgv]


def one_batch(*events: Process) -> tuple[Processes, int]:
    [one] = batches(events, BASE, 0)
    return one


def test_a_budget_ends_at_one_place_and_counts_from_there() -> None:
    large, size = one_batch(program(1), piece(2, b"x" * 4096), end(3))
    small, less = one_batch(end(4))
    budget = Budget(2 * size + less)
    assert budget.takes(large, size)
    assert budget.takes(large, size)
    assert not budget.over
    assert not budget.takes(large, size)
    assert not budget.takes(small, less)
    assert set(budget.lost()) == {
        Lost(what="exec", count=1, reason="RECORD_BUDGET"),
        Lost(what="argv", count=1, reason="RECORD_BUDGET"),
        Lost(what="exit", count=2, reason="RECORD_BUDGET"),
    }
    assert list(budget.lost()) == []
    assert not budget.takes(small, less)
    assert list(budget.lost()) == [Lost(what="exit", count=1, reason="RECORD_BUDGET")]
