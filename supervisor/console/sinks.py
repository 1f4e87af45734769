"""How the sinks do that the record is sent to."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.cli import output as out
from supervisor.cli.sections import Section
from supervisor.client import Sink
from supervisor.console.reader import Reader

COLUMNS = (
    "SINK", "TYPE", "FORMAT", "STATE", "BEHIND", "BYTES", "OLDEST", "ACKNOWLEDGED", "RETRIES",
    "DEAD LETTERS", "WHY",
)  # fmt: skip


async def section(reader: Reader) -> Section:
    """Ask how all sinks do."""
    return told(await reader.sinks())


def told(sinks: Iterable[Sink]) -> Section:
    """Give a row for each sink."""
    rows = [
        (
            one.name,
            one.kind,
            one.format,
            one.status,
            one.lag_entries,
            out.size(one.lag_bytes),
            out.age(one.lag_s) if one.lag_s else "",
            out.moment(one.acknowledged_at_ns) or ("" if one.acknowledged else "never"),
            one.retries or "",
            one.dead_letters or "",
            one.why,
        )
        for one in sinks
    ]
    notes = [] if rows else ["no sinks: the record stays on this host"]
    return Section(title="sinks", columns=COLUMNS, rows=rows, notes=notes)
