"""S3, against SeaweedFS, and against a receiver for what a real server does not do when asked."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import io
import json
import time
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest
import zstandard

from supervisor.export.sink import Refused, SinkError
from supervisor.export.sinks.http import Endpoint
from supervisor.export.sinks.s3 import Lines, S3Options, S3Sink, SecurityLake, signed
from tests.support.deliveries import deliver, event, events, firsts, uids
from tests.support.posts import Fault, Post, Posts, Reply, storm
from tests.support.seaweed import REGION, Seaweed

KEY_ID, WHO, BUCKET = "AKIDTEST", "wJalrXUtnFEMIK7MDENGtest", "lake"
LAKE = SecurityLake(source="stockade", region="eu-north-1", account="123456789012")


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("s3"), KEY_ID, WHO, BUCKET) as server:
        yield server


def options(url: str, **more: object) -> S3Options:
    where = Endpoint(
        url=url, tls=None, plain_because="a test", stall_s=5.0, deadline_s=2.0,
        answer_bytes_max=100_000,
    )  # fmt: skip
    given = {
        "endpoint": where, "region": REGION, "bucket": BUCKET, "key_id": KEY_ID,
        "secret": WHO.encode(), "layout": Lines(), **more,
    }  # fmt: skip
    return S3Options(**given)  # type: ignore[arg-type]


def patient(url: str) -> Endpoint:
    return Endpoint(url=url, tls=None, plain_because="a test", deadline_s=20.0)


def lines(objects: dict[str, bytes], below: str) -> list[str]:
    """Give the uids in the objects below a prefix, by key."""
    found = []
    for key, body in sorted(objects.items()):
        if key.startswith(below):
            whole = zstandard.ZstdDecompressor().decompressobj().decompress(body)
            found += [json.loads(line)["uid"] for line in whole.splitlines()]
    return found


def test_signature_of_the_documentation() -> None:
    """The example "PUT Object" of S3's pages on Signature Version 4."""
    made = S3Options(
        endpoint=Endpoint(url="http://127.0.0.1", tls=None, plain_because="a test"),
        region="us-east-1", bucket="examplebucket", key_id="AKIAIOSFODNN7EXAMPLE",
        secret=b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", layout=Lines(),
    )  # fmt: skip
    headers = signed(
        made, host="examplebucket.s3.amazonaws.com", path="/test$file.text",
        body=b"Welcome to Amazon S3.",
        now=datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC),
        more={"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
    )  # fmt: skip
    signature = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    assert headers["authorization"].endswith(f"Signature={signature}")


def test_lines_arrive_and_a_repeat_overwrites(seaweed: Seaweed) -> None:
    async def main() -> None:
        sink, sent = S3Sink(options(seaweed.url, layout=Lines(prefix="a/b"))), events(50)
        for _ in range(2):
            assert await deliver(sink, sent, size=20) == ([], 0)
        await sink.close()
        objects = {key: body for key, body in seaweed.objects().items() if key.startswith("a/b/")}
        assert len(objects) == 3
        assert all(key.startswith("a/b/eventDay=20261127/") for key in objects)
        assert lines(objects, "") == uids(sent)

    asyncio.run(main())


def test_parquet_in_the_layout_of_security_lake(seaweed: Seaweed) -> None:
    async def main() -> None:
        sink = S3Sink(options(seaweed.url, layout=LAKE))
        sent = [
            dataclasses.replace(one, class_uid=(6003, 1007)[one.index % 2]) for one in events(9)
        ]
        await sink.send(sent)
        await sink.close()
        for class_uid, wanted in ((6003, sent[::2]), (1007, sent[1::2])):
            where = (
                f"ext/stockade_{class_uid}/region=eu-north-1/accountId=123456789012"
                "/eventDay=20261127/"
            )
            (body,) = [body for key, body in seaweed.objects().items() if key.startswith(where)]
            rows = pq.read_table(io.BytesIO(body)).to_pylist()
            assert [row["uid"] for row in rows] == uids(wanted)

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.soak
def test_a_server_that_stalls_is_killed_and_comes_back(seaweed: Seaweed) -> None:
    async def main() -> None:
        sink = S3Sink(options(seaweed.url, layout=Lines(prefix="killed")))
        sent = events(60)
        with seaweed.stalled(), pytest.raises(SinkError):
            await sink.send(sent[:10])
        task = asyncio.create_task(deliver(sink, sent[:30], size=5))
        await asyncio.sleep(0.05)
        seaweed.kill()
        with pytest.raises(SinkError):
            await sink.send(sent[:1])
        await asyncio.to_thread(seaweed.start)
        assert (await task)[0] == []
        assert (await deliver(sink, sent[30:], size=5))[0] == []
        await sink.close()
        assert set(lines(seaweed.objects(), "killed/")) == set(uids(sent))

    asyncio.run(main())


