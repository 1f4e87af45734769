"""The facade: a call from INTENT to OUTCOME, refusals, and what is left in memory."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from supervisor.audit import index as index_module
from supervisor.audit import journal as journal_module
from supervisor.audit.checkpoints import Receipt
from supervisor.audit.entry import Kind, leaf_hash
from supervisor.audit.index import LowWater
from supervisor.audit.journal import JournalOptions
from supervisor.audit.store import Store
from supervisor.audit.tree import LogTree
from supervisor.audit.verify import verify
from supervisor.call.events import Denied, Finished, Output, Wall
from supervisor.call.outcome import Failed
from supervisor.call.types import Digest, OutputFile, Stream
from supervisor.errors import (
    AuditCorrupt,
    AuditUnavailable,
    CallStateError,
    CapacityError,
    InvariantError,
    NotFound,
    StockadeError,
)
from tests.support.descriptors import no_descriptors
from tests.support.records import (
    CALLER,
    begin,
    make_finished,
    make_profile,
    make_request,
    opened,
)


def test_a_call_is_known_from_intent_to_outcome(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            recorder.tell([Denied(wall=Wall.SYSCALL, name="mount", count=4)])
            live = store.get_call("call-1")
            assert (live.last_sequence, live.denials, live.finished) == (2, 4, None)
            assert store.list_calls(limit=10) == ([live], "")
            fingerprint = make_request("request-of-call-1").fingerprint()
            assert store.find_request(CALLER.name, "request-of-call-1") == ("call-1", fingerprint)
            done = (await recorder.finish(make_finished(denials=4))).event
            summary = store.get_call("call-1")
            assert summary.finished == done
            assert summary.last_sequence == 3
            assert store.find_request(CALLER.name, "request-of-call-1") == ("call-1", fingerprint)

    asyncio.run(scenario())


def test_intent_is_durable_before_begin_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            synced: list[int] = []
            real = os.fdatasync

            def watch(fd: int) -> None:
                real(fd)
                synced.append(store._journal.head[0])

            monkeypatch.setattr(os, "fdatasync", watch)
            recorder = await begin(store)
            assert synced[-1] == recorder.intent.index + 1

    asyncio.run(scenario())


def test_the_recording_is_durable_before_the_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            recorder.output(Stream.STDOUT, b"x")
            synced: list[tuple[str, int]] = []
            real = os.fdatasync

            def watch(fd: int) -> None:
                real(fd)
                name = Path(f"/proc/self/fd/{fd}").readlink().parent.name
                synced.append((name, store._journal.head[0]))

            monkeypatch.setattr(os, "fdatasync", watch)
            await recorder.finish(make_finished())
            assert synced == [("part", 2), ("log", 3)]

    asyncio.run(scenario())


def test_the_profile_is_the_one_that_ran(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            assert store.profile("call-1") == make_profile().canonical, "while it lives"
            await recorder.finish(make_finished())
        async with opened(tmp_path) as store:
            assert store.profile("call-1") == make_profile().canonical
            with pytest.raises(NotFound):
                store.profile("call-9")

    asyncio.run(scenario())


def test_who_follows_a_call_gets_a_receipt_of_its_outcome(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            with pytest.raises(CallStateError) as caught:
                store.receipt("call-1")
            assert caught.value.reason == "CALL_NOT_CLOSED"
            done = (await recorder.finish(make_finished())).event
            assert isinstance(done, Finished)
            _, key = store.head()
            told = Receipt.parse(done.receipt).verify(bytes.fromhex(done.record), [key])
            assert told.size == 2
            await begin(store, "call-2")
            later = Receipt.parse(store.receipt("call-1"))
            assert later.verify(leaf_hash(later.extra), [key]).size == 3
            assert leaf_hash(later.extra).hex() == done.record
            with pytest.raises(NotFound):
                store.receipt("call-3")

    asyncio.run(scenario())


def test_a_call_ends_also_where_there_is_no_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            behind = AuditUnavailable("TREE_BEHIND", "no room")
            monkeypatch.setattr(LogTree, "receipt", raises(behind))
            done = (await recorder.finish(make_finished())).event
            assert isinstance(done, Finished)
            assert done.record
            assert done.receipt == b""

    asyncio.run(scenario())


def raises(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_one_daemon_has_the_directory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path):
            with pytest.raises(AuditUnavailable) as caught:
                Store.open(tmp_path)
            assert caught.value.reason == "STATE_LOCKED"
        async with opened(tmp_path):
            pass

    asyncio.run(scenario())


def test_a_damaged_log_is_not_opened(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await (await begin(store)).finish(make_finished())
        path = tmp_path / "log" / "00000000000000000000.seg"
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
        for _ in range(2):  # the second is not told that the directory is locked
            with pytest.raises(AuditCorrupt) as caught:
                Store.open(tmp_path)
            assert caught.value.reason == "CHAIN_BROKEN"

    asyncio.run(scenario())


def test_a_torn_tail_is_told_in_the_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await (await begin(store)).finish(make_finished())
        path = tmp_path / "log" / "00000000000000000000.seg"
        with path.open("ab") as file:
            file.write(b"\x00\x00\x01torn")
        assert not verify(tmp_path).ok
        async with opened(tmp_path) as store:
            assert store.get_call("call-1").finished is not None
        report = verify(tmp_path)
        assert report.ok
        assert report.entries == 3
        assert b'"kind":"log_cut"' in path.read_bytes()
        assert b'"size_bytes":7' in path.read_bytes()

    asyncio.run(scenario())


def test_nothing_is_known_of_other_calls(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            with pytest.raises(NotFound) as caught:
                store.get_call("nobody")
            assert caught.value.reason == "CALL_NOT_FOUND"
            assert store.find_request("tester", "nothing") is None
            assert store.list_calls(limit=5) == ([], "")

    asyncio.run(scenario())


@pytest.mark.parametrize("call_id", ["", "../x", "a/b", "blob.1\n", "x" * 65, ".hidden"])
def test_a_call_id_is_a_file_name(call_id: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            with pytest.raises(InvariantError) as caught:
                await begin(store, call_id)
            assert caught.value.reason == "CALL_ID_INVALID"
            assert store._journal.head[0] == 0

    asyncio.run(scenario())


def test_a_call_id_is_used_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            for _ in range(2):
                with pytest.raises(InvariantError) as caught:
                    await begin(store)
                assert caught.value.reason == "CALL_ID_TAKEN"
                await recorder.finish(make_finished())
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_an_intent_that_was_not_acknowledged_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk failed, yet the entry may be there at the next start: then it gets its outcome."""

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "bad disk")

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await (await begin(store, "before")).finish(make_finished())
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", broken)
                with pytest.raises(AuditUnavailable):
                    await begin(store, "unheard")
        async with opened(tmp_path) as store:
            assert [call.call_id for call in store.interrupted] == ["unheard"]

    asyncio.run(scenario())


