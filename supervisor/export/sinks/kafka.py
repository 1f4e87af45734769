"""Kafka, with librdkafka as an idempotent producer: taken is what all replicas in sync have.

All events of a log have one key, its name, so they are in one partition, in order. The producer is
made anew after each failure, at the first one, with one request under way at a time: as far as that
can be done, nothing is there before what was to come first. What an old producer still had under
way may arrive, and arrives again.
A broker answers for several messages at once, so where it refuses them for ever, and there are more
than one, each has to be tried alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from supervisor.export.event import Event
from supervisor.export.sink import Refused, Rejected, SinkError
from supervisor.export.sinks.http import HttpTls, clean
from supervisor.export.sinks.lane import Lane

POLL_S = 0.05
SPARE_S = 5.0
"""How much longer the thread is waited for than what it does may take."""

DEADLINE_S_MAX = 300.0
LOG_LEVEL = 2
"""Critical: a broker that is away would be told of once a second. What is wrong is in the error."""

QUEUE_MESSAGES = 100_000
MECHANISMS = frozenset({"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"})

NEVER = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD}
)
"""Errors that are about what was sent. All others may pass, or are the configuration's."""

log = logging.getLogger("stockade.export")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sasl:
    """Who we are to the brokers."""

    mechanism: str
    user: str
    password: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.mechanism not in MECHANISMS:
            raise ValueError(f"a mechanism is one of {', '.join(sorted(MECHANISMS))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """`brokers` are "host:port"; `key` is the log's name. Without `tls`, `plain_because` has to say
    why that is well. `message_bytes_max` is what the topic takes, with key and headers."""

    brokers: tuple[str, ...]
    topic: str
    key: str
    tls: HttpTls | None
    plain_because: str = ""
    sasl: Sasl | None
    deadline_s: float = 20.0
    message_bytes_max: int = 1_000_000
    compression: str = "zstd"

    def __post_init__(self) -> None:
        if not self.brokers or not self.topic or not self.key:
            raise ValueError("brokers, a topic and a key have to be named")
        if not 0 < self.deadline_s <= DEADLINE_S_MAX:
            raise ValueError(f"a deadline is of {DEADLINE_S_MAX:g} s at most")
        if (self.tls is None) != bool(self.plain_because):
            raise ValueError("without TLS, and only then, it has to be said why that is well")

    def settings(self) -> dict[str, Any]:
        """Give them as librdkafka reads them; passwords are in there."""
        ms = int(self.deadline_s * 1000)
        given: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.brokers),
            "client.id": "stockade",
            "acks": "all",
            "enable.idempotence": True,
            "max.in.flight.requests.per.connection": 1,
            "allow.auto.create.topics": False,
            "delivery.timeout.ms": ms,
            "request.timeout.ms": ms,
            "socket.timeout.ms": ms,
            "reconnect.backoff.max.ms": 1000,
            "linger.ms": 5,
            "compression.type": self.compression,
            "log_level": LOG_LEVEL,
            "message.max.bytes": self.message_bytes_max,
            "queue.buffering.max.messages": QUEUE_MESSAGES,
            "security.protocol": _protocol(self.tls is not None, self.sasl is not None),
        }
        if self.tls is not None:
            given["ssl.ca.location"] = str(self.tls.ca)
            given["ssl.endpoint.identification.algorithm"] = "https"
            if self.tls.certificate is not None:
                given["ssl.certificate.location"] = str(self.tls.certificate)
                given["ssl.key.location"] = str(self.tls.key)
        if self.sasl is not None:
            given["sasl.mechanism"] = self.sasl.mechanism
            given["sasl.username"] = self.sasl.user
            given["sasl.password"] = self.sasl.password.decode()
        return given


def _protocol(tls: bool, sasl: bool) -> str:
    return ("SASL_" if sasl else "") + ("SSL" if tls else "PLAINTEXT")


class KafkaSink:
    """The sink. Errors are those of `Sink`."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._lane = Lane("kafka", options.deadline_s + SPARE_S)
        self._stop = threading.Event()
        self._producer: Producer | None = None
        self._trouble = ""

    async def send(self, batch: Sequence[Event]) -> Sequence[Rejected]:
        """Send a batch; return once the brokers have answered for each event.

        Raises:
            SinkError: some are not there, and may be later.
            Refused: together they never will be.
        """
        rejected: list[Rejected] = []
        await self._lane.run(self._deliver, batch, rejected)
        return sorted(rejected)

    def trails(self) -> int:
        """Give none: each has its answer."""
        return 0

    async def close(self) -> None:
        """Part; what is under way is given up."""
        self._stop.set()
        try:
            await self._lane.run(self._drop)
        except (SinkError, RuntimeError) as error:  # the thread hangs, or has ended
            log.debug("closing the sink: %s", error)
        self._lane.close()

    def _deliver(self, batch: Sequence[Event], rejected: list[Rejected]) -> None:
        done = False
        try:
            if self._producer is None:
                self._trouble = ""
                settings = {**self._options.settings(), "error_cb": self._heed}
                # Without a logger, librdkafka would write to stderr.
                self._producer = Producer(settings, logger=log)
            reports = _Reports()
            until = time.monotonic() + self._options.deadline_s
            sent = [
                at for at, event in enumerate(batch)
                if not self._produce(self._producer, event, at, reports, rejected, until)
            ]  # fmt: skip
            while len(reports.errors) < len(sent) and not reports.wrong:
                self._wait(self._producer, until)
            self._judge(sent, reports, rejected)
            done = True
        except KafkaException as error:
            raise SinkError(self._told(error.args[0])) from None
        finally:
            if not done:
                self._drop()

    def _produce(
        self, producer: Producer, event: Event, at: int, reports: _Reports,
        rejected: list[Rejected], until: float,
    ) -> bool:  # fmt: skip
        """Hand an event over; say whether it is rejected, since no topic takes it."""
        while True:
            try:
                producer.produce(
                    self._options.topic, event.data, self._options.key,
                    on_delivery=reports.of(at), timestamp=event.time_ns // 10**6,
                    headers=[("uid", event.uid), ("index", str(event.index))],
                )  # fmt: skip
            except BufferError:
                self._wait(producer, until)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                rejected.append(Rejected(at, f"more than {self._options.message_bytes_max} bytes"))
                return True
            else:
                return False

    def _wait(self, producer: Producer, until: float) -> None:
        if self._stop.is_set():
            raise SinkError("the sink is closed")
        if time.monotonic() > until:
            why = f"no word from the brokers in {self._options.deadline_s:g} s"
            raise SinkError(self._with_trouble(why))
        producer.poll(POLL_S)

    def _judge(self, sent: Sequence[int], reports: _Reports, rejected: list[Rejected]) -> None:
        if not reports.wrong:
            return
        first = next((one for one in reports.wrong if one.code() not in NEVER), reports.wrong[0])
        why = self._told(first)
        if first.code() not in NEVER:
            raise SinkError(self._with_trouble(why))
        if len(sent) > 1:
            raise Refused(why)
        rejected.append(Rejected(sent[0], why))
        self._drop()

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(0)

    def _heed(self, error: KafkaError) -> None:
        """Note what librdkafka says of brokers: that an event had no answer does not say why."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._trouble = self._told(error)

    def _with_trouble(self, why: str) -> str:
        return f"{why} ({self._trouble})" if self._trouble else why

    def _told(self, error: KafkaError) -> str:
        secrets = [self._options.sasl.password] if self._options.sasl else []
        return f"{error.name()}: {clean(error.str(), secrets)}"


class _Reports:
    """The brokers' word on each event, by position: an error, or None."""

    def __init__(self) -> None:
        self.errors: dict[int, KafkaError | None] = {}
        self.wrong: list[KafkaError] = []

    def of(self, at: int) -> Callable[[KafkaError | None, object], None]:
        def tell(error: KafkaError | None, _: object) -> None:
            self.errors[at] = error
            if error is not None:
                self.wrong.append(error)

        return tell
