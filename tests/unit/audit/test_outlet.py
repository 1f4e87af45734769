"""The log for who exports it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from unittest import mock

from supervisor.audit.journal import JournalOptions
from supervisor.audit.outlet import PATIENCE_S, Outlet
from supervisor.audit.segment import MAGIC
from supervisor.audit.store import Store
from tests.support.records import begin, make_finished, opened


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def outlet_of(store: Store, clock: Clock) -> Outlet:
    return Outlet(store._journal, store._tree, store.records, clock)


def test_what_leaves_is_signed_or_has_waited(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            clock = Clock()
            outlet = outlet_of(store, clock)
            first = outlet.durable()
            with mock.patch.object(store._tree, "publish"):
                for number in range(5):
                    await store.note("bench", {"number": number})
                assert store._journal.settled == first + 5
                assert outlet.durable() == first == outlet.head()[0]
                assert outlet.signing() == (first + 5, first, False)
                clock.now += PATIENCE_S - 0.1
                assert outlet.durable() == first
                clock.now += 0.2
                assert outlet.durable() == first + 5
            store._tree.publish()
            assert outlet.durable() == first + 5 == outlet.head()[0]
            await store.note("bench", {})
            assert outlet.durable() >= first + 5

    asyncio.run(main())


def test_segments_and_the_begin_of_a_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            outlet = outlet_of(store, Clock())
            recorder = await begin(store, "call-1")
            index, time_ns, body = outlet.opening("call-1") or (0, 0, {})
            assert index == store.records.intent("call-1").index
            assert time_ns and body["caller"]
            await recorder.finish(make_finished())
            assert outlet.opening("call-1") == (index, time_ns, body)
            assert outlet.opening("nobody") is None
            fd = outlet.open(outlet.firsts()[0])
            assert os.pread(fd, len(MAGIC), 0) == MAGIC
            os.close(fd)

    asyncio.run(main())


def test_what_lies_behind_a_place_in_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, options=JournalOptions(segment_bytes=4096)) as store:
            outlet = outlet_of(store, Clock())
            before = store._journal.tail
            for number in range(40):
                await store.note("bench", {"number": number, "more": "x" * 200})
            tail = store._journal.tail
            assert tail.segment > before.segment
            assert 40 * 200 < outlet.beyond(before.segment, before.offset) < 40 * 600
            assert outlet.beyond(tail.segment, tail.offset - 7) == 7
            assert outlet.beyond(tail.segment, tail.offset) == 0

    asyncio.run(main())


def test_the_first_entry_since_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        now = [start := 2_000_000_000_000_000_000]
        async with opened(tmp_path, options=JournalOptions(segment_bytes=4096)) as store:
            store.own._clock_ns = lambda: now[0]
            outlet = outlet_of(store, Clock())
            first = store._journal.head[0]
            for number in range(40):
                now[0] += 10
                await store.note("bench", {"number": number, "more": "x" * 200})
            assert len(outlet.firsts()) > 3
            found = [outlet.since(start + 10 + 10 * number) for number in range(40)]
            assert found == list(range(first, first + 40))
            assert outlet.since(0) == 0
            assert outlet.since(start + 1) == outlet.since(start + 10) == first
            assert outlet.since(now[0] + 1) is None
            for entry in (first, first + 17, first + 39):
                assert outlet.told(entry) == ("bench", "")
            recorder = await begin(store, "call-1")
            await recorder.finish(make_finished())
            assert outlet.told(store.records.intent("call-1").index) == ("intent", "call-1")
            assert outlet.told(10_000) == ("", "")

    asyncio.run(main())
