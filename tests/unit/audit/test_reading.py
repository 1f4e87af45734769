"""Reading the log back, and bringing the index up to date from it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from supervisor.audit.account import REQUEST_INLINE_BYTES_MAX
from supervisor.audit.entry import Kind, Position, mark_of_call
from supervisor.audit.index import LowWater
from supervisor.audit.journal import JournalOptions
from supervisor.audit.reading import low_water_of, read_call, read_entry, read_log, read_payloads
from supervisor.audit.search import CallFilter
from supervisor.audit.segment import MAGIC
from supervisor.audit.store import Store
from supervisor.call.events import Denied, Processes, Wall
from supervisor.call.outcome import TimedOut
from supervisor.call.types import Correlation, Digest, InputFile, OutputFile, Stream
from supervisor.errors import AuditCorrupt
from tests.support.records import (
    CALLER,
    FLOW,
    PROCESSES,
    WATCHED,
    begin,
    make_finished,
    make_request,
    opened,
)

START = Position(segment=0, offset=len(MAGIC))
LOW = LowWater(position=START, leaf="")
SMALL = JournalOptions(segment_bytes=2000, linger_s=60.0)


async def fill(store: Store, calls: int) -> None:
    for number in range(calls):
        recorder = await begin(store, f"call-{number}")
        recorder.output(Stream.STDOUT, b"x" * 10)
        await recorder.finish(make_finished())


def test_reading_begins_anywhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, SMALL) as store:
            await fill(store, 6)
            journal = store._journal
            assert len(journal.segments) > 2
            entries = list(read_log(journal, START))
            for number, entry in enumerate(entries):
                assert read_entry(journal, entry.position) == entry
                assert list(read_log(journal, entry.position)) == entries[number:]

    asyncio.run(scenario())


def test_payloads_from_any_entry_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, JournalOptions(segment_bytes=4000, linger_s=60.0)) as store:
            await fill(store, 6)
            for number in range(20):  # Bodies that look like the head of an entry.
                await store.note("bench", {"a": "", "index": 30 - number, "kind": "", "z": ""})
            journal = store._journal
            assert 2 < len(journal.segments) < 12
            payloads = [entry.json for entry in read_log(journal, START)]
            for index in range(len(payloads) + 2):
                assert list(read_payloads(journal, index)) == payloads[index:]

    asyncio.run(scenario())


def test_payloads_from_an_entry_that_is_damaged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await fill(store, 2)
            entry = list(read_log(store._journal, START))[3]
            path = tmp_path / "log" / "00000000000000000000.seg"
            good = path.read_bytes()
            at = good.index(b'"index":3', entry.position.offset)
            for place in (at + 8, entry.position.offset + 40):
                data = bytearray(good)
                data[place] ^= 1
                path.write_bytes(data)
                with pytest.raises(AuditCorrupt):
                    list(read_payloads(store._journal, 3))
            path.write_bytes(good)

    asyncio.run(scenario())


def test_damage_is_found_while_reading(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await fill(store, 2)
            entry = list(read_log(store._journal, START))[3]
            path = tmp_path / "log" / "00000000000000000000.seg"
            data = bytearray(path.read_bytes())
            data[entry.position.offset + 40] ^= 1
            path.write_bytes(data)
            with pytest.raises(AuditCorrupt) as caught:
                list(read_log(store._journal, START))
            assert caught.value.metadata["index"] == "3"
            data[entry.position.offset + 40] ^= 1
            path.write_bytes(data)

    asyncio.run(scenario())


@pytest.mark.parametrize("lost", ["index.db", "index.db-wal", "garbage"])
def test_the_index_comes_back_from_the_log(lost: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, SMALL) as store:
            await fill(store, 5)
            store.grant_blob(Digest.of(b"x"), "somebody")
            before = store.list_calls(limit=100)
        if lost == "garbage":
            (tmp_path / "index.db").write_bytes(b"no database" * 1000)
        else:
            (tmp_path / lost).unlink(missing_ok=True)
        async with opened(tmp_path, SMALL) as store:
            assert store.list_calls(limit=100) == before
            assert store.may_read_blob(Digest.of(b"x"), "somebody")
            assert not store.may_read_blob(Digest.of(b"x"), "somebody else")

    asyncio.run(scenario())


def test_a_rebuilt_index_finds_what_the_first_one_did(tmp_path: Path) -> None:
    """By each filter: what a live call gathered is what is read from its entries."""
    filters = [
        CallFilter(program="env"),
        CallFilter(program="/usr/bin/env"),
        CallFilter(to="api.example.com:443"),
        CallFilter(to="203.0.113.9:80"),
        CallFilter(denied="mount"),
        CallFilter(denied="network"),
        CallFilter(text="more"),
        CallFilter(text="mount(a)"),
        CallFilter(text="SOCK_STREAM"),
        CallFilter(outcome="timed_out"),
        CallFilter(outcome="not_ok", agent="writer", session="s"),
        CallFilter(outcome="interrupted"),
    ]

    async def scenario() -> None:
        async with opened(tmp_path, SMALL) as store:
            await fill(store, 2)
            recorder = await begin(
                store, "loud", correlation=Correlation(agent="writer", session="s")
            )
            recorder.processes(Processes(events=PROCESSES))
            recorder.tell([FLOW])
            recorder.tell([WATCHED])
            recorder.tell([Denied(wall=Wall.SYSCALL, name="mount", detail="mount(a)")])
            recorder.tell([Denied(wall=Wall.NETWORK, name="connect", detail="203.0.113.9:80 tcp")])
            await recorder.finish(make_finished(TimedOut(limit_s=1), denials=2))
            left = await begin(store, "left")
            left.tell([Denied(wall=Wall.SYSCALL, name="mount")])
        async with opened(tmp_path, SMALL) as store:
            (call,) = store.interrupted
            leftover = Denied(wall=Wall.NETWORK, name="connect", detail="203.0.113.9:80 tcp")
            await store.close_interrupted(call, "gone", events=[leftover])
            before = [store.list_calls(one, limit=9)[0] for one in filters]
            found = [[call.call_id for call in calls] for calls in before]
            assert found == [
                ["loud"], ["loud"], ["loud"], ["left", "loud"], ["left", "loud"],
                ["left", "loud"], ["loud"], ["loud"], ["loud"], ["loud"], ["loud"], ["left"],
            ]  # fmt: skip
        (tmp_path / "index.db").unlink()
        async with opened(tmp_path, SMALL) as store:
            assert [store.list_calls(one, limit=9)[0] for one in filters] == before

    asyncio.run(scenario())


def test_an_index_of_another_log_is_thrown_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "one") as store:
            await fill(store, 3)
        async with opened(tmp_path / "two") as store:
            await fill(store, 1)
            before = store.list_calls(limit=10)
        (tmp_path / "one" / "index.db").rename(tmp_path / "two" / "index.db")
        async with opened(tmp_path / "two") as store:
            assert store.list_calls(limit=10) == before

    asyncio.run(scenario())


def test_the_index_misses_nothing_after_a_crash(tmp_path: Path) -> None:
    """An index that is older than the log reads on from where it was."""

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await fill(store, 2)
        old = (tmp_path / "index.db").read_bytes()
        async with opened(tmp_path) as store:
            recorder = await begin(store, "later")
            recorder.output(Stream.STDOUT, b"abc")
        (tmp_path / "index.db").write_bytes(old)
        async with opened(tmp_path) as store:
            assert [call.call_id for call in store.interrupted] == ["later"]
            assert store.get_call("later").last_sequence == 2

    asyncio.run(scenario())


def test_low_water_is_the_oldest_open_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            one = await begin(store, "one")
            two = await begin(store, "two")
            tail = LowWater(position=Position(segment=0, offset=10_000), leaf="ff")
            assert low_water_of([], tail) == tail
            found = low_water_of([two.intent, one.intent], tail)
            assert found.position == one.intent.position
            assert found.leaf == one.intent.head.prev.hex()
            await one.finish(make_finished())
            await two.finish(make_finished())

    asyncio.run(scenario())


def test_blobs_that_calls_left_behind_are_granted_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            digest = store.blobs.put(b"left behind")
            output = OutputFile(path=b"a", digest=digest, mode=0o644)
            recorder = await begin(store)
            await recorder.finish(make_finished(outputs=(output,)))
        (tmp_path / "index.db").unlink()
        async with opened(tmp_path) as store:
            assert store.may_read_blob(digest, CALLER.name)
            assert not store.may_read_blob(digest, "somebody else")

    asyncio.run(scenario())


def test_what_calls_were_given_is_granted_again(tmp_path: Path) -> None:
    one = InputFile(path=b"a", digest=Digest.of(b"one"), data=b"one")
    two = InputFile(path=b"b", digest=Digest.of(b"two"), data=b"two")
    argv = (b"x" * REQUEST_INLINE_BYTES_MAX,)
    request = Digest.of(make_request("request-of-call-2", argv=argv, files=(two,)).canonical())

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await (await begin(store, files=(one,))).finish(make_finished())
            await (await begin(store, "call-2", argv=argv, files=(two,))).finish(make_finished())
        (tmp_path / "index.db").unlink()
        async with opened(tmp_path) as store:
            for digest in (one.digest, two.digest, request):
                assert store.may_read_blob(digest, CALLER.name)
                assert not store.may_read_blob(digest, "somebody else")
            path = store.blobs.blob_path(request.sha256)
        (tmp_path / "index.db").unlink()
        path.unlink()
        # Of a request that is gone, nothing is granted; the rest is as it was.
        async with opened(tmp_path) as store:
            assert store.may_read_blob(one.digest, CALLER.name)
            assert not store.may_read_blob(two.digest, CALLER.name)

    asyncio.run(scenario())


def test_a_finished_call_among_open_ones_is_not_read_again(tmp_path: Path) -> None:
    """The reading begins at the oldest open call: others that ended meanwhile began before it."""

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            first = await begin(store, "first")
            second = await begin(store, "second")
            second.output(Stream.STDOUT, b"x")
            first.output(Stream.STDOUT, b"x")
            await first.finish(make_finished())
            assert store._index.low_water() == low_water_of([second.intent], LOW)
        async with opened(tmp_path) as store:
            assert [call.call_id for call in store.interrupted] == ["second"]
            assert store.get_call("first").finished is not None

    asyncio.run(scenario())


def test_a_call_without_intent_is_damage(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            store._journal.append(Kind.STARTED, {}, call="ghost", sequence=2, time_ns=1)
        (tmp_path / "index.db").unlink()
        with pytest.raises(AuditCorrupt) as caught:
            Store.open(tmp_path)
        assert caught.value.metadata["call"] == "ghost"

    asyncio.run(scenario())


def test_a_call_is_read_past_the_entries_of_others(tmp_path: Path) -> None:
    """Others have the call's id in their bodies, and frames of every size."""

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            mine = await begin(store, "mine")
            other = await begin(store, "other")
            mark = mark_of_call("mine").decode()
            for number in range(60):
                other.signalled("tester", number, mark * (number % 20))
                await store.note("noise", {"call": "mine", "index": 1, "text": "x" * 60_000})
                if number % 7 == 0:
                    mine.signalled("tester", number, "why")
            await mine.finish(make_finished())
            row = store.records.row("mine")
            assert row is not None
            found = list(read_call(store._journal, row))
            everything = read_log(store._journal, START)
            assert found == [entry for entry in everything if entry.call_id == "mine"]
            assert len(found) == 11
            assert list(read_call(store._journal, row, found[4].position)) == found[:5]
            await other.finish(make_finished())

    asyncio.run(scenario())


