"""The recorder: recorded first, delivered second; caps, full disks, threads, the end."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.entry import Kind
from supervisor.audit.recorder import CallRecorder
from supervisor.audit.recording import FRAME_BYTES_MAX
from supervisor.audit.store import Store
from supervisor.audit.tails import ROOM, TAILS_MAX
from supervisor.audit.verify import verify
from supervisor.call.events import Denied, Finished, Lost, Output, Processes, Started, Wall
from supervisor.call.types import Digest, Stream
from supervisor.errors import AuditUnavailable, InvariantError
from supervisor.profile.model import Capture
from tests.support.records import (
    FLOW,
    PROCESSES,
    WATCHED,
    begin,
    make_finished,
    make_profile,
    opened,
)

Scenario = Callable[[Store, CallRecorder], Awaitable[None]]


def run(directory: Path, scenario: Scenario, **captures: Capture) -> None:
    async def main() -> None:
        async with opened(directory) as store:
            await scenario(store, await begin(store, profile=make_profile(**captures)))

    asyncio.run(main())


def kinds(store: Store) -> list[str]:
    return [entry.kind for entry in store.entries("call-1")]


def stored(store: Store, stream: Stream) -> bytes:
    return b"".join(piece.data for piece in store.read_stream("call-1", stream))


def test_output_is_on_record_when_it_is_delivered(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        events = recorder.output(Stream.STDOUT, b"hello")
        assert [event.event for event in events] == [
            Output(stream=Stream.STDOUT, data=b"hello", offset=0)
        ]
        assert events[0].sequence == recorder.last_sequence == 2
        assert stored(store, Stream.STDOUT) == b"hello"
        assert recorder.output(Stream.STDOUT, b"") == []

    run(tmp_path, scenario)


def test_large_output_is_cut_into_frames(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        data = os.urandom(2 * FRAME_BYTES_MAX + 5)
        events = recorder.output(Stream.STDERR, data)
        assert [event.sequence for event in events] == [2, 3, 4]
        outputs = [event.event for event in events if isinstance(event.event, Output)]
        assert b"".join(output.data for output in outputs) == data
        assert [output.offset for output in outputs] == [0, FRAME_BYTES_MAX, 2 * FRAME_BYTES_MAX]
        assert stored(store, Stream.STDERR) == data

    run(tmp_path, scenario)


@settings(max_examples=25)
@given(cap=st.integers(0, 50), chunks=st.lists(st.binary(min_size=1, max_size=20), max_size=8))
def test_the_cap_holds_and_the_digest_covers_all(
    cap: int, chunks: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = b"".join(chunks)

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        delivered = b""
        for chunk in chunks:
            for event in recorder.output(Stream.STDOUT, chunk):
                assert isinstance(event.event, Output)
                assert event.event.offset == len(delivered)
                assert event.event.truncated == (len(delivered) >= cap)
                delivered += event.event.data
        assert delivered == whole
        assert stored(store, Stream.STDOUT) == whole[:cap]
        summary = {item.stream: item for item in recorder.streams()}[Stream.STDOUT]
        assert summary.digest == Digest.of(whole)
        assert summary.stored_bytes == min(cap, len(whole))
        assert kinds(store).count("truncated") == (len(whole) > cap)

    directory = tmp_path_factory.mktemp("state")
    run(directory, scenario, stdout=Capture(mode="head", bytes_max=cap))


@settings(max_examples=30)
@given(
    cap=st.integers(8, 200),
    chunks=st.lists(st.binary(min_size=1, max_size=90), max_size=9),
    ends=st.booleans(),
)
def test_the_end_of_what_is_past_the_cap_is_kept(
    cap: int, chunks: list[bytes], ends: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = b"".join(chunks)
    capture = Capture(mode="head", bytes_max=cap)
    tail = min(capture.tail_bytes, max(0, len(whole) - cap))
    gap = max(0, len(whole) - cap - tail)

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        for chunk in chunks:
            recorder.output(Stream.STDOUT, chunk)
        if ends:
            recorder.end(Stream.STDOUT)
            assert not recorder.holds
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        summary = done.event.streams[0]
        assert summary.digest == Digest.of(whole)
        assert (summary.stored_bytes, summary.tail_bytes) == (len(whole) - gap, tail)
        assert summary.truncated == (gap > 0)
        assert stored(store, Stream.STDOUT) == whole[:cap] + whole[len(whole) - tail :]
        cuts = [entry.body() for entry in store.entries("call-1") if entry.kind == "truncated"]
        whys = {"stream": "stdout", "offset": cap, "why": "cap"}
        assert cuts == ([whys, {**whys, "length": gap}] if len(whole) > cap else [])
        seen = [e.event for e in store.events("call-1") if isinstance(e.event, Output)]
        for output in seen:
            assert whole[output.offset :].startswith(output.data)

    directory = tmp_path_factory.mktemp("state")
    run(directory, scenario, stdout=capture)
    assert verify(directory).ok


def test_an_end_that_does_not_fit_on_the_disk_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.output(Stream.STDOUT, b"x" * 100)

        def full(*_: object) -> None:
            raise AuditUnavailable("RECORD_FULL", "full")

        with monkeypatch.context() as patch:
            patch.setattr(recorder.recording, "write", full)
            with pytest.raises(AuditUnavailable):
                recorder.end(Stream.STDOUT)
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        assert (done.event.streams[0].stored_bytes, done.event.streams[0].tail_bytes) == (64, 0)
        cuts = [entry.body() for entry in store.entries("call-1") if entry.kind == "truncated"]
        assert [(cut["offset"], cut["why"]) for cut in cuts] == [
            (64, "cap"), (64, "cap"), (92, "record_full"),
        ]  # fmt: skip

    run(tmp_path, scenario, stdout=Capture(mode="head", bytes_max=64))
    assert verify(tmp_path).ok


def test_without_room_for_it_no_end_is_kept(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        taken = [ROOM.tail(1) for _ in range(TAILS_MAX)]
        recorder.output(Stream.STDOUT, b"x" * 100)
        taken.clear()
        recorder.output(Stream.STDOUT, b"y" * 100)
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        assert (done.event.streams[0].stored_bytes, done.event.streams[0].tail_bytes) == (64, 0)
        assert kinds(store).count("truncated") == 1

    run(tmp_path, scenario, stdout=Capture(mode="head", bytes_max=64))
    assert verify(tmp_path).ok


def test_only_the_digest(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        (event,) = recorder.output(Stream.STDOUT, b"secret")
        assert event.event == Output(stream=Stream.STDOUT, data=b"secret", offset=0, truncated=True)
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        summary = done.event.streams[0]
        assert (summary.digest, summary.stored_bytes) == (Digest.of(b"secret"), 0)
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or b"secret" not in path.read_bytes()

    run(tmp_path, scenario, stdout=Capture(mode="digest"))


def test_everything_that_happens_has_its_entry(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        denied = Denied(wall=Wall.SYSCALL, name="mount", count=3)
        lost = Lost(what="output", count=2, reason="slow")
        assert recorder.started(0.5).event == Started(preparation_s=0.5)
        recorder.stdin(b"in")
        assert recorder.tell([denied])[0].event == denied
        assert recorder.tell([WATCHED])[0].event == WATCHED
        assert recorder.tell([FLOW])[0].event == FLOW
        assert recorder.lost(lost).event == lost
        recorder.signalled("tester", 15, "w" * 10_000)
        assert recorder.denials == 3
        await recorder.finish(make_finished())
        assert kinds(store) == [
            "intent",
            "started",
            "output",
            "denied",
            "watched",
            "flow",
            "lost",
            "signal",
            "outcome",
        ]
        entries = list(store.entries("call-1"))
        assert [entry.sequence for entry in entries] == list(range(1, 10))
        assert len(entries[7].json) < 5000

    run(tmp_path, scenario)


def test_many_at_once_have_their_entries_in_their_order(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.started(0.5)
        many = [Denied(wall=Wall.SYSCALL, name="mount", count=n) for n in range(1, 5)]
        told = recorder.tell(many)
        assert [one.event for one in told] == many
        assert recorder.denials == sum(range(1, 5))
        [flow] = recorder.tell([FLOW])
        await recorder.finish(make_finished())
        entries = list(store.entries("call-1"))
        assert [entry.sequence for entry in entries] == list(range(1, 9))
        assert [entry.body()["count"] for entry in entries[2:6]] == [1, 2, 3, 4]
        assert [(one.sequence, one.time_ns) for one in [*told, flow]] == [
            (entry.sequence, entry.time_ns) for entry in entries[2:7]
        ]

    run(tmp_path, scenario)
    assert verify(tmp_path).ok


def test_threads_keep_one_order(tmp_path: Path) -> None:
    """Two streams at once, from two threads each: frames, entries and sequences agree."""

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        def work(stream: Stream, letter: bytes) -> None:
            for size in range(1, 40):
                recorder.output(stream, letter * size * 500)

        threads = [
            threading.Thread(target=work, args=(stream, letter))
            for stream in (Stream.STDOUT, Stream.STDERR)
            for letter in (b"a", b"b")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        for summary in done.event.streams:
            data = stored(store, summary.stream)
            assert Digest.of(data) == summary.digest
            assert summary.stored_bytes == summary.digest.size_bytes
        sequences = [entry.sequence for entry in store.entries("call-1")]
        assert sequences == list(range(1, len(sequences) + 1))

    run(tmp_path, scenario)


def test_a_full_disk_raises_once_and_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if "part" in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data, offset)

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.output(Stream.STDOUT, b"before")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(AuditUnavailable) as caught:
                recorder.output(Stream.STDOUT, b"lost")
            assert caught.value.reason == "RECORD_FULL"
            (event,) = recorder.output(Stream.STDOUT, b"counted")
            assert isinstance(event.event, Output)
            assert event.event.truncated
        # Room again: a stream that has a gap is not stored any further.
        recorder.output(Stream.STDOUT, b"late")
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        summary = done.event.streams[0]
        assert summary.digest == Digest.of(b"beforelostcountedlate")
        assert summary.stored_bytes == len(b"before")
        entries = list(store.entries("call-1"))
        assert entries[-2].body()["why"] == "record_full"
        assert entries[-1].body()["record_full"] is True

    run(tmp_path, scenario)


def test_finishing_twice_gives_the_same(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.output(Stream.STDOUT, b"x")
        one = await recorder.finish(make_finished())
        two = await recorder.finish(replace(make_finished(), denials=9))
        assert one == two
        assert kinds(store).count(Kind.OUTCOME) == 1

    run(tmp_path, scenario)


def test_a_cancelled_finish_is_finished_all_the_same(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        recorder.output(Stream.STDOUT, b"x")
        task = asyncio.ensure_future(recorder.finish(make_finished()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await recorder.finish(make_finished())
        assert kinds(store)[-1] == Kind.OUTCOME

    run(tmp_path, scenario)


def test_nothing_comes_after_the_end(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        await recorder.finish(make_finished())
        for attempt in (
            lambda: recorder.output(Stream.STDOUT, b"x"),
            lambda: recorder.started(1.0),
            lambda: recorder.tell([Denied(wall=Wall.LIMIT, name="pids")]),
        ):
            with pytest.raises(InvariantError) as caught:
                attempt()
            assert caught.value.reason == "RECORDER_CLOSED"

    run(tmp_path, scenario)


def test_the_record_names_the_outcome(tmp_path: Path) -> None:
    async def scenario(store: Store, recorder: CallRecorder) -> None:
        done = await recorder.finish(make_finished())
        assert isinstance(done.event, Finished)
        last = list(store.entries("call-1"))[-1]
        assert done.event.record == last.leaf
        assert done.event.record == hashlib.sha256(b"\x00" + last.json).hexdigest()
        assert done.event.record_bytes == len(last.json) + 1

    run(tmp_path, scenario)


def test_of_a_batch_too_large_for_an_entry_it_is_on_record_that_it_is_lost(tmp_path: Path) -> None:
    """None is made; where a fault of ours makes one, the call fails, and its record says why."""
    started, more, ended = PROCESSES
    batch = Processes(events=(started, replace(more, data=b"\x01" * 12_000), more, ended))

    async def scenario(store: Store, recorder: CallRecorder) -> None:
        with pytest.raises(InvariantError) as caught:
            recorder.processes(batch)
        assert caught.value.reason == "ENTRY_TOO_LARGE"
        told = [event.event for event in store.events("call-1", 2)]
        counts = {"exec": 1, "argv": 2, "exit": 1}
        assert told == [
            Lost(what=what, count=count, reason="ENTRY_TOO_LARGE") for what, count in counts.items()
        ]

    run(tmp_path, scenario)
