"""Reading the record of a call, live or finished."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from supervisor.audit.journal import JournalOptions
from supervisor.call.events import Finished
from supervisor.call.types import Stream
from supervisor.errors import AuditCorrupt, NotFound
from tests.support.records import begin, make_finished, opened


def test_calls_are_kept_apart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, JournalOptions(segment_bytes=1500)) as store:
            recorders = [await begin(store, f"call-{number}") for number in range(4)]
            for turn in range(10):
                for number, recorder in enumerate(recorders):
                    recorder.output(Stream.STDOUT, b"%d:%d\n" % (number, turn))
            for recorder in recorders[:2]:
                await recorder.finish(make_finished())
            assert len(store._journal.segments) > 2
            for number in range(4):
                data = b"".join(
                    part.data for part in store.read_stream(f"call-{number}", Stream.STDOUT)
                )
                assert data == b"".join(b"%d:%d\n" % (number, turn) for turn in range(10))
                sequences = [entry.sequence for entry in store.entries(f"call-{number}", 5)]
                assert sequences == list(range(5, 13 if number < 2 else 12))
            for recorder in recorders[2:]:
                await recorder.finish(make_finished())

    asyncio.run(scenario())


def test_what_is_not_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            for attempt in (
                lambda: store.entries("nobody"),
                lambda: store.events("nobody"),
                lambda: store.read_stream("nobody", Stream.STDOUT),
            ):
                with pytest.raises(NotFound) as caught:
                    attempt()
                assert caught.value.reason == "RECORD_NOT_FOUND"
                assert "stockade audit ls" in caught.value.hint

    asyncio.run(scenario())


def test_a_reader_keeps_reading_while_the_call_is_sealed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            for number in range(5):
                recorder.output(Stream.STDOUT, b"%d" % number)
            events = store.events("call-1")
            seen = [next(events) for _ in range(3)]
            await recorder.finish(make_finished())
            seen += list(events)
            assert [event.sequence for event in seen] == list(range(1, 7))
            assert isinstance(list(store.events("call-1"))[-1].event, Finished)

    asyncio.run(scenario())


def test_readers_in_threads_while_calls_end(tmp_path: Path) -> None:
    """Each read finds the recording, wherever it is at that moment."""
    errors: list[BaseException] = []

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            ended = threading.Event()
            current = ["call-0"]

            def read() -> None:
                while not ended.is_set():
                    try:
                        data = b"".join(
                            part.data for part in store.read_stream(current[0], Stream.STDOUT)
                        )
                        assert data in (b"", b"data")
                    except BaseException as error:  # noqa: BLE001 - told to the test
                        errors.append(error)
                        return

            recorder = await begin(store, "call-0")
            thread = threading.Thread(target=read)
            thread.start()
            for number in range(1, 40):
                recorder.output(Stream.STDOUT, b"data")
                await recorder.finish(make_finished())
                recorder = await begin(store, f"call-{number}")
                current[0] = f"call-{number}"
            ended.set()
            thread.join()
            await recorder.finish(make_finished())

    asyncio.run(scenario())
    assert errors == []


def test_a_damaged_recording_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            recorder = await begin(store)
            recorder.output(Stream.STDOUT, os.urandom(1000))
            path = tmp_path / "blobs" / "part" / "call-1"
            data = bytearray(path.read_bytes())
            data[500] ^= 1
            path.write_bytes(data)
            with pytest.raises(AuditCorrupt) as caught:
                list(store.read_stream("call-1", Stream.STDOUT))
            assert caught.value.reason == "DIGEST_MISMATCH"
            path.unlink()
            with pytest.raises(NotFound) as missing:
                list(store.read_stream("call-1", Stream.STDOUT))
            assert missing.value.reason == "RECORD_NOT_FOUND"

    asyncio.run(scenario())


def test_threads_read_a_call_while_it_and_others_are_written(tmp_path: Path) -> None:
    """Every reading is a beginning of the record without a gap, and never shorter than what was
    there when it began; segments begin and the call ends meanwhile."""
    errors: list[BaseException] = []

    async def scenario() -> None:
        options = JournalOptions(segment_bytes=4000, linger_s=0.001)
        async with opened(tmp_path, options) as store:
            mine, other = await begin(store, "mine"), await begin(store, "other")
            ended = threading.Event()

            def read() -> None:
                try:
                    while not ended.is_set():
                        least = store.get_call("mine").last_sequence
                        events = list(store.events("mine"))
                        sequences = [event.sequence for event in events]
                        assert sequences == list(range(1, len(events) + 1))
                        assert len(events) >= least
                        summaries, _ = store.list_calls(limit=5)
                        assert {call.call_id for call in summaries} == {"mine", "other"}
                except BaseException as error:  # noqa: BLE001 - told to the test
                    errors.append(error)

            threads = [threading.Thread(target=read) for _ in range(3)]
            for thread in threads:
                thread.start()
            for number in range(150):
                mine.output(Stream.STDOUT, b"%d\n" % number)
                other.output(Stream.STDERR, b"x" * 300)
                await asyncio.sleep(0.0005)
            await mine.finish(make_finished())
            await other.finish(make_finished())
            await asyncio.sleep(0.02)
            ended.set()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            assert len(store._journal.segments) > 5
            assert len(list(store.events("mine"))) == 152

    asyncio.run(scenario())
    assert errors == []


def test_the_record_of_a_live_call_ends_with_its_last_entry(tmp_path: Path) -> None:
    """What others write after it is not even looked at."""

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            mine = await begin(store, "mine")
            mine.output(Stream.STDOUT, b"x")
            await store.note("noise", {})
            end = store._journal.tail.offset
            with (tmp_path / "log" / "00000000000000000000.seg").open("r+b") as file:
                file.seek(end - 50)
                good = file.read(50)
                file.seek(end - 50)
                file.write(bytes(50))
                file.flush()
                assert [entry.sequence for entry in store.entries("mine")] == [1, 2]
                file.seek(end - 50)
                file.write(good)
            await mine.finish(make_finished())

    asyncio.run(scenario())
