"""Splunk's collector, against a conformance stub: tests/support/hec.py says of what."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from uuid import UUID

import pytest

from supervisor.export.event import Event
from supervisor.export.sink import SinkError
from supervisor.export.sinks.http import Endpoint
from supervisor.export.sinks.splunk import SplunkOptions, SplunkSink
from tests.support.deliveries import TIME_NS, deliver, event, events, firsts, uids
from tests.support.hec import Hec, said
from tests.support.posts import Posts, Reply, storm

WHO = "9d7a8bd5-0f1c-4c1c-8a55-b1ba51fb2d4f"
CHANNEL = UUID("b0aeaf7f-52a7-4d77-9d4d-9ef8d0b5b6a3")


def options(url: str, **more: object) -> SplunkOptions:
    where = Endpoint(
        url=url, tls=None, plain_because="a test", stall_s=5.0, deadline_s=2.0,
        answer_bytes_max=100_000,
    )  # fmt: skip
    given = {
        "endpoint": where, "token": WHO.encode(), "channel": CHANNEL, "host": "box",
        "source": "stockade", "sourcetype": "stockade:ocsf", "ack_s": None, **more,
    }  # fmt: skip
    return SplunkOptions(**given)  # type: ignore[arg-type]


def bad(index: int) -> Event:
    """Make an event that HEC finds blank."""
    return dataclasses.replace(event(index), data=b'""')


def test_what_is_written() -> None:
    async def main() -> None:
        hec = Hec(WHO)
        async with Posts(hec) as server:
            sink = SplunkSink(options(server.url, index="main", packed=True))
            await sink.send(events(2))
            await sink.close()
            row = hec.rows[1]
            assert row["time"] == f"{TIME_NS // 10**9}.124"
            assert (row["host"], row["source"], row["index"]) == ("box", "stockade", "main")
            assert row["sourcetype"] == "stockade:ocsf"
            assert row["fields"] == {"uid": event(1).uid, "log_index": "1"}
            assert row["event"]["text"].startswith('a "quoted" \\ line\n')
            assert server.posts[0].headers["content-encoding"] == "gzip"
            assert server.posts[0].headers["x-splunk-request-channel"] == str(CHANNEL)

    asyncio.run(main())


def test_text_cannot_end_its_string() -> None:
    async def main() -> None:
        hec = Hec(WHO)
        async with Posts(hec) as server:
            sink = SplunkSink(options(server.url, text=True))
            line = 'CEF:0|a "b"}{\\\u2028'
            await sink.send([dataclasses.replace(event(0), data=line.encode())])
            await sink.close()
            (row,) = hec.rows
            assert row["event"] == line
            assert "index" not in row

    asyncio.run(main())


@pytest.mark.parametrize("ack_s", [None, 0.5])
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_goes_wrong_all_arrive(seed: int, ack_s: float | None) -> None:
    async def main() -> None:
        hec = Hec(WHO, acks=ack_s is not None, polls=1)
        async with Posts(hec) as server:
            server.faults.extend(storm(seed, 1))
            sink, sent = SplunkSink(options(server.url, ack_s=ack_s)), events(100)
            dead, failed = await deliver(sink, sent, size=7)
            await sink.close()
            assert not dead
            assert failed >= 10
            assert not server.faults
            assert firsts(hec.received) == uids(sent)

    asyncio.run(main())


def test_it_waits_until_all_are_indexed() -> None:
    async def main() -> None:
        hec = Hec(WHO, acks=True, polls=2)
        async with Posts(hec) as server:
            sink, sent = SplunkSink(options(server.url, ack_s=10.0, body_bytes_max=600)), events(6)
            await sink.send(sent)
            await sink.close()
            assert hec.asked == 3
            assert sorted(hec.received) == sorted(uids(sent))
            assert server.posts[-1].path.endswith(f"/ack?channel={CHANNEL}")

    asyncio.run(main())


def test_what_is_never_indexed_is_sent_again() -> None:
    async def main() -> None:
        hec = Hec(WHO, acks=True, loses=1)
        async with Posts(hec) as server:
            sink, sent = SplunkSink(options(server.url, ack_s=0.3)), events(4)
            with pytest.raises(SinkError, match="not indexed"):
                await sink.send(sent)
            assert not hec.received
            await sink.send(sent)
            await sink.close()
            assert hec.received == uids(sent)

    asyncio.run(main())


@pytest.mark.parametrize("keeps_before", [False, True])
@pytest.mark.parametrize("places", [{0}, {9}, {4, 5}, {0, 3, 9}, set(range(10))])
def test_invalid_events_alone_are_rejected(keeps_before: bool, places: set[int]) -> None:
    async def main() -> None:
        hec = Hec(WHO, keeps_before=keeps_before)
        async with Posts(hec) as server:
            sent = [bad(at) if at in places else event(at) for at in range(10)]
            sink = SplunkSink(options(server.url))
            rejected = await sink.send(sent)
            await sink.close()
            assert [one.position for one in rejected] == sorted(places)
            assert all("cannot be blank" in one.why for one in rejected)
            good = [one for at, one in enumerate(sent) if at not in places]
            assert firsts(hec.received) == uids(good)

    asyncio.run(main())


@pytest.mark.parametrize(
    "number", [{}, {"invalid-event-number": 99}, {"invalid-event-number": "x"}]
)
def test_an_invalid_event_that_is_not_named_is_found(number: dict[str, object]) -> None:
    """The answers to the whole and to both halves name nothing; then the stub speaks."""

    async def main() -> None:
        hec = Hec(WHO)
        async with Posts(hec) as server:
            server.faults.append(said(400, 6, "Invalid data format", **number))
            sent = [*events(5), bad(5), *events(8)[6:]]
            sink = SplunkSink(options(server.url))
            (rejected,) = await sink.send(sent)
            await sink.close()
            assert rejected.position == 5
            assert firsts(hec.received) == uids(sent[:5] + sent[6:])

    asyncio.run(main())


def test_what_is_too_large_is_halved() -> None:
    async def main() -> None:
        hec = Hec(WHO, body_bytes_max=2000)
        async with Posts(hec) as server:
            sent = [*events(9), event(9, pad=3000)]
            sink = SplunkSink(options(server.url))
            (rejected,) = await sink.send(sent)
            await sink.close()
            assert rejected.position == 9
            assert firsts(hec.received) == uids(sent[:9])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (said(403, 4, "Invalid token"), "403"),
        (said(401, 2, "Token is required"), "401"),
        (said(400, 7, "Incorrect index"), "Incorrect index"),
        (said(400, 10, "Data channel is missing"), "channel"),
        (said(503, 9, "Server is busy"), "503"),
        (said(429, 26, "Too many"), "429"),
        (Reply(status=400, body=b"<html>a proxy's"), "not as HEC"),
        (Reply(status=200, body=b"<html>welcome"), "not as HEC"),
        (Reply(status=200, body=b"[]"), "not as HEC"),
        (said(200, 6, "no"), "not success"),
        (Reply(status=418), "418"),
        (Reply(status=200, body=b"x" * 200_000), "longer"),
    ],
)
def test_nothing_is_a_dead_letter_for_the_configuration(reply: Reply, why: str) -> None:
    async def main() -> None:
        async with Posts(Hec(WHO)) as server:
            server.faults.append(reply)
            sink = SplunkSink(options(server.url))
            with pytest.raises(SinkError, match=why):
                await sink.send(events(3))
            await sink.close()

    asyncio.run(main())


def test_acknowledgement_that_is_off_or_none() -> None:
    async def main() -> None:
        async with Posts(Hec(WHO)) as server:
            sink = SplunkSink(options(server.url, ack_s=1.0))
            with pytest.raises(SinkError, match="no ackId"):
                await sink.send(events(1))
            server.faults.extend([said(200, 0, "", ackId=1), said(400, 14, "ACK is disabled")])
            with pytest.raises(SinkError, match="ACK is disabled"):
                await sink.send(events(1))
            server.faults.extend([said(200, 0, "", ackId=1), Reply(body=b'{"acks":[]}')])
            with pytest.raises(SinkError, match="is none"):
                await sink.send(events(1))
            await sink.close()

    asyncio.run(main())


def test_a_token_that_expires_and_comes_back() -> None:
    async def main() -> None:
        hec = Hec("another")
        async with Posts(hec) as server:
            sink, sent = SplunkSink(options(server.url)), events(3)
            for _ in range(3):
                with pytest.raises(SinkError, match="Invalid token"):
                    await sink.send(sent)
            hec.token = WHO
            assert await sink.send(sent) == []
            await sink.close()
            assert hec.received == uids(sent)

    asyncio.run(main())


@pytest.mark.parametrize("token", [b"", b"a b", b"a\r\nx: y", "ä".encode()])
def test_a_token_that_is_none(token: bytes) -> None:
    with pytest.raises(ValueError, match="token"):
        options("http://127.0.0.1", token=token)


def test_options() -> None:
    assert WHO not in repr(options("http://127.0.0.1"))
    with pytest.raises(ValueError, match="no time"):
        options("http://127.0.0.1", ack_s=0.0)


@pytest.mark.soak
def test_throughput() -> None:
    """Prints; nothing is asserted of time."""

    async def main() -> float:
        hec = Hec(WHO)
        async with Posts(hec) as server:
            sink, sent = SplunkSink(options(server.url)), events(20_000, pad=700)
            begin = time.perf_counter()
            await deliver(sink, sent, size=500)
            took = time.perf_counter() - begin
            await sink.close()
            assert len(hec.received) == len(sent)
            return len(sent) / took

    print(f"\nsplunk: {asyncio.run(main()):,.0f} events/s, the stub included")  # noqa: T201
