"""librdkafka's mock cluster, from the library that confluent-kafka brings: brokers that listen on
loopback, keep what they get, and fail as they are told to (rdkafka_mock.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import confluent_kafka
from confluent_kafka import Consumer, TopicPartition

PRODUCER = 0
PRODUCE = 0
"""ApiKey of a ProduceRequest."""

QUIET_S = 30.0


def _library() -> Any:
    package = Path(confluent_kafka.__file__).parent
    (path,) = (package.parent / "confluent_kafka.libs").glob("librdkafka*.so*")
    library = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class Cluster:
    """Some brokers, and one topic with one partition. A context manager."""

    def __init__(self, topic: str, brokers: int = 3) -> None:
        self.topic = topic
        self.count = brokers
        self._library = _library()

    def __enter__(self) -> Self:
        library = self._library
        self._client = ctypes.c_void_p(
            library.rd_kafka_new(PRODUCER, ctypes.c_void_p(library.rd_kafka_conf_new()), None, 0)
        )
        self._cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(self._client, self.count))
        assert self._client.value
        assert self._cluster.value
        assert not library.rd_kafka_mock_topic_create(
            self._cluster, self.topic.encode(), 1, self.count
        )
        text = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self.brokers = tuple(text.split(","))
        return self

    def __exit__(self, *_: object) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def down(self, broker: int) -> None:
        """End a broker's connections, and take no more; brokers count from 1."""
        assert not self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def up(self, broker: int) -> None:
        """Have it back, with what it had."""
        assert not self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def slow(self, broker: int, ms: int) -> None:
        """Delay each answer of a broker."""
        assert not self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, ms)

    def fail(self, errors: Sequence[int]) -> None:
        """Answer the next ProduceRequests with these errors."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(PRODUCE), ctypes.c_size_t(len(errors)), array
        )

    def messages(self) -> list[confluent_kafka.Message]:
        """Read the partition, with a consumer of its own, up to its end."""
        consumer = Consumer(
            {
                "bootstrap.servers": ",".join(self.brokers), "group.id": "test",
                "enable.auto.commit": False, "enable.partition.eof": True,
            }
        )  # fmt: skip
        consumer.assign([TopicPartition(self.topic, 0, 0)])
        found: list[confluent_kafka.Message] = []
        try:
            while (message := consumer.poll(QUIET_S)) is not None:
                error = message.error()
                if error is not None:
                    assert error.code() == confluent_kafka.KafkaError._PARTITION_EOF, error.str()
                    return found
                found.append(message)
        finally:
            consumer.close()
        raise AssertionError("the partition has no end")
