"""Uploads are kept if their digest holds; downloads are for those who have the content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import grpc
import pytest

from supervisor.audit.blobs import BlobStore
from supervisor.call.types import Digest
from supervisor.v1 import tool_pb2, types_pb2
from tests.unit.api.fakes import FakeBlobs
from tests.unit.api.harness import Client, connected, execute_request, refused, run

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
            blobs = BlobStore.at(tmp_path / "blobs", lambda what, error: AssertionError(what))  # type: ignore
            running.engine.store.blobs = blobs  # type: ignore[assignment]
            await client.tool.WriteBlob(chunks(CONTENT))
            assert await download(client, CONTENT, 5) == CONTENT[5:]
            wrong = types_pb2.Digest(sha256=digest_of(CONTENT).sha256, size_bytes=7)
            request = tool_pb2.ReadBlobRequest(digest=wrong)
            assert (await refused(client.tool.ReadBlob(request))).reason == "BLOB_NOT_FOUND"
            broken = client.tool.WriteBlob(chunks(b"x", digest_of(b"y")))
            assert (await refused(broken)).reason == "DIGEST_MISMATCH"
            assert list(blobs.part_directory.iterdir()) == []

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
            blobs: FakeBlobs = running.engine.store.blobs
            stream.cancel()
            await running.server.stop()
            assert not blobs.contents
            assert not running.engine.store.granted

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
