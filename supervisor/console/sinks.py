"""How the sinks do that the record is sent to."""

from __future__ import annotations

from supervisor.cli.sections import Section
from supervisor.console.reader import Reader

COLUMNS = ("SINK", "RUNS", "ACKNOWLEDGED", "DEAD LETTERS", "WHY")


async def section(reader: Reader) -> Section:
    """Give a row for each sink."""
    rows: list[tuple[object, ...]] = []  # ExportService.ListSinks tells them, once there is one
    notes = [] if rows else ["no sinks: the record stays on this host"]
    return Section(title="sinks", columns=COLUMNS, rows=rows, notes=notes)
