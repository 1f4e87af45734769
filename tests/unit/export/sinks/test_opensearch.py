"""The bulk API, against a conformance stub: tests/support/bulk.py says of what."""

from __future__ import annotations

import asyncio
import time

import pytest

from supervisor.export.sink import Refused, SinkError
from supervisor.export.sinks.http import Endpoint
from supervisor.export.sinks.opensearch import (
    ApiKey,
    BasicAuth,
    OpenSearchOptions,
    OpenSearchSink,
)
from tests.support.bulk import Bulk
from tests.support.deliveries import TIME_NS, deliver, events, firsts, uids
from tests.support.posts import Fault, Posts, Reply, storm

KEY = ApiKey(key=b"c2VjcmV0LWtleQ==")
HEADER = "ApiKey c2VjcmV0LWtleQ=="


def options(url: str, **more: object) -> OpenSearchOptions:
    where = Endpoint(
        url=url, tls=None, plain_because="a test", stall_s=5.0, deadline_s=2.0,
        answer_bytes_max=500_000,
    )  # fmt: skip
    given = {"endpoint": where, "auth": KEY, "target": "logs-stockade", "stamp": True, **more}
    return OpenSearchOptions(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_written(packed: bool) -> None:
    async def main() -> None:
        bulk = Bulk(HEADER)
        async with Posts(bulk) as server:
            sink, sent = OpenSearchSink(options(server.url, packed=packed)), events(3)
            assert await sink.send(sent) == []
            await sink.close()
            assert bulk.received == uids(sent)
            row = bulk.rows[sent[1].uid]
            assert row["@timestamp"] == TIME_NS // 10**6 + 1
            assert row["uid"] == sent[1].uid
            assert "x-opaque-id" not in server.posts[0].headers

    asyncio.run(main())


def test_basic_authentication_and_no_stamp() -> None:
    async def main() -> None:
        bulk = Bulk("Basic dXM6d29yZC13b3Jk")
        async with Posts(bulk) as server:
            auth = BasicAuth(user="us", password=b"word-word")
            sink = OpenSearchSink(options(server.url, auth=auth, stamp=False))
            assert await sink.send(events(1)) == []
            await sink.close()
            assert "@timestamp" not in bulk.rows[bulk.received[0]]
            assert "word-word" not in repr(auth)

    asyncio.run(main())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_goes_wrong_all_arrive_once(seed: int) -> None:
    async def main() -> None:
        bulk = Bulk(HEADER)
        async with Posts(bulk) as server:
            server.faults.extend(storm(seed, 1))
            sink, sent = OpenSearchSink(options(server.url)), events(100)
            dead, failed = await deliver(sink, sent, size=7)
            await sink.close()
            assert not dead
            assert failed >= 10
            assert not server.faults
            assert bulk.received == firsts(bulk.received) == uids(sent)

    asyncio.run(main())


def test_what_is_there_already_is_taken() -> None:
    async def main() -> None:
        bulk = Bulk(HEADER)
        async with Posts(bulk) as server:
            server.faults.append(Fault.RESET_LATE)
            sink, sent = OpenSearchSink(options(server.url)), events(5)
            assert await deliver(sink, sent, size=5) == ([], 1)
            await sink.close()
            assert bulk.again == 5
            assert bulk.received == uids(sent)

    asyncio.run(main())


def test_only_what_was_put_off_is_sent_again() -> None:
    async def main() -> None:
        sent = events(6)
        busy = {sent[2].uid, sent[4].uid}
        bulk = Bulk(HEADER, put_off=lambda uid: uid in busy, bad=frozenset({3}))
        async with Posts(bulk) as server:
            sink = OpenSearchSink(options(server.url))
            with pytest.raises(SinkError, match="puts off 2 events: 429"):
                await sink.send(sent)
            busy.clear()
            (rejected,) = await sink.send(sent)
            await sink.close()
            assert rejected.position == 3
            assert "document_parsing_exception: failed to parse" in rejected.why
            assert bulk.again == 0
            assert server.posts[1].body.count(b"\n") == 6
            assert sorted(bulk.received) == sorted(uids(sent[:3] + sent[4:]))

    asyncio.run(main())


def test_nothing_after_a_body_with_what_is_put_off() -> None:
    async def main() -> None:
        sent = events(6)
        busy = {sent[0].uid}
        bulk = Bulk(HEADER, put_off=lambda uid: uid in busy)
        async with Posts(bulk) as server:
            sink = OpenSearchSink(options(server.url, body_bytes_max=300))
            with pytest.raises(SinkError):
                await sink.send(sent)
            assert len(server.posts) == 1
            busy.clear()
            assert await sink.send(sent) == []
            await sink.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(status=200, body=b"<html>welcome"), "nothing of the bulk API"),
        (Reply(status=200, body=b"[]"), "nothing of the bulk API"),
        (Reply(status=200, body=b'{"items":[{"create":{"status":"201"}}]}'), "bulk API"),
        (Reply(status=200, body=b'{"items":[{"index":{"status":201}}]}'), "bulk API"),
        (Reply(status=200, body=b'{"items":[]}'), "0 items of 1"),
        (Reply(status=200, body=b"x" * 600_000), "longer"),
        (Reply(status=200, body=b'{"items":[{"create":{"status":403,"error":"e"}}]}'), "403: e"),
        (Reply(status=200, body=b'{"items":[{"create":{"status":503}}]}'), "503"),
        (
            Reply(
                status=200,
                body=b'{"items":[{"create":{"status":403,"error":{"type":"\\u001b[2J",'
                b'"reason":"no key c2VjcmV0LWtleQ=="}}}]}',
            ),
            r"403: \[2J: no key \(secret\)$",
        ),
        (Reply(status=401, body=b"c2VjcmV0LWtleQ== is no key"), r"401: \(secret\) is no key"),
    ],
)
def test_what_may_be_taken_later(reply: Reply, why: str) -> None:
    async def main() -> None:
        bulk = Bulk(HEADER)
        async with Posts(bulk) as server:
            server.faults.append(reply)
            sink = OpenSearchSink(options(server.url))
            with pytest.raises(SinkError, match=why):
                await sink.send(events(1))
            assert await sink.send(events(1)) == []
            await sink.close()

    asyncio.run(main())


def test_too_large() -> None:
    async def main() -> None:
        async with Posts(Bulk(HEADER)) as server:
            server.faults.append(Reply(status=413))
            sink = OpenSearchSink(options(server.url))
            with pytest.raises(Refused, match="413"):
                await sink.send(events(2))
            await sink.close()

    asyncio.run(main())


@pytest.mark.parametrize("target", ["", "a/b", "Upper", "_all", "a" * 256, "x,y", "*"])
def test_a_target_that_is_none(target: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        options("http://127.0.0.1", target=target)


def test_options() -> None:
    assert "c2VjcmV0" not in repr(options("http://127.0.0.1"))
    with pytest.raises(ValueError, match="colon"):
        BasicAuth(user="a:b", password=b"")


@pytest.mark.soak
def test_throughput() -> None:
    """Prints; nothing is asserted of time."""

    async def main() -> float:
        bulk = Bulk(HEADER)
        async with Posts(bulk) as server:
            sink, sent = OpenSearchSink(options(server.url)), events(20_000, pad=700)
            begin = time.perf_counter()
            await deliver(sink, sent, size=500)
            took = time.perf_counter() - begin
            await sink.close()
            assert len(bulk.received) == len(sent)
            return len(sent) / took

    print(f"\nopensearch: {asyncio.run(main()):,.0f} events/s, the stub included")  # noqa: T201
