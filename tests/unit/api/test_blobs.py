"""Uploads are kept if their digest holds; downloads are for those who have the content."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest

from supervisor.api import blobs
from supervisor.audit.blobs import BlobStore
from supervisor.call.types import Digest
from supervisor.errors import CapacityError
from supervisor.v1 import tool_pb2, types_pb2
from tests.unit.api.fakes import FakeBlobs, FakeEngine, FakeStore, FakeWriter
from tests.unit.api.harness import Client, Running, connected, execute_request, refused, run

MIB = 1 << 20
CONTENT = bytes(range(256)) * 10_000


def digest_of(data: bytes) -> types_pb2.Digest:
    return types_pb2.Digest(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def chunks(
    data: bytes, digest: types_pb2.Digest | None = None
) -> Iterable[tool_pb2.WriteBlobRequest]:
    yield tool_pb2.WriteBlobRequest(digest=digest or digest_of(data), data=data[:MIB])
    for start in range(MIB, len(data), MIB):
        yield tool_pb2.WriteBlobRequest(data=data[start : start + MIB])


async def download(client: Client, data: bytes, offset: int = 0) -> bytes:
    request = tool_pb2.ReadBlobRequest(digest=digest_of(data), offset=offset)
    return b"".join([answer.data async for answer in client.tool.ReadBlob(request)])


def test_up_and_down(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            answer = await client.tool.WriteBlob(chunks(CONTENT))
            assert answer.digest == digest_of(CONTENT)
            assert await download(client, CONTENT) == CONTENT
            for offset in (1, MIB - 1, MIB, MIB + 1, len(CONTENT) - 1, len(CONTENT)):
                assert await download(client, CONTENT, offset) == CONTENT[offset:]

    run(main())


def test_over_a_real_store(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            store = BlobStore.at(tmp_path / "blobs", lambda what, error: AssertionError(what))  # type: ignore
            running.engine.store.blobs = store  # type: ignore[assignment]
            await client.tool.WriteBlob(chunks(CONTENT))
            assert await download(client, CONTENT, 5) == CONTENT[5:]
            wrong = types_pb2.Digest(sha256=digest_of(CONTENT).sha256, size_bytes=7)
            request = tool_pb2.ReadBlobRequest(digest=wrong)
            assert (await refused(client.tool.ReadBlob(request))).reason == "BLOB_NOT_FOUND"
            broken = client.tool.WriteBlob(chunks(b"x", digest_of(b"y")))
            assert (await refused(broken)).reason == "DIGEST_MISMATCH"
            assert list(store.part_directory.iterdir()) == []
            store.close()

    run(main())


def test_an_empty_blob(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            await client.tool.WriteBlob(chunks(b""))
            assert await download(client, b"") == b""

    run(main())


def test_an_upload_becomes_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            small = CONTENT[:1000]
            await client.tool.WriteBlob(chunks(small))
            file = tool_pb2.InputFile(path=b"a", digest=digest_of(small))
            await client.execute(b"echo", files=[file])
            (call,) = running.engine.calls.values()
            assert call.request.files[0].digest == Digest.of(small)

    run(main())


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([], "DIGEST_INVALID"),
        ([tool_pb2.WriteBlobRequest(data=b"x")], "DIGEST_INVALID"),
        ([tool_pb2.WriteBlobRequest(digest=types_pb2.Digest(sha256="AB" * 32))], "DIGEST_INVALID"),
        ([tool_pb2.WriteBlobRequest(digest=digest_of(b"xy"), data=b"x")], "DIGEST_MISMATCH"),
        ([tool_pb2.WriteBlobRequest(digest=digest_of(b"x"), data=b"xy")], "DIGEST_MISMATCH"),
        ([tool_pb2.WriteBlobRequest(digest=digest_of(b"x"), data=b"y")], "DIGEST_MISMATCH"),
        (
            [
                tool_pb2.WriteBlobRequest(digest=digest_of(b"xy"), data=b"x"),
                tool_pb2.WriteBlobRequest(digest=digest_of(b"xy"), data=b"y"),
            ],
            "DIGEST_INVALID",
        ),
        (
            [tool_pb2.WriteBlobRequest(digest=digest_of(b"x" * (2 * MIB)), data=b"x" * (MIB + 1))],
            "BLOB_CHUNK_TOO_LARGE",
        ),
        (
            [
                tool_pb2.WriteBlobRequest(
                    digest=types_pb2.Digest(sha256="0" * 64, size_bytes=64 * MIB + 1)
                )
            ],
            "BLOB_TOO_LARGE",
        ),
    ],
)
def test_an_upload_that_is_refused(
    requests: list[tool_pb2.WriteBlobRequest], reason: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with connected(tmp_path, {"limits": {"blob_size": "64MiB"}}) as (running, client):
            found = await refused(client.tool.WriteBlob(iter(requests)))
            assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
            assert not running.engine.store.blobs.contents
            assert not running.engine.store.granted

    run(main())


def test_a_broken_upload_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            stream = client.tool.WriteBlob()
            await stream.write(
                tool_pb2.WriteBlobRequest(digest=digest_of(CONTENT), data=CONTENT[:100])
            )
            store: FakeBlobs = running.engine.store.blobs
            stream.cancel()
            await running.server.stop()
            assert not store.contents
            assert not running.engine.store.granted

    run(main())


async def half_open(client: Client, running: Running) -> Any:
    """Begin an upload and leave it there, when the server has it."""
    before = running.engine.store.blobs.opened
    stream = client.tool.WriteBlob()
    await stream.write(tool_pb2.WriteBlobRequest(digest=digest_of(CONTENT), data=CONTENT[:100]))
    while running.engine.store.blobs.opened == before:
        await asyncio.sleep(0.001)
    return stream


def test_a_caller_has_so_many_uploads_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "UPLOADS_PER_CALLER", 2)

    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            streams = [await half_open(client, running) for _ in range(2)]
            found = await refused(client.tool.WriteBlob(chunks(b"abc")))
            assert (found.code, found.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "UPLOADS_LIMIT",
            )
            streams[0].cancel()
            stored = False
            while not stored:  # until the server has seen that one is gone
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await client.tool.WriteBlob(chunks(b"abc"))
                    stored = True
            await client.tool.WriteBlob(chunks(b"def"))
            streams[1].cancel()

    run(main())


def test_all_callers_together_have_so_many(tmp_path: Path) -> None:
    door = blobs.BlobDoor(FakeStore(FakeEngine()), blob_bytes_max=MIB)  # type: ignore[arg-type]

    async def nothing() -> AsyncIterator[tool_pb2.WriteBlobRequest]:
        await asyncio.Event().wait()
        yield tool_pb2.WriteBlobRequest()

    async def main() -> None:
        tasks = [
            asyncio.create_task(door.write(f"caller-{number % 5}", nothing()))
            for number in range(blobs.UPLOADS_MAX)
        ]
        await asyncio.sleep(0)
        with pytest.raises(CapacityError) as caught:
            await door.write("another", nothing())
        assert caught.value.reason == "UPLOADS_LIMIT"
        assert caught.value.metadata["scope"] == "daemon"
        assert caught.value.retry_after_s
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not door._uploads

    run(main())


def test_an_upload_that_pauses_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blobs, "UPLOAD_IDLE_S", 0.05)

    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            silent = client.tool.WriteBlob()
            begun = await half_open(client, running)
            for stream in (silent, begun):
                found = await refused(stream)
                assert (found.code, found.reason) == (
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    "UPLOAD_IDLE",
                )
            assert running.engine.store.blobs.closed == 1
            await client.tool.WriteBlob(chunks(b"abc"))

    run(main())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_writer_that_comes_late_is_closed(tmp_path: Path) -> None:
    """Cancelled while the file is being made: nobody else would close it."""
    store = FakeStore(FakeEngine())
    door = blobs.BlobDoor(store, blob_bytes_max=MIB)  # type: ignore[arg-type]
    started, go = threading.Event(), threading.Event()
    real = store.blobs.writer

    def slow() -> FakeWriter:
        started.set()
        assert go.wait(10)
        return real()

    store.blobs.writer = slow  # type: ignore[method-assign]

    async def requests() -> AsyncIterator[tool_pb2.WriteBlobRequest]:
        yield tool_pb2.WriteBlobRequest(digest=digest_of(b"abc"), data=b"abc")

    async def main() -> None:
        task = asyncio.create_task(door.write("me", requests()))
        await asyncio.to_thread(started.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.blobs.closed == 1

    run(main())


def test_a_false_size_is_no_blob(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (running, client):
            await client.tool.WriteBlob(chunks(b"abc"))
            false = types_pb2.Digest(sha256=digest_of(b"abc").sha256, size_bytes=4)
            file = tool_pb2.InputFile(path=b"a", digest=false)
            for answer in (
                client.tool.ReadBlob(tool_pb2.ReadBlobRequest(digest=false)),
                client.tool.Execute(execute_request(b"echo", files=[file])),
            ):
                assert (await refused(answer)).reason == "BLOB_NOT_FOUND"
            assert not running.engine.calls

    run(main())


def test_a_blob_of_somebody_else_is_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        config = {"callers": [{"name": "me", "uid": os.getuid(), "profiles": ["*"]}]}
        async with connected(tmp_path, config) as (running, client):
            store = running.engine.store
            store.blobs.contents[digest_of(b"theirs").sha256] = b"theirs"
            store.grant_blob(Digest.of(b"theirs"), "other")
            file = tool_pb2.InputFile(path=b"a", digest=digest_of(b"theirs"))
            for answer in (
                client.tool.ReadBlob(tool_pb2.ReadBlobRequest(digest=digest_of(b"theirs"))),
                client.tool.Execute(execute_request(b"echo", files=[file])),
            ):
                found = await refused(answer)
                assert (found.code, found.reason) == (
                    grpc.StatusCode.NOT_FOUND,
                    "BLOB_NOT_FOUND",
                )
            assert not running.engine.calls

    run(main())


def test_past_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (_, client):
            await client.tool.WriteBlob(chunks(b"abc"))
            request = tool_pb2.ReadBlobRequest(digest=digest_of(b"abc"), offset=4)
            found = await refused(client.tool.ReadBlob(request))
            assert (found.code, found.reason) == (grpc.StatusCode.OUT_OF_RANGE, "BLOB_OFFSET")

    run(main())