def test_notes_of_the_daemon(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await store.note("daemon_started", {"version": "1"})
            await store.note("daemon_stopped", {})
            for kind in ("outcome", "Not A Kind", ""):
                with pytest.raises(InvariantError) as caught:
                    await store.note(kind, {})
                assert caught.value.reason == "KIND_INVALID"
        report = verify(tmp_path)
        assert (report.ok, report.entries, report.calls) == (True, 2, 0)

    asyncio.run(scenario())


def test_a_grant_outlives_the_daemon(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            digest = store.blobs.put(b"upload")
            assert not store.may_read_blob(digest, "tester")
            store.grant_blob(digest, "tester")
            assert store.may_read_blob(digest, "tester")
        async with opened(tmp_path) as store:
            assert store.may_read_blob(digest, "tester")
            assert not store.may_read_blob(Digest.of(b"other"), "tester")
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_a_failed_disk_ends_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[StockadeError] = []

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "bad disk")

    async def scenario() -> None:
        async with opened(tmp_path, on_fatal=told.append) as store:
            recorder = await begin(store)
            assert store.healthy
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", broken)
                with pytest.raises(AuditUnavailable) as caught:
                    await begin(store, "call-2")
            assert caught.value.reason == "JOURNAL_UNAVAILABLE"
            assert not store.healthy
            assert store.failure is not None
            for attempt in (
                lambda: store.check_admission(1),
                lambda: recorder.output(Stream.STDOUT, b"x"),
                lambda: store.grant_blob(Digest.of(b""), "x"),
            ):
                with pytest.raises(AuditUnavailable) as caught:
                    attempt()
                assert caught.value.reason == "JOURNAL_UNAVAILABLE"
            with pytest.raises(AuditUnavailable):
                await recorder.finish(make_finished())
            with pytest.raises(AuditUnavailable):
                await begin(store, "call-3")

    asyncio.run(scenario())
    assert [error.reason for error in told] == ["JOURNAL_UNAVAILABLE"]


def test_a_full_disk_refuses_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            store.check_admission(0)
            with monkeypatch.context() as patch:
                patch.setattr(journal_module, "free_bytes", lambda directory: 0)
                with pytest.raises(CapacityError) as caught:
                    store.check_admission(0)
                assert caught.value.reason == "JOURNAL_FULL"
                assert caught.value.retry_after_s == 5.0
            store.check_admission(0)

    asyncio.run(scenario())


def test_an_index_that_cannot_be_written_stops_admission_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)

            def full(low_water: LowWater) -> None:
                raise apsw.FullError("full")

            with monkeypatch.context() as patch:
                patch.setattr(store._index, "_write", full)
                done = await recorder.finish(make_finished())
                assert store.get_call("call-1").finished == done.event
                with pytest.raises(CapacityError) as caught:
                    store.check_admission(0)
                assert caught.value.reason == "JOURNAL_FULL"
            store.check_admission(0)
            assert store._index.waiting == 0
            assert store.get_call("call-1").finished == done.event

    asyncio.run(scenario())


