"""Kafka, against librdkafka's mock cluster, over sockets."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from supervisor.export.sink import Refused, SinkError
from supervisor.export.sinks.http import HttpTls
from supervisor.export.sinks.kafka import KafkaOptions, KafkaSink, Sasl
from tests.support.deliveries import deliver, event, events, firsts, uids
from tests.support.kafka import Cluster

TOPIC = "stockade"
WHO = b"pass-word"


def options(brokers: tuple[str, ...], **more: object) -> KafkaOptions:
    given = {
        "brokers": brokers, "topic": TOPIC, "key": "box.example/log", "tls": None,
        "plain_because": "a test", "sasl": None, "deadline_s": 10.0, **more,
    }  # fmt: skip
    return KafkaOptions(**given)  # type: ignore[arg-type]


def received(cluster: Cluster) -> list[str]:
    return [json.loads(message.value() or b"")["uid"] for message in cluster.messages()]


def test_all_arrive_in_order() -> None:
    async def main() -> None:
        with Cluster(TOPIC) as cluster:
            sink, sent = KafkaSink(options(cluster.brokers)), events(100)
            assert await deliver(sink, sent, size=30) == ([], 0)
            await sink.close()
            await sink.close()
            assert received(cluster) == uids(sent)
            message = cluster.messages()[7]
            assert message.key() == b"box.example/log"
            assert message.headers() == [("uid", sent[7].uid.encode()), ("index", b"7")]
            assert message.timestamp()[1] == sent[7].time_ns // 10**6

    asyncio.run(main())


def test_brokers_that_come_and_go() -> None:
    async def main() -> None:
        with Cluster(TOPIC) as cluster:
            sink, sent = KafkaSink(options(cluster.brokers, deadline_s=1.0)), events(300)
            task = asyncio.create_task(deliver(sink, sent, size=5))
            for round_ in range(3):
                await asyncio.sleep(0.1)
                for broker in range(1, cluster.count + 1):
                    cluster.down(broker)
                await asyncio.sleep(1.2 if round_ == 1 else 0.2)
                for broker in range(1, cluster.count + 1):
                    cluster.up(broker)
            dead, _ = await task
            await sink.close()
            assert not dead
            assert firsts(received(cluster)) == uids(sent)

    asyncio.run(main())


def test_errors_that_pass() -> None:
    """Librdkafka sends again by itself where it may; else the batch comes again."""

    async def main() -> None:
        with Cluster(TOPIC) as cluster:
            sink, sent = KafkaSink(options(cluster.brokers)), events(60)
            cluster.fail(
                [
                    KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.NOT_LEADER_FOR_PARTITION,
                    KafkaError.REQUEST_TIMED_OUT, KafkaError.TOPIC_AUTHORIZATION_FAILED,
                    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, KafkaError.UNKNOWN,
                ]
            )  # fmt: skip
            dead, failed = await deliver(sink, sent, size=10)
            await sink.close()
            assert not dead
            assert failed
            assert firsts(received(cluster)) == uids(sent)

    asyncio.run(main())


def test_a_cluster_that_stalls_and_a_task_that_is_stopped() -> None:
    async def main() -> None:
        with Cluster(TOPIC, brokers=1) as cluster:
            sink, sent = KafkaSink(options(cluster.brokers, deadline_s=1.0)), events(10)
            assert (await deliver(sink, sent[:5], size=5))[0] == []
            cluster.slow(1, 60_000)
            with pytest.raises(SinkError):
                await sink.send(sent[5:])
            task = asyncio.create_task(sink.send(sent[5:]))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            cluster.slow(1, 0)
            assert (await deliver(sink, sent[5:], size=5))[0] == []
            await sink.close()
            assert firsts(received(cluster)) == uids(sent)

    asyncio.run(main())


def test_nobody_there() -> None:
    async def main() -> None:
        sink = KafkaSink(options(("127.0.0.1:1",), deadline_s=0.5))
        with pytest.raises(SinkError, match="Connection refused"):
            await sink.send(events(1))
        await sink.close()
        with pytest.raises((SinkError, RuntimeError)):
            await sink.send(events(1))

    asyncio.run(main())


def test_closing_does_not_wait_for_the_deadline() -> None:
    async def main() -> None:
        sink = KafkaSink(options(("127.0.0.1:1",), deadline_s=300.0))
        task = asyncio.create_task(sink.send(events(1)))
        await asyncio.sleep(0.1)
        await sink.close()
        with pytest.raises(SinkError, match="closed"):
            await task

    asyncio.run(main())


def test_what_is_too_large_here() -> None:
    async def main() -> None:
        with Cluster(TOPIC) as cluster:
            sink = KafkaSink(options(cluster.brokers, message_bytes_max=2000))
            sent = [*events(3), event(3, pad=3000), *events(6)[4:]]
            (rejected,) = await sink.send(sent)
            await sink.close()
            assert rejected.position == 3
            assert received(cluster) == uids(sent[:3] + sent[4:])

    asyncio.run(main())


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD])
def test_what_brokers_never_take(code: int) -> None:
    """Their word is for all messages of a request, so none of several is rejected for it."""

    async def main() -> None:
        with Cluster(TOPIC) as cluster:
            sink, sent = KafkaSink(options(cluster.brokers)), events(6)
            cluster.fail([code])
            with pytest.raises(Refused):
                await sink.send(sent)
            cluster.fail([code])
            (rejected,) = await sink.send(sent[:1])
            assert rejected.position == 0
            assert await sink.send(sent[1:]) == []
            await sink.close()
            assert received(cluster) == uids(sent[1:])

    asyncio.run(main())


def test_options() -> None:
    tls = HttpTls(ca=Path("ca.pem"), certificate=Path("us.pem"), key=Path("us.key"))
    sasl = Sasl(mechanism="SCRAM-SHA-512", user="us", password=WHO)
    made = options(("a:1", "b:2"), tls=tls, plain_because="", sasl=sasl)
    assert "pass-word" not in repr(made)
    given = made.settings()
    assert given["security.protocol"] == "SASL_SSL"
    assert given["ssl.endpoint.identification.algorithm"] == "https"
    assert given["sasl.password"] == "pass-word"
    assert (given["acks"], given["enable.idempotence"]) == ("all", True)
    assert options(("a:1",)).settings()["security.protocol"] == "PLAINTEXT"
    for wrong in (
        {"topic": ""},
        {"brokers": ()},
        {"plain_because": ""},
        {"tls": tls},
        {"deadline_s": 301.0},
    ):
        with pytest.raises(ValueError):  # each has its own text
            options(**{"brokers": ("a:1",), **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mechanism"):
        Sasl(mechanism="GSSAPI", user="us", password=WHO)


@pytest.mark.soak
def test_throughput() -> None:
    """Prints; nothing is asserted of time."""

    async def main() -> float:
        with Cluster(TOPIC) as cluster:
            sink, sent = KafkaSink(options(cluster.brokers)), events(20_000, pad=700)
            begin = time.perf_counter()
            await deliver(sink, sent, size=500)
            took = time.perf_counter() - begin
            await sink.close()
            return len(sent) / took

    print(f"\nkafka: {asyncio.run(main()):,.0f} events/s, the mock cluster included")  # noqa: T201
