"""The daemon's own entries: durable where something depends on them, and never at calls' cost."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from supervisor.audit.entry import Kind, Position, StoredEntry
from supervisor.audit.journal import JournalOptions
from supervisor.audit.own import OwnFilter
from supervisor.audit.reading import SEGMENTS_A_READ, read_log
from supervisor.audit.segment import MAGIC, segment_name
from supervisor.audit.store import Store
from supervisor.audit.verify import verify
from supervisor.call.events import Denied, Wall
from supervisor.errors import AuditCorrupt, AuditUnavailable, InvalidRequest, InvariantError
from tests.support.records import begin, make_finished, opened

START = Position(segment=0, offset=len(MAGIC))


def kinds(store: Store) -> list[str]:
    return [entry.kind for entry in read_log(store._journal, START)]


def test_they_belong_to_no_call_and_verify(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            entry = store.own.append(Kind.REFUSED, {"reason": "X"})
            assert (entry.call_id, entry.sequence) == ("", 0)
            await store.own.note_read({"rpc": "GetRecord"})
            await recorder.finish(make_finished())
            assert kinds(store) == ["intent", "refused", "read", "outcome"]

    asyncio.run(scenario())
    report = verify(tmp_path)
    assert report.ok
    assert report.calls == 1


@pytest.mark.parametrize("way", ["note", "note_read"])
def test_it_is_durable_before_anybody_goes_on(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            synced: list[int] = []
            real = os.fdatasync

            def watch(fd: int) -> None:
                real(fd)
                synced.append(store._journal.head[0])

            monkeypatch.setattr(os, "fdatasync", watch)
            await (store.own.note_read({}) if way == "note_read" else store.note("own", {}))
            assert synced[-1] == 1

    asyncio.run(scenario())


def test_a_refusal_waits_for_nothing_and_is_durable_soon(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, JournalOptions(linger_s=0.01)) as store:
            store.own.append(Kind.REFUSED, {})
            while store._journal._durable != 1:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_where_no_call_fits_nothing_is_read(tmp_path: Path) -> None:
    """A reader cannot use up what calls need; what the daemon did is still told."""

    async def scenario() -> None:
        async with opened(tmp_path, JournalOptions(free_bytes_min=1 << 60)) as store:
            with pytest.raises(AuditUnavailable) as raised:
                await store.own.note_read({})
            assert raised.value.reason == "RECORD_FULL"
            assert raised.value.retry_after_s
            await store.note("daemon_stopped", {})
            assert kinds(store) == ["daemon_stopped"]

    asyncio.run(scenario())


def test_where_the_disk_fails_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:

            def broken(_fd: int) -> None:
                raise OSError(errno.EIO, "broken")

            monkeypatch.setattr(os, "fdatasync", broken)
            for _ in range(2):
                with pytest.raises(AuditUnavailable) as raised:
                    await store.own.note_read({})
                assert raised.value.reason == "JOURNAL_UNAVAILABLE"
            with pytest.raises(AuditUnavailable):
                store.own.append(Kind.REFUSED, {})

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["outcome", "Read", "", "x" * 33])
def test_no_kind_of_a_call_s(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            with pytest.raises(InvariantError):
                store.own.append(kind, {})
            with pytest.raises(InvariantError):
                await store.note(kind, {})

    asyncio.run(scenario())


def small(segment_bytes: int = 400) -> JournalOptions:
    """Segments of an entry or two."""
    return JournalOptions(segment_bytes=segment_bytes, reserve_bytes=4096, allocate_step_bytes=4096)


async def written(store: Store, count: int) -> None:
    """Write entries of two kinds, and those of a call between them."""
    recorder = await begin(store)
    for number in range(count):
        await store.note("policy" if number % 3 == 0 else "read", {"number": number})
        recorder.tell([Denied(wall=Wall.SYSCALL, name='"call":"","index":', count=1)])
    await recorder.finish(make_finished())


def all_pages(store: Store, wanted: OwnFilter, limit: int) -> tuple[list[StoredEntry], int]:
    found: list[StoredEntry] = []
    token, pages = "", 0
    while token or not pages:
        page, token = store.own.find(wanted, limit=limit, token=token)
        assert len(page) <= limit
        found += page
        pages += 1
    return found, pages


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
@pytest.mark.parametrize("segment_bytes", [400, 64 << 20])
def test_all_of_them_newest_first_whatever_the_pages(
    limit: int, segment_bytes: int, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, small(segment_bytes)) as store:
            await written(store, 20)
            assert (len(store._journal.segments) > SEGMENTS_A_READ) == (segment_bytes == 400)
            found, _ = all_pages(store, OwnFilter(), limit)
            assert [entry.body()["number"] for entry in found] == list(range(20))[::-1]
            assert {entry.call_id for entry in found} == {""}
            policies, _ = all_pages(store, OwnFilter(kind="policy"), limit)
            assert [entry.body()["number"] for entry in policies] == [18, 15, 12, 9, 6, 3, 0]
            middle = found[10].time_ns
            since, _ = all_pages(store, OwnFilter(since_ns=middle), limit)
            until, _ = all_pages(store, OwnFilter(until_ns=middle), limit)
            assert [*since, *until] == found
            assert since[-1] == found[10]

    asyncio.run(scenario())


def test_a_read_looks_through_so_many_segments_at_a_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, small()) as store:
            await written(store, 20)
            found, pages = all_pages(store, OwnFilter(kind="refused"), 100)
            assert not found
            assert pages == -(-len(store._journal.segments) // SEGMENTS_A_READ)

    asyncio.run(scenario())


def test_an_empty_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            assert store.own.find(OwnFilter(), limit=5, token="") == ([], "")
            last = "0"
            assert store.own.find(OwnFilter(), limit=5, token=last) == ([], "")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("wanted", "token", "reason"),
    [
        (OwnFilter(kind="outcome"), "", "FILTER_INVALID"),
        (OwnFilter(kind="No such"), "", "FILTER_INVALID"),
        (OwnFilter(call="../x"), "", "FILTER_INVALID"),
        (OwnFilter(since_ns=2, until_ns=1), "", "FILTER_INVALID"),
        (OwnFilter(caller="x" * 4097), "", "FILTER_INVALID"),
        (OwnFilter(), "x", "PAGE_TOKEN_INVALID"),
        (OwnFilter(), "-1", "PAGE_TOKEN_INVALID"),
        (OwnFilter(), "9" * 21, "PAGE_TOKEN_INVALID"),
    ],
)
def test_what_cannot_be_looked_for(
    wanted: OwnFilter, token: str, reason: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            with pytest.raises(InvalidRequest) as raised:
                store.own.find(wanted, limit=5, token=token)
            assert raised.value.reason == reason

    asyncio.run(scenario())


def test_damage_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await store.note("policy", {"marker": "here"})
            segment = tmp_path / "log" / segment_name(0)
            segment.write_bytes(segment.read_bytes().replace(b"here", b"gone"))
            with pytest.raises(AuditCorrupt):
                store.own.find(OwnFilter(), limit=5, token="")

    asyncio.run(scenario())


def test_by_call_and_by_caller(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            call, me = "0" * 26, {"name": "me", "pid": 1}
            for kind, body in (
                ("read", {"caller": me, "of": {"call": call}}),
                ("refused", {"caller": "you", "asked": {"call_id": call}}),
                ("removed", {"calls": [call, "1" * 26]}),
                ("held", {"call": call, "caller": "me", "why": "x"}),
                ("held", {"call": "1" * 26, "caller": "you", "why": f"{call} and me"}),
                ("refusals_dropped", {"of": [{"who": "me"}]}),
            ):
                store.own.append(kind, body)

            def found(**wanted: str) -> list[int]:
                entries, _ = store.own.find(OwnFilter(**wanted), limit=9, token="")  # type: ignore[arg-type]
                return [entry.index for entry in entries]

            assert found(call=call) == [3, 2, 1, 0]
            assert found(call="1" * 26) == [4, 2]
            assert found(caller="me") == [5, 3, 0]
            assert found(caller="me", call=call, kind="held") == [3]
            assert found(caller="m") == []

    asyncio.run(scenario())
