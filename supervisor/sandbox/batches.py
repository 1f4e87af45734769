"""What processes did, in batches that an entry of the record holds, up to a call's budget of them.

Sizes are those of the JSON that the record will write: a byte of argv may take nine there, and a
sandbox chooses its bytes.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from dataclasses import replace

from supervisor.audit.codec import process_bytes, process_kind
from supervisor.bpf import layout
from supervisor.bpf.decode import ArgvRecord, ExecRecord, ExitRecord
from supervisor.bpf.watch import Process
from supervisor.call.events import (
    Lost,
    MoreArgv,
    ProcessEnded,
    Processes,
    ProcessEvent,
    ProgramStarted,
)
from supervisor.oci.spec import ID_RANGE

BATCH_BYTES_MAX = 60_000
"""Of the events of one `processes` entry; what is around them takes less than the rest of it."""

ARGV_BYTES_MIN = 256
"""What stays of the argv in an event of two paths so long that all of it does not fit."""

BUDGET_BYTES = 128 << 20
"""Of `processes` entries that one call may write: more than 200 000 small programs."""

BUDGET_REASON = "RECORD_BUDGET"


class Budget:
    """What a call may still write of what its processes did; from the first batch on that there is
    no room for, events are counted instead."""

    def __init__(self, bytes_max: int = BUDGET_BYTES) -> None:
        self._left = bytes_max
        self.over: collections.Counter[str] = collections.Counter()

    def takes(self, batch: Processes, size: int) -> bool:
        """Take a batch off the budget, or count its events where there is no room."""
        if size <= self._left:
            self._left -= size
            return True
        self._left = 0
        self.over.update(process_kind(event) for event in batch.events)
        return False

    def lost(self) -> Iterator[Lost]:
        """Give what was counted since this was asked last."""
        over, self.over = self.over, collections.Counter()
        for what, count in over.items():
            yield Lost(what=what, count=count, reason=BUDGET_REASON)


def batches(
    records: Iterable[Process], uid_base: int, offset_ns: int
) -> Iterator[tuple[Processes, int]]:
    """Give the records in pieces that an entry of the record can hold, each with its size, ordered
    by number: two processors may have written theirs the other way round."""
    batch: list[ProcessEvent] = []
    size = 0
    for record in sorted(records, key=lambda record: record.sequence):
        for event, length in _fitting(record, uid_base, offset_ns):
            if batch and size + length > BATCH_BYTES_MAX:
                yield Processes(events=tuple(batch)), size
                batch, size = [], 0
            batch.append(event)
            size += length
    if batch:
        yield Processes(events=tuple(batch)), size


def _fitting(record: Process, uid_base: int, offset_ns: int) -> Iterator[tuple[ProcessEvent, int]]:
    """Give a record as events that fit into an entry, each with its size. Where all of a start does
    not, the rest of its argv follows, as what the kernel had no room for does."""
    event = _event(record, uid_base, offset_ns)
    size = process_bytes(event)
    if size <= BATCH_BYTES_MAX or not isinstance(record, ExecRecord):
        yield event, size
        return
    beginning, rest = record.argv[:ARGV_BYTES_MIN], record.argv[ARGV_BYTES_MIN:]
    event = _event(replace(record, argv=beginning), uid_base, offset_ns)
    yield event, process_bytes(event)
    more = MoreArgv(
        time_ns=record.time_ns + offset_ns, pid=record.pid, offset=len(beginning), data=rest
    )
    yield more, process_bytes(more)


def _event(record: Process, uid_base: int, offset_ns: int) -> ProcessEvent:
    match record:
        case ExecRecord():
            return _started(record, uid_base, offset_ns)
        case ArgvRecord():
            return MoreArgv(
                time_ns=record.time_ns + offset_ns,
                pid=record.pid,
                offset=record.offset,
                data=record.data,
            )
        case ExitRecord():
            return ProcessEnded(
                time_ns=record.time_ns + offset_ns,
                pid=record.pid,
                parent_pid=record.parent_pid,
                code=record.status >> 8 & 0xFF,
                signal=record.status & 0x7F,
                cpu_user_s=record.user_ns / 1e9,
                cpu_system_s=record.system_ns / 1e9,
                memory_peak_bytes=record.memory_peak_bytes,
            )


def _started(record: ExecRecord, uid_base: int, offset_ns: int) -> ProgramStarted:
    cut = {
        "path": record.cut & layout.CUT_PATH,
        "directory": record.cut & layout.CUT_DIRECTORY,
        "argv": record.cut & layout.CUT_ARGV,
    }
    return ProgramStarted(
        time_ns=record.time_ns + offset_ns,
        pid=record.pid,
        parent_pid=record.parent_pid,
        uid=_inside(record.uid, uid_base),
        gid=_inside(record.gid, uid_base),
        path=record.path,
        directory=record.directory,
        argv=tuple(record.argv.removesuffix(b"\0").split(b"\0")) if record.argv else (),
        argv_bytes=record.argv_bytes,
        cut=tuple(name for name, bit in cut.items() if bit),
    )


def _inside(number: int, uid_base: int) -> int:
    """Give a sandbox's own id for a host's; ids that are not its own stay as they are."""
    return number - uid_base if 0 <= number - uid_base < ID_RANGE else number