@pytest.mark.parametrize("more", [{"secret": b"another-secret"}, {"key_id": "NOBODY"}])
def test_who_is_not_known(seaweed: Seaweed, more: dict[str, object]) -> None:
    async def main() -> None:
        sink = S3Sink(options(seaweed.url, endpoint=patient(seaweed.url), **more))
        with pytest.raises(SinkError, match="it answers 403"):
            await sink.send(events(1))
        await sink.close()

    asyncio.run(main())


class Store:
    """Takes whatever is put, by key."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.order: list[str] = []

    def __call__(self, post: Post) -> Reply:
        assert post.method == "PUT"
        assert post.headers["x-amz-content-sha256"]
        self.objects[post.path] = post.body
        self.order += lines({"": post.body}, "")
        return Reply(headers={"etag": '"x"'})


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_goes_wrong_all_arrive(seed: int) -> None:
    async def main() -> None:
        store = Store()
        async with Posts(store) as server:
            server.faults.extend(storm(seed, 1))
            sink, sent = S3Sink(options(server.url)), events(100)
            dead, failed = await deliver(sink, sent, size=7)
            await sink.close()
            assert not dead
            assert failed >= 10
            assert not server.faults
            assert firsts(store.order) == uids(sent)
            assert len(store.objects) == 15

    asyncio.run(main())


def _error(status: int, code: str, text: str = "") -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message></Error>"
    return Reply(status=status, body=body.encode())


@pytest.mark.parametrize(
    ("reply", "kind", "why"),
    [
        (_error(400, "ExpiredToken", WHO), SinkError, r"ExpiredToken.*\(secret\)"),
        (_error(400, "RequestTimeout"), SinkError, "RequestTimeout"),
        (_error(403, "AccessDenied"), SinkError, "AccessDenied"),
        (_error(404, "NoSuchBucket"), SinkError, "NoSuchBucket"),
        (_error(301, "PermanentRedirect"), SinkError, "not followed"),
        (_error(503, "SlowDown"), SinkError, "SlowDown"),
        (_error(400, "EntityTooLarge"), Refused, "EntityTooLarge"),
        (Reply(status=413), Refused, "413"),
        (Reply(status=200), SinkError, "without an ETag"),
        (Reply(status=204, headers={"etag": "x"}), SinkError, "204"),
    ],
)
def test_answers(reply: Reply, kind: type[Exception], why: str) -> None:
    async def main() -> None:
        async with Posts(Store()) as server:
            server.faults.append(reply)
            sink = S3Sink(options(server.url, token=b"session-token"))
            with pytest.raises(kind, match=why) as error:
                await sink.send(events(2))
            assert WHO not in str(error.value)
            assert server.posts[0].headers["x-amz-security-token"] == "session-token"
            await sink.close()

    asyncio.run(main())


def test_what_is_no_table_is_refused() -> None:
    async def main() -> None:
        async with Posts(Store()) as server:
            sink = S3Sink(options(server.url, layout=LAKE))
            with pytest.raises(Refused, match="no JSON"):
                await sink.send([dataclasses.replace(event(0), data=b"CEF:0|")])
            await sink.close()
            assert not server.posts

    asyncio.run(main())


def test_a_task_that_is_stopped() -> None:
    async def main() -> None:
        store = Store()
        async with Posts(store) as server:
            server.faults.append(Fault.STALL)
            sink = S3Sink(options(server.url))
            task = asyncio.create_task(sink.send(events(2)))
            while not server.posts:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await sink.send(events(2)) == ()
            await sink.close()
            assert len(store.objects) == 1

    asyncio.run(main())


def test_options() -> None:
    shown = repr(options("http://127.0.0.1", token=b"session-token"))
    assert WHO not in shown
    assert "session-token" not in shown
    for wrong in ({"bucket": "a/b"}, {"region": ""}, {"key_id": ""}, {"secret": b""}):
        with pytest.raises(ValueError):  # each has its own text
            options("http://127.0.0.1", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="path"):
        options("http://127.0.0.1/lake")
    with pytest.raises(ValueError, match="prefix"):
        Lines(prefix="/a")
    with pytest.raises(ValueError, match="word"):
        SecurityLake(source="a/b", region="r", account="1")


@pytest.mark.soak
@pytest.mark.parametrize("lake", [False, True])
def test_throughput(seaweed: Seaweed, lake: bool) -> None:
    """Prints; nothing is asserted of time."""

    async def main() -> float:
        layout = LAKE if lake else Lines(prefix="many")
        made = options(seaweed.url, endpoint=patient(seaweed.url), layout=layout)
        sink, sent = S3Sink(made), events(20_000, pad=700)
        begin = time.perf_counter()
        await deliver(sink, sent, size=5000)
        took = time.perf_counter() - begin
        await sink.close()
        return len(sent) / took

    name = "Parquet" if lake else "lines"
    print(f"\ns3, {name}: {asyncio.run(main()):,.0f} events/s into SeaweedFS")  # noqa: T201