def test_a_recording_that_cannot_be_placed_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            recorder.output(Stream.STDOUT, b"kept")

            def full(self: Path, target: Path) -> Path:
                raise OSError(errno.ENOSPC, "full")

            with monkeypatch.context() as patch:
                patch.setattr(Path, "rename", full)
                await recorder.finish(make_finished())
            part = tmp_path / "blobs" / "part" / "call-1"
            assert part.exists()
            assert [
                (one.offset, one.data) for one in store.read_stream("call-1", Stream.STDOUT)
            ] == [(0, b"kept")]
            assert verify(tmp_path).ok
            store.check_admission(0)
            assert not part.exists()
            assert [
                (one.offset, one.data) for one in store.read_stream("call-1", Stream.STDOUT)
            ] == [(0, b"kept")]
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_a_recording_whose_daemon_died_before_placing_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            recorder.output(Stream.STDOUT, b"kept")
            await recorder.finish(make_finished())
        (path,) = (
            path
            for path in (tmp_path / "blobs" / "sha256").rglob("*")
            if path.suffix == "" and path.is_file()
        )
        part = tmp_path / "blobs" / "part" / "call-1"
        path.rename(part)
        async with opened(tmp_path) as store:
            assert path.exists()
            assert not part.exists()
            assert [
                (one.offset, one.data) for one in store.read_stream("call-1", Stream.STDOUT)
            ] == [(0, b"kept")]

    asyncio.run(scenario())


