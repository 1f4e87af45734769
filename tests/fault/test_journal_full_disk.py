"""A full disk under the state directory: outcomes are written, new calls refused, and service
comes back by itself. On a real, small ext4 in a loop device."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.audit.journal import JournalOptions
from supervisor.audit.recorder import CallRecorder
from supervisor.audit.store import Store
from supervisor.audit.verify import verify
from supervisor.call.events import Denied, Finished, Wall
from supervisor.call.outcome import Failed, Interrupted
from supervisor.call.types import Digest, Stream
from supervisor.errors import AuditUnavailable, CapacityError
from tests.support.records import begin, make_finished, opened

pytestmark = pytest.mark.root

DISK_BYTES = 48 << 20
OPTIONS = JournalOptions(
    reserve_bytes=1 << 20, allocate_step_bytes=1 << 20, free_bytes_min=4 << 20, linger_s=0.1
)
LIVE_CALLS = 8


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Have an ext4 of 48 MiB mounted."""
    image, mount = folder / "disk.img", folder / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    made = subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no loop device can be mounted here: {made.stderr.strip()}")
    try:
        yield mount
    finally:
        if subprocess.run(["umount", mount]).returncode != 0:
            subprocess.run(["umount", "--lazy", mount], check=True)
            pytest.fail("something of the store is still open")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path) as mount:
        yield mount


def fill(disk: Path) -> Path:
    """Write until nothing more fits."""
    path = disk / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(os.urandom(size))
        os.fsync(file.fileno())
    assert os.statvfs(disk).f_bavail == 0
    return path


def write_until_full(recorder: CallRecorder) -> int:
    """Output until the record refuses; give how many bytes the program wrote."""
    written = 0
    with pytest.raises(AuditUnavailable) as caught:
        while True:
            written += 100_000
            recorder.output(Stream.STDOUT, os.urandom(100_000))
    assert caught.value.reason == "RECORD_FULL"
    return written


async def live_calls(store: Store) -> list[CallRecorder]:
    recorders = []
    for number in range(LIVE_CALLS):
        store.check_admission(number)
        recorder = await begin(store, f"live-{number}")
        recorder.started(0.1)
        recorder.output(Stream.STDOUT, b"before\n")
        recorders.append(recorder)
    return recorders


def test_running_calls_get_their_outcome_and_service_comes_back(disk: Path) -> None:
    state = disk / "state"

    async def scenario() -> None:
        async with opened(state, OPTIONS) as store:
            assert store.reserve_is_promised
            recorders = await live_calls(store)
            filler = fill(disk)
            with pytest.raises(CapacityError) as caught:
                store.check_admission(LIVE_CALLS)
            assert caught.value.reason == "JOURNAL_FULL"
            assert caught.value.retry_after_s is not None
            written = write_until_full(recorders[0])
            for recorder in recorders:
                recorder.output(Stream.STDERR, b"after\n") if recorder is recorders[0] else None
                recorder.signalled("tester", 9, "the disk is full")
                failed = Failed(reason="RECORD_FULL", message="x" * 2000)
                done = (await recorder.finish(make_finished(failed))).event
                assert isinstance(done, Finished)
                assert store.get_call(recorder.call_id).finished == done
            assert os.statvfs(disk).f_bavail < 16
            first = store.get_call("live-0").finished
            assert first is not None
            stdout = first.streams[0]
            assert stdout.digest.size_bytes == written + len(b"before\n")
            assert stdout.truncated
            with pytest.raises(CapacityError):
                store.check_admission(0)
            assert verify(state).problems == ()

            filler.unlink()
            store.check_admission(0)
            recorder = await begin(store, "later")
            recorder.output(Stream.STDOUT, os.urandom(1 << 20))
            await recorder.finish(make_finished())
            assert store.healthy
            assert store.list_calls(limit=1)[0][0].call_id == "later"
        report = verify(state)
        assert report.problems == ()
        assert (report.calls, report.open_calls) == (LIVE_CALLS + 1, ())
        async with opened(state, OPTIONS) as store:
            assert store.interrupted == ()
            assert len(store.list_calls(limit=100)[0]) == LIVE_CALLS + 1

    asyncio.run(scenario())


