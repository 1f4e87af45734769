"""What is told of a record, as data: titles, named values and tables, for whoever shows them.

Nothing in here is safe to print yet; `show` and the console see to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.cli import output as out

Row = Sequence[object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part: named values, or a table, and what is to be said below it."""

    title: str
    fields: Sequence[tuple[str, object]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Row] = ()
    notes: Sequence[str] = ()

    @property
    def given(self) -> Sequence[tuple[str, object]]:
        """Give the named values that there are."""
        return [(name, value) for name, value in self.fields if value not in ("", None)]


def show(section: Section) -> None:
    """Print a section below others."""
    out.heading("")
    show_first(section)


def show_first(section: Section) -> None:
    """Print a section."""
    out.heading(section.title)
    for name, value in section.fields:
        out.field(name, value)
    if section.columns:
        out.table(section.columns, section.rows)
    for note in section.notes:
        out.heading(note)