def test_a_caller_that_goes_away_before_the_start_leaves_no_open_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await (await begin(store, "warm")).finish(make_finished())
            task = asyncio.ensure_future(begin(store, "gone"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with opened(tmp_path) as store:
            assert store.interrupted == ()
            finished = store.get_call("gone").finished
            assert isinstance(finished, Finished)
            assert isinstance(finished.outcome, Failed)
            assert finished.outcome.reason == "ABANDONED"
        assert verify(tmp_path).ok

    asyncio.run(scenario())


def test_many_calls_at_once(tmp_path: Path) -> None:
    async def one(store: Store, number: int) -> None:
        recorder = await begin(store, f"call-{number}")
        recorder.started(0.1)
        recorder.output(Stream.STDOUT, b"%d" % number)
        await asyncio.sleep(0)
        await recorder.finish(make_finished())

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await asyncio.gather(*(one(store, number) for number in range(60)))
            for number in range(60):
                (piece,) = store.read_stream(f"call-{number}", Stream.STDOUT)
                assert (piece.offset, piece.data) == (0, b"%d" % number)
        report = verify(tmp_path)
        assert (report.ok, report.calls, report.entries) == (True, 60, 240)

    asyncio.run(scenario())


def test_nothing_of_a_finished_call_stays_in_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            for number in range(20):
                recorder = await begin(store, f"call-{number}")
                recorder.output(Stream.STDOUT, b"x" * 1000)
                await recorder.finish(make_finished())
            assert store._live == {}
            assert store._index.waiting == 0
            assert store._placing.waiting == 0
            links = Path("/proc/self/fd").iterdir()
            descriptors = [str(link.readlink()) for link in links if link.is_symlink()]
            part = str(tmp_path / "blobs" / "part")
            assert [name for name in descriptors if name.startswith(str(tmp_path / "blobs"))] == [
                part
            ]

    asyncio.run(scenario())


def test_files_are_private(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "state") as store:
            recorder = await begin(store)
            recorder.output(Stream.STDOUT, b"x")
            store.blobs.put(b"y")
            await recorder.finish(make_finished())
            for path in (tmp_path / "state").rglob("*"):
                assert path.stat().st_mode & 0o077 == 0, path
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700

    asyncio.run(scenario())


def test_without_a_descriptor_calls_end_and_the_daemon_goes_on(tmp_path: Path) -> None:
    """One call has its recording open, another has none yet, a third cannot begin."""

    async def scenario() -> None:
        async with opened(tmp_path, JournalOptions(segment_bytes=1500)) as store:
            writing = await begin(store, "writing")
            writing.output(Stream.STDOUT, b"before")
            silent = await begin(store, "silent")
            many = tuple(
                OutputFile(path=b"%0200d" % number, digest=Digest.of(b""), mode=0o644)
                for number in range(200)
            )
            with no_descriptors():
                with pytest.raises(CapacityError) as refused:
                    await begin(store, "new", profile=make_profile(name="another"))
                assert refused.value.reason == "FDS_EXHAUSTED"
                with pytest.raises(AuditUnavailable) as ended:
                    silent.output(Stream.STDERR, b"lost")
                assert ended.value.reason == "RECORD_UNAVAILABLE"
                (counted,) = silent.output(Stream.STDERR, b"counted")
                assert isinstance(counted.event, Output)
                assert counted.event.truncated
                writing.output(Stream.STDOUT, b" and after")
                done = await writing.finish(make_finished(outputs=many))
                assert isinstance(done.event, Finished)
                assert 0 < len(done.event.outputs) < len(many)
                await silent.finish(make_finished(Failed(reason="RECORD_UNAVAILABLE", message="")))
                store.check_admission(0)
                assert store.get_call("silent").finished is not None
                assert store._index.complete
            assert store.healthy
            read = b"".join(data.data for data in store.read_stream("writing", Stream.STDOUT))
            assert read == b"before and after"
            cut = next(entry for entry in store.entries("silent") if entry.kind == Kind.TRUNCATED)
            assert cut.body()["why"] == "record_unavailable"
            assert len(store._journal.segments) > 1
            await (await begin(store, "next")).finish(make_finished())

    asyncio.run(scenario())
    report = verify(tmp_path)
    # The files are of this test's making; nothing else is missing.
    assert {problem.message for problem in report.problems} <= {
        f"there is no blob {Digest.of(b'').sha256}"
    }


def test_deleting_the_parts_under_the_daemon_costs_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            one = await begin(store, "one")
            one.output(Stream.STDOUT, b"on")
            shutil.rmtree(tmp_path / "blobs" / "part")
            two = await begin(store, "two")
            two.output(Stream.STDOUT, b"two")
            one.output(Stream.STDOUT, b"e")
            await one.finish(make_finished())
            shutil.rmtree(tmp_path / "blobs" / "part")
            await two.finish(make_finished())
            for call_id in ("one", "two"):
                read = b"".join(data.data for data in store.read_stream(call_id, Stream.STDOUT))
                assert read == call_id.encode()
            assert store.blobs.get(store.blobs.put(b"kept")) == b"kept"
            assert store.healthy

    asyncio.run(scenario())
    assert verify(tmp_path).ok


def test_a_blob_is_granted_with_its_size(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            digest = store.blobs.put(b"data")
            store.grant_blob(digest, "tester")
            assert not store.may_read_blob(replace(digest, size_bytes=5), "tester")
            assert store.may_read_blob(digest, "tester")

    asyncio.run(scenario())


def test_what_ended_becomes_searchable_before_anybody_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread does it once enough waits, so that no search has much to do."""
    monkeypatch.setattr(index_module, "UNSETTLED_MAX", 4)

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            for number in range(4):
                await (await begin(store, f"call-{number}")).finish(make_finished())
        db = apsw.Connection(str(tmp_path / "index.db"))
        waiting = db.execute("SELECT count(*) FROM unsettled").fetchall()[0][0]
        db.close()
        assert waiting < 4

    asyncio.run(scenario())
