"""How sinks do, one in a row."""

from __future__ import annotations

import asyncio

from supervisor.client.sinks import sink
from supervisor.console import sinks
from supervisor.v1 import export_pb2
from tests.unit.client import fake_daemon as fake
from tests.unit.console.site import FakeReader, served


def test_no_sinks_is_said() -> None:
    section = sinks.told([])
    assert (section.rows, section.notes) == ([], ["no sinks: the record stays on this host"])


def test_a_row_for_each() -> None:
    failing = fake.sink(
        status=export_pb2.SINK_STATUS_FAILING, why="connection refused", lag_entries=7,
        lag_bytes=2048, retries=3, acknowledged=0,
    )  # fmt: skip
    failing.lag.FromSeconds(75)
    failing.ClearField("acknowledged_at")
    restarted = fake.sink(name="restarted")
    restarted.ClearField("acknowledged_at")
    section = sinks.told([sink(failing), sink(fake.sink(name="file")), sink(restarted)])
    first, second, third = section.rows
    assert first == (
        "siem", "syslog", "ocsf", "failing", 7, "2.0 KiB", "1m15s", "never", 3, "",
        "connection refused",
    )  # fmt: skip
    assert second[6:8] == ("", "2023-11-14 22:13:20Z")
    assert third[7] == ""
    assert len(section.columns) == len(first)
    assert not section.notes


def test_the_page_asks_the_daemon() -> None:
    async def main() -> None:
        async with served(FakeReader()) as (browser, reader):
            answer = await browser.ask("/sinks")
            assert answer.status == 200
            assert "sinks" in reader.asked
            assert "why &lt;b&gt;" in answer.body and "<b>" not in answer.body

    asyncio.run(main())
