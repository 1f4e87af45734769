"""Verification finds any single byte that was changed, and names the entry."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit.entry import CALL_KINDS, Kind, StoredEntry
from supervisor.audit.handover import hand_over
from supervisor.audit.journal import JournalOptions
from supervisor.audit.segment import MAGIC, read_frames, segment_name
from supervisor.audit.store import Store
from supervisor.audit.vault import Encryption
from supervisor.audit.verify import VerifyReport, verify
from supervisor.call.events import Denied, Lost, Processes, Resized, Wall
from supervisor.call.outcome import Stopped
from supervisor.call.types import Digest, InputFile, Json, OutputFile, Stream
from supervisor.errors import AuditCorrupt
from supervisor.profile.model import Capture
from tests.support.records import (
    CALLER,
    FLOW,
    PROCESSES,
    RECIPIENT,
    WATCHED,
    begin,
    make_finished,
    make_profile,
    opened,
)

BODIES: dict[str, dict[str, Json]] = {
    Kind.REMOVED: {"why": "age", "calls": [], "uploads": [], "files": []},
    Kind.HELD: {"call": "call-z"},
    Kind.RELEASED: {"call": "call-z"},
}
"""Of kinds that verification looks into."""

OPTIONS = JournalOptions(segment_bytes=6000, linger_s=60.0)
WRITTEN_BELOW = {Kind.BLOB, Kind.LOG_CUT, Kind.KEY_ROTATED, Kind.ERASED}


async def write_every_kind(directory: Path) -> None:
    """Write a state directory with two segments or more, in which every kind of entry occurs."""
    async with opened(directory, OPTIONS) as store:
        for kind in sorted(set(Kind) - CALL_KINDS - WRITTEN_BELOW):
            await store.note(kind, BODIES.get(kind, {"of": "the daemon's own"}))
        digest = store.blobs.put(b"uploaded")
        store.grant_blob(digest, "tester")
        recorder = await begin(store, "call-a", profile=make_profile(stdout=Capture(mode="full")))
        recorder.started(0.5)
        recorder.stdin(b"input")
        recorder.output(Stream.STDOUT, b"output " * 50)
        recorder.output(Stream.STDERR, os.urandom(200))
        recorder.tell([Denied(wall=Wall.SYSCALL, name="mount", arguments=(1, 2))])
        recorder.processes(Processes(events=PROCESSES))
        recorder.tell([WATCHED])
        recorder.tell([FLOW])
        recorder.resized(Resized(rows=30, columns=90))
        recorder.lost(Lost(what="output", count=2, reason="slow"))
        recorder.signalled("tester", 15, "enough")
        outputs = (OutputFile(path=b"out", digest=store.blobs.put(b"file"), mode=0o644),)
        await recorder.finish(make_finished(Stopped(by="t", reason="SIGNAL"), outputs=outputs))
        capped = make_profile(stdout=Capture(mode="head", bytes_max=3), name="capped")
        other = await begin(store, "call-b", profile=capped, argv=(b"x" * 50_000,))
        other.output(Stream.STDOUT, b"more than three")
        await other.finish(make_finished())
        third = await begin(store, "call-c", profile=make_profile(mode="observe"))
        third.tell([WATCHED])
        await third.finish(make_finished())
    async with opened(directory, OPTIONS, encryption=Encryption(recipients=(RECIPIENT,))) as store:
        for call_id in ("call-d", "call-e"):
            await write_encrypted(store, call_id)
        await store.eraser.erase("call-e", CALLER, "asked for")
    with (directory / "log" / segment_name(_last(directory))).open("ab") as file:
        file.write(b"torn")
    async with opened(directory, OPTIONS) as store:
        await store.note(Kind.DAEMON_STOPPED, {})
    hand_over(directory)


async def write_encrypted(store: Store, call_id: str) -> None:
    upload = Digest.of(b"upload " * 30)
    sent = store.locker.upload(CALLER.name, store.masks, upload)
    sent.write(b"upload " * 30)
    sent.commit()
    store.grant_blob(sent.stored, CALLER.name)
    store.locker.uploaded(CALLER.name, upload, sent.stored)
    files = (
        InputFile(path=b"given", digest=Digest.of(b"given"), data=b"given"),
        InputFile(path=b"uploaded", digest=upload),
    )
    argv = (b"x" * 50_000,) if call_id == "call-d" else (b"true",)
    recorder = await begin(store, call_id, files=files, argv=argv)
    recorder.stdin(b"input")
    recorder.output(Stream.STDOUT, b"output " * 50)
    recorder.output(Stream.STDERR, os.urandom(200))
    recorder.output(Stream.STDOUT, b"more")
    with store.locker.left_behind(call_id) as writer:
        writer.write(b"left behind " * 20)
        digest = writer.commit()
    outputs = (OutputFile(path=b"out", digest=digest, mode=0o644),)
    await recorder.finish(make_finished(outputs=outputs))


def _last(directory: Path) -> int:
    return max(int(path.stem) for path in (directory / "log").glob("*.seg"))


def entries_of(directory: Path) -> Iterator[tuple[Path, StoredEntry, int]]:
    for path in sorted((directory / "log").glob("*.seg")):
        with path.open("rb") as file:
            for frame in read_frames(file.fileno(), len(MAGIC), path.stat().st_size):
                yield path, frame.entry(int(path.stem)), frame.end


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("written")
    asyncio.run(write_every_kind(directory))
    return directory


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def flipped(path: Path, at: int, mask: int, directory: Path) -> VerifyReport:
    """Verify with one byte changed, and change it back."""
    good = path.read_bytes()
    path.write_bytes(good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :])
    try:
        return verify(directory)
    finally:
        path.write_bytes(good)


def test_a_good_directory_verifies(written: Path) -> None:
    report = verify(written)
    assert report.problems == ()
    assert report.ok
    assert (report.calls, report.erased) == (5, 1)
    assert report.open_calls == ()
    assert report.entries == report.head_index + 1
    *_, (_, last, _) = entries_of(written)
    assert report.head_leaf == last.leaf
    assert len(list((written / "log").glob("*.seg"))) > 1


def test_every_kind_is_written(written: Path) -> None:
    assert {entry.kind for _, entry, _ in entries_of(written)} == set(Kind)


@pytest.mark.parametrize("kind", list(Kind))
def test_any_flipped_byte_of_an_entry_is_found_and_named(kind: Kind, copy: Path) -> None:
    path, entry, end = next(item for item in entries_of(copy) if item[1].kind == kind)
    begin_at = entry.position.offset
    places = range(begin_at, end)
    if len(places) > 150:
        edges = [*range(begin_at, begin_at + 30), *range(end - 50, end)]
        places = sorted({*edges, *random.sample(places, 70)})
    for at in places:
        report = flipped(path, at, 1 << random.randrange(8), copy)
        assert not report.ok
        assert report.problems[0].index == entry.index, at
        assert report.problems[0].segment == path.name
        assert report.problems[0].offset == begin_at
    assert verify(copy).ok


@given(data=st.data())
def test_any_flipped_byte_of_any_file_under_log_is_found(
    data: st.DataObject, written: Path
) -> None:
    path = data.draw(st.sampled_from(sorted((written / "log").iterdir())))
    at = data.draw(st.integers(0, path.stat().st_size - 1))
    mask = data.draw(st.integers(1, 255))
    assert not flipped(path, at, mask, written).ok


def test_any_flipped_byte_of_a_content_is_found(copy: Path) -> None:
    files = [path for path in (copy / "blobs").rglob("*") if path.is_file()]
    assert len(files) >= 6
    for path in files:
        size = path.stat().st_size
        for at in {0, size // 2, size - 1, *random.sample(range(size), min(size, 12))}:
            report = flipped(path, at, 1 << random.randrange(8), copy)
            assert not report.ok, (path, at)
            assert report.problems[0].index >= 0


def test_any_flipped_byte_of_a_key_is_found(copy: Path) -> None:
    (path,) = (copy / "keys").iterdir()
    for at in random.sample(range(path.stat().st_size), 30):
        report = flipped(path, at, 1 << random.randrange(8), copy)
        assert [(one.call, one.message) for one in report.problems] == [
            ("call-d", "its key is not the one that was made")
        ]


def test_a_key_is_there_unless_an_entry_says_that_it_was_erased(copy: Path) -> None:
    key = copy / "keys" / "call-d"
    again = copy / "keys" / "call-e"
    again.write_bytes(key.read_bytes())
    assert [one.message for one in verify(copy).problems] == ["the key of call-e is still there"]
    again.unlink()
    key.unlink()
    (problem,) = verify(copy).problems
    assert (problem.call, problem.kind) == ("call-d", Kind.INTENT)
    assert problem.message == "its key is missing, and no entry says that it was erased"


def test_what_is_sealed_is_not_unsealed_elsewhere(copy: Path) -> None:
    """Whoever can sign the log again cannot move sealed frames: see test_locker."""
    sealed = [entry for _, entry, _ in entries_of(copy) if entry.kind == Kind.OUTPUT]
    assert {entry.body().get("sealed", False) for entry in sealed} == {True, False}


def test_a_missing_content_is_found(copy: Path) -> None:
    for path in [path for path in (copy / "blobs").rglob("*") if path.is_file()]:
        away = copy / "away"
        path.rename(away)
        assert not verify(copy).ok, path
        away.rename(path)
    assert verify(copy).ok


def test_a_start_looks_at_no_contents(copy: Path) -> None:
    """docs/operations.md, Backup and retention: `audit verify` does."""

    async def start() -> None:
        async with opened(copy, OPTIONS):
            pass

    (first, *_) = sorted((copy / "log").glob("*.seg"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    contents = [path for path in (copy / "blobs/sha256").rglob("*") if path.is_file()]
    contents[0].unlink()
    contents[1].write_bytes(b"another")
    asyncio.run(start())
    assert verify(copy).problem_count >= 3
    last = max((copy / "log").glob("*.seg"))
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(AuditCorrupt):
        asyncio.run(start())


def test_what_the_log_says_of_its_witnesses_is_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            for size in (5, 7):
                body = {"witness": "file heads", "size": size, "root": "", "why": f"over {size}"}
                await store.note(Kind.HEAD_CONTRADICTED, body)
            await store.note(Kind.DAEMON_STOPPED, {})

    asyncio.run(scenario())
    report = verify(tmp_path)
    last = report.last_contradiction
    assert last is not None
    assert (report.ok, report.contradictions, last.index) == (True, 2, 1)
    assert (last.witness, last.why) == ("file heads", "over 7")


def test_a_last_entry_that_cannot_be_read_has_no_leaf(copy: Path) -> None:
    last = max((copy / "log").glob("*.seg"))
    last.write_bytes(last.read_bytes()[:-1])
    report = verify(copy)
    assert (report.ok, report.head_leaf) == (False, "")


def test_a_rewritten_log_is_found_by_who_kept_a_leaf_hash(written: Path) -> None:
    outcomes = {e.call_id: e.leaf for _, e, _ in entries_of(written) if e.kind == Kind.OUTCOME}
    assert verify(written, expect=outcomes).ok
    assert not verify(written, expect={"call-a": "0" * 64}).ok
    assert not verify(written, expect={"call-of-yesterday": "0" * 64}).ok


def test_it_writes_nothing(copy: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in copy.rglob("*")
        }

    before = state()
    verify(copy)
    assert state() == before


def test_progress_is_told(written: Path) -> None:
    told: list[tuple[int, int]] = []
    verify(written, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


def test_an_empty_and_a_missing_directory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "state"):
            pass

    asyncio.run(scenario())
    report = verify(tmp_path / "state")
    assert (report.ok, report.entries, report.head_index) == (True, 0, -1)
    assert not verify(tmp_path / "nowhere").ok


def test_a_working_daemon_gives_no_false_alarm(tmp_path: Path) -> None:
    """Verify again and again while calls begin, write, end and segments roll."""
    reports: list[VerifyReport] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            reports.append(verify(tmp_path))

    async def scenario() -> None:
        options = JournalOptions(segment_bytes=20_000, linger_s=0.01)
        async with opened(tmp_path, options) as store:
            thread = threading.Thread(target=look)
            thread.start()
            for number in range(60):
                recorder = await begin(store, f"call-{number}")
                for size in range(1, 20):
                    recorder.output(Stream.STDOUT, os.urandom(size * 20))
                await recorder.finish(make_finished())
            ended.set()
            await asyncio.to_thread(thread.join)
            reports.append(verify(tmp_path))

    asyncio.run(scenario())
    assert [report.problems for report in reports if not report.ok] == []
    assert all(report.live for report in reports)
    assert reports[-1].calls == 60
