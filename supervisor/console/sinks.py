"""How the sinks do that the record is sent to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from supervisor.cli import output as out
from supervisor.cli.sections import Section
from supervisor.console.reader import Reader

COLUMNS = (
    "SINK", "TYPE", "AS", "STATE", "LAG", "BYTES", "AGE", "ACKNOWLEDGED", "RETRIES", "DEAD LETTERS",
    "WHY",
)  # fmt: skip


class Sink(Protocol):
    """What is told of one. Of `lag_s` and `acknowledged_at_ns` 0 is not known."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def format(self) -> str: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def why(self) -> str: ...  # noqa: D102
    @property
    def acknowledged_at_ns(self) -> int: ...  # noqa: D102
    @property
    def lag_entries(self) -> int: ...  # noqa: D102
    @property
    def lag_bytes(self) -> int: ...  # noqa: D102
    @property
    def lag_s(self) -> float: ...  # noqa: D102
    @property
    def retries(self) -> int: ...  # noqa: D102
    @property
    def dead_letters(self) -> int: ...  # noqa: D102


async def section(reader: Reader) -> Section:
    """Ask how all sinks do."""
    # `await reader.sinks()`, once the client has it: a daemon cannot be asked for them yet.
    return told(())


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
            out.moment(one.acknowledged_at_ns) or "never",
            one.retries or "",
            one.dead_letters or "",
            one.why,
        )
        for one in sinks
    ]
    notes = [] if rows else ["no sinks: the record stays on this host"]
    return Section(title="sinks", columns=COLUMNS, rows=rows, notes=notes)
