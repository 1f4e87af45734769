"""How sinks do, one in a row."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from supervisor.console import sinks


@dataclass(frozen=True)
class Sink:
    name: str = "siem"
    kind: str = "syslog"
    format: str = "ocsf"
    status: str = "failing"
    why: str = "connection refused"
    acknowledged_at_ns: int = 0
    lag_entries: int = 7
    lag_bytes: int = 2048
    lag_s: float = 75.0
    retries: int = 3
    dead_letters: int = 0


def test_no_sinks_is_said() -> None:
    section = asyncio.run(sinks.section(cast("Any", None)))
    assert (section.rows, section.notes) == ([], ["no sinks: the record stays on this host"])


def test_a_row_for_each() -> None:
    section = sinks.told([Sink(), Sink(name="file", acknowledged_at_ns=10**18, lag_s=0)])
    first, second = section.rows
    assert first == (
        "siem", "syslog", "ocsf", "failing", 7, "2.0 KiB", "1m15s", "never", 3, "",
        "connection refused",
    )  # fmt: skip
    assert second[6:8] == ("", "2001-09-09 01:46:40Z")
    assert len(section.columns) == len(first)
    assert not section.notes