@pytest.mark.parametrize("at", ["body of mine", "length of another", "prefix of another"])
def test_damage_on_the_way_is_found(at: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            mine, other = await begin(store, "mine"), await begin(store, "other")
            other.signalled("tester", 1, "x" * 200)
            other.signalled("tester", 2, "x" * 200)
            mine.signalled("tester", 15, "why")
            await mine.finish(make_finished())
            entries = list(read_log(store._journal, START))
            offsets = {
                "body of mine": entries[4].position.offset + 40,
                "length of another": entries[2].position.offset + 3,
                "prefix of another": entries[2].position.offset + 18,
            }
            path = tmp_path / "log" / "00000000000000000000.seg"
            good = path.read_bytes()
            bad = bytearray(good)
            bad[offsets[at]] ^= 4
            path.write_bytes(bad)
            with pytest.raises(AuditCorrupt) as caught:
                list(store.entries("mine"))
            assert caught.value.reason == "CHAIN_BROKEN"
            path.write_bytes(good)
            await other.finish(make_finished())

    asyncio.run(scenario())


def test_an_entry_that_is_missing_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            for kind, sequence in ((Kind.STARTED, 2), (Kind.SIGNAL, 4)):
                store._journal.append(kind, {}, call="call-1", sequence=sequence, time_ns=1)
            row = store.records.row("call-1")
            assert row is not None
            with pytest.raises(AuditCorrupt) as caught:
                list(read_call(store._journal, row))
            assert caught.value.metadata["index"] == "2"
            recorder.recording.close()

    asyncio.run(scenario())
