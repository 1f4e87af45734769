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
                    part for _, part in store.read_stream(f"call-{number}", Stream.STDOUT)
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
                            part for _, part in store.read_stream(current[0], Stream.STDOUT)
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