def test_entries_of_talkative_calls_leave_the_reserve_alone(disk: Path) -> None:
    """Thousands of denials cannot use up the room for the outcomes."""
    state = disk / "state"

    async def scenario() -> None:
        async with opened(state, OPTIONS) as store:
            recorders = await live_calls(store)
            fill(disk)
            denied = Denied(wall=Wall.SYSCALL, name="mount", detail="d" * 4000)
            with pytest.raises(AuditUnavailable) as caught:
                for _ in range(10_000):
                    recorders[0].tell([denied])
            assert caught.value.reason == "RECORD_FULL"
            for recorder in recorders:
                await recorder.finish(make_finished())
        assert verify(state).problems == ()

    asyncio.run(scenario())


def test_a_blob_that_does_not_fit_leaves_nothing_behind(disk: Path) -> None:
    state = disk / "state"

    async def scenario() -> None:
        async with opened(state, OPTIONS) as store:
            filler = fill(disk)
            with pytest.raises(AuditUnavailable) as caught:
                store.blobs.put(os.urandom(1 << 20))
            assert caught.value.reason == "RECORD_FULL"
            assert list((state / "blobs" / "part").iterdir()) == []
            assert store.healthy
            filler.unlink()
            digest = store.blobs.put(b"fits")
            assert store.blobs.get(digest) == b"fits"

    asyncio.run(scenario())


def test_a_call_that_needs_a_new_blob_is_refused(disk: Path) -> None:
    state = disk / "state"

    async def scenario() -> None:
        async with opened(state, OPTIONS) as store:
            fill(disk)
            with pytest.raises(CapacityError) as caught:
                await begin(store, "new", argv=(os.urandom(3_000_000).hex().encode(),))
            assert caught.value.reason == "JOURNAL_FULL"
            assert store.list_calls(limit=10) == ([], "")
        assert verify(state).entries == 0

    asyncio.run(scenario())


def test_a_daemon_that_died_on_a_full_disk_starts_again_there(disk: Path) -> None:
    state = disk / "state"

    async def before() -> None:
        async with opened(state, OPTIONS) as store:
            await live_calls(store)
            fill(disk)

    async def after() -> None:
        async with opened(state, OPTIONS) as store:
            assert len(store.interrupted) == LIVE_CALLS
            for call in store.interrupted:
                await store.close_interrupted(call, "the daemon died")
            with pytest.raises(CapacityError) as caught:
                store.check_admission(0)
            assert caught.value.reason == "JOURNAL_FULL"
            finished = store.get_call("live-0").finished
            assert finished is not None
            assert isinstance(finished.outcome, Interrupted)
            assert finished.streams[0].digest == Digest.of(b"before\n")
            (disk / "filler").unlink()
            store.check_admission(0)
            await (await begin(store, "later")).finish(make_finished())

    asyncio.run(before())
    asyncio.run(after())
    report = verify(state)
    assert report.problems == ()
    assert report.calls == LIVE_CALLS + 1


def test_a_segment_that_cannot_be_followed_grows(disk: Path) -> None:
    state = disk / "state"
    options = JournalOptions(
        segment_bytes=20_000,
        reserve_bytes=1 << 20,
        allocate_step_bytes=1 << 20,
        free_bytes_min=4 << 20,
        linger_s=0.1,
    )

    async def scenario() -> None:
        async with opened(state, options) as store:
            recorders = await live_calls(store)
            filler = fill(disk)
            for recorder in recorders:
                for _ in range(20):
                    recorder.tell([Denied(wall=Wall.SYSCALL, name="mount", detail="d" * 1000)])
                await recorder.finish(make_finished())
            assert len(list((state / "log").glob("*.seg"))) == 1
            filler.unlink()
            await (await begin(store, "later")).finish(make_finished())
            assert len(list((state / "log").glob("*.seg"))) == 2
        assert verify(state).problems == ()

    asyncio.run(scenario())
