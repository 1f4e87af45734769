"""Places for events, of every kind, to which all may happen: what the tests of all sinks do."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self

import zstandard
from confluent_kafka import Consumer, KafkaError, TopicPartition

from supervisor.export.build import Order, paced
from supervisor.export.sinks.file import FileOptions
from supervisor.export.sinks.http import Endpoint
from supervisor.export.sinks.journald import JournaldOptions
from supervisor.export.sinks.kafka import KafkaOptions
from supervisor.export.sinks.opensearch import OpenSearchOptions
from supervisor.export.sinks.otlp import OtlpOptions
from supervisor.export.sinks.relp import RelpOptions
from supervisor.export.sinks.s3 import Lines, S3Options
from supervisor.export.sinks.splunk import SplunkOptions
from supervisor.export.sinks.stdout import StdoutOptions
from supervisor.export.sinks.syslog import SyslogOptions
from supervisor.export.sinks.webhook import WebhookOptions
from supervisor.export.sinks.wire import Peer
from tests.support.exporting import HERE, SOURCE
from tests.support.journald import journald
from tests.support.kafka import Cluster
from tests.support.receiver import Receiver, free_port
from tests.support.rsyslog import rsyslog
from tests.support.seaweed import REGION, Seaweed
from tests.support.syslog_ng import syslog_ng
from tests.support.web_receiver import WHO
from tests.unit.export.sinks.samples import plain, secure
from tests.unit.export.sinks.servers import Certificates

Trouble = Callable[[random.Random], None]
UID = re.compile(rb'"uid":"([0-9]+-[0-9a-f]{16}-[0-9]+)","event_code"')


class Place(Protocol):
    """Where events go. `received` gives the uids of what is there, in the order of arrival, as
    often as each is; `troubles` are what may happen to it."""

    kind: str
    options: Any
    stdout: int
    troubles: Sequence[Trouble]

    def received(self) -> list[str]: ...


def order(place: Place, made_by: str = "ocsf", **pace: Any) -> Order:
    """Give the order for a place: its pump has the pace of its kind, and is not patient."""
    short = {"wait_min_s": 0.02, "wait_max_s": 0.3, "linger_s": 0.1, **pace}
    return Order(
        name="chaos", kind=place.kind, options=place.options, made_by=made_by, source=SOURCE,
        uid=0, pump=replace(paced(place.kind, place.options), **short),
    )  # fmt: skip


class Program:
    """A place that is a program of its own."""

    stdout = -1

    def __init__(self, kind: str, options: Any, receiver: Receiver, found: re.Pattern[bytes]):
        self.kind = kind
        self.options = options
        self.troubles = (self._kill, self._stall, self._stall_and_kill)
        self.receiver = receiver
        self._found = found

    def received(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            whole = self.receiver.lines_path.read_bytes()
            return [uid.decode() for uid in self._found.findall(whole[: whole.rfind(b"\n") + 1])]
        return []

    def _kill(self, chance: random.Random) -> None:
        self.receiver.kill()
        time.sleep(chance.random() / 5)
        self.receiver.start()

    def _stall(self, chance: random.Random) -> None:
        with self.receiver.stalled():
            time.sleep(chance.random() / 2)

    def _stall_and_kill(self, chance: random.Random) -> None:
        with self.receiver.stalled():
            time.sleep(chance.random() / 2)
            self.receiver.kill()
            self.receiver.start()


IN_SYSLOG = re.compile(
    rb'^(?:[^\n]*uid=")?([0-9]+-[0-9a-f]{16}-[0-9]+)[" ][^\n]*\}(?=\n)', re.MULTILINE
)
IN_LINES = re.compile(rb"^([0-9]+-[0-9a-f]{16}-[0-9]+)$", re.MULTILINE)


@contextlib.contextmanager
def syslog_place(folder: Path, name: str) -> Iterator[Place]:
    """Have an rsyslog (tls, relp) or a syslog-ng."""
    certificates = Certificates(folder)
    ca, chain = certificates.ca, certificates.chain()
    where = folder / "receiver"
    made = (
        syslog_ng(where, ca=ca, chain=chain)
        if name == "syslog-ng"
        else rsyslog(where, name, ca=ca, chain=chain)
    )
    kind, options = "relp", _relp(plain(made.port))
    if name != "relp":
        kind, options = "syslog", _syslog(secure(made.port, certificates.tls()))
    with made:
        yield Program(kind, options, made, IN_SYSLOG)


def _relp(peer: Peer) -> Any:
    return RelpOptions(peer=peer, host="web1", facility=13, event_bytes_max=60_000)


def _syslog(peer: Peer) -> Any:
    return SyslogOptions(
        peer=peer, host="web1", facility=13, event_bytes_max=60_000, proof_s=0.2, held_s=2.0
    )


@contextlib.contextmanager
def web_place(folder: Path, name: str, seed: int) -> Iterator[Place]:
    """Have a stub over HTTP or gRPC; `seed` is of the errors that it answers, 0 for none."""
    port, path = free_port(), folder / "received"
    path.touch()
    arguments: list[str | Path] = [
        sys.executable, "-m", "tests.support.web_receiver", name, str(port), path, str(seed),
    ]  # fmt: skip
    made = Receiver(arguments, port, path, {"PYTHONPATH": os.fspath(HERE)})
    where = Endpoint(
        url=f"http://127.0.0.1:{port}", tls=None, plain_because="a test", deadline_s=5.0
    )
    with made:
        yield Program(name.partition("-")[0], _web(name, where), made, IN_LINES)


def _web(name: str, where: Endpoint) -> Any:
    if name.startswith("splunk"):
        return SplunkOptions(
            endpoint=where, token=WHO.encode(), channel=uuid.UUID(int=7), host="box",
            source="stockade", sourcetype="stockade:ocsf",
            ack_s=1.0 if name == "splunk-ack" else None,
        )  # fmt: skip
    if name == "opensearch":
        return OpenSearchOptions(endpoint=where, auth=None, target="logs-stockade", stamp=True)
    if name == "webhook":
        return WebhookOptions(endpoint=where, secrets=(b"s" * 24,), single=False)
    return OtlpOptions(endpoint=where, grpc=name == "otlp-grpc", source=SOURCE, headers={})


class FilePlace:
    """A file that is renamed, and whose name is something else for a while."""

    kind = "file"
    stdout = -1

    def __init__(self, folder: Path) -> None:
        self._path = folder / "out" / "events"
        self._path.parent.mkdir()
        self._rotated = 0
        self.options = FileOptions(path=self._path)
        self.troubles = (self._rotate, self._obstruct)

    def received(self) -> list[str]:
        parts = [self._path.with_suffix(f".{n}") for n in range(self._rotated)]
        found: list[str] = []
        for part in (*parts, self._path):
            if part.is_file():
                found += [uid.decode() for uid in UID.findall(part.read_bytes())]
        return found

    def _rotate(self, _: random.Random) -> None:
        if self._path.is_file():
            self._path.rename(self._path.with_suffix(f".{self._rotated}"))
            self._rotated += 1

    def _obstruct(self, chance: random.Random) -> None:
        self._rotate(chance)
        with contextlib.suppress(FileExistsError):
            self._path.mkdir()
            time.sleep(chance.random() / 3)
            self._path.rmdir()


class StdoutPlace:
    """A pipe whose reader may stop."""

    kind = "stdout"

    def __init__(self) -> None:
        self._reading, self.stdout = os.pipe()
        self.options = StdoutOptions(stall_s=2.0)
        self.troubles = (self._stall,)
        self._go_on = threading.Event()
        self._go_on.set()
        self._data = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        os.close(self.stdout)
        self._thread.join()
        os.close(self._reading)

    def received(self) -> list[str]:
        lines = bytes(self._data).split(b"\n")[:-1]
        found = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # torn by a kill
                found.append(json.loads(line)["metadata"]["uid"])
        return found

    def _read(self) -> None:
        while True:
            self._go_on.wait()
            data = os.read(self._reading, 1 << 16)
            if not data:
                return
            self._data += data

    def _stall(self, chance: random.Random) -> None:
        self._go_on.clear()
        time.sleep(chance.random() / 2)
        self._go_on.set()


class JournaldPlace:
    """A journald that may stop. It cannot be killed here: its socket, which systemd would hold,
    ends with it."""

    kind = "journald"
    stdout = -1

    def __init__(self, made: Any) -> None:
        self._made = made
        self.options = JournaldOptions(path=made.socket)
        self.troubles = (self._stall,)

    def received(self) -> list[str]:
        return [entry["STOCKADE_UID"] for entry in self._made.entries(0)]

    def _stall(self, chance: random.Random) -> None:
        os.kill(self._made.pid, signal.SIGSTOP)
        time.sleep(chance.random() / 2)
        os.kill(self._made.pid, signal.SIGCONT)


class KafkaPlace:
    """A mock cluster whose brokers come and go, answer errors and are slow; it is read all the
    time, since it keeps little."""

    kind = "kafka"
    stdout = -1

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.options = KafkaOptions(
            brokers=cluster.brokers, topic=cluster.topic, key=SOURCE.origin, tls=None,
            plain_because="a test", sasl=None, deadline_s=3.0,
        )  # fmt: skip
        self.troubles = (self._down, self._fail, self._slow)
        self._found: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def received(self) -> list[str]:
        return list(self._found)

    def _read(self) -> None:
        consumer = Consumer(
            {"bootstrap.servers": ",".join(self._cluster.brokers), "group.id": "chaos",
             "enable.auto.commit": False, "reconnect.backoff.max.ms": 200, "log_level": 2},
        )  # fmt: skip
        consumer.assign([TopicPartition(self._cluster.topic, 0, 0)])
        while not self._ended.is_set():
            for message in consumer.consume(500, 0.1):
                if message.error() is None:
                    headers = dict(message.headers() or [])
                    uid = headers["uid"]
                    assert isinstance(uid, bytes)
                    self._found.append(uid.decode())
        consumer.close()

    def _down(self, chance: random.Random) -> None:
        brokers = range(1, self._cluster.count + 1)
        for broker in brokers:
            self._cluster.down(broker)
        time.sleep(chance.random() / 2)
        for broker in brokers:
            self._cluster.up(broker)

    def _fail(self, chance: random.Random) -> None:
        every = (
            KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.REQUEST_TIMED_OUT,
            KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._TRANSPORT,
        )  # fmt: skip
        self._cluster.fail(chance.choices(every, k=5))

    def _slow(self, chance: random.Random) -> None:
        for ms in (chance.randrange(300), 0):
            for broker in range(1, self._cluster.count + 1):
                self._cluster.slow(broker, ms)
            time.sleep(chance.random() / 4)


class S3Place:
    """A SeaweedFS that may stop or be killed."""

    kind = "s3"
    stdout = -1

    def __init__(self, server: Seaweed, options: S3Options) -> None:
        self._server = server
        self.options = options
        self.troubles = (self._stall, self._kill)

    def received(self) -> list[str]:
        found: list[str] = []
        for at, body in self._server.objects().items():
            assert at.endswith(".jsonl.zst")
            whole = zstandard.ZstdDecompressor().decompressobj().decompress(body)
            found += [uid.decode() for uid in UID.findall(whole)]
        return found

    def _stall(self, chance: random.Random) -> None:
        with self._server.stalled():
            time.sleep(chance.random())

    def _kill(self, _: random.Random) -> None:
        self._server.kill()
        self._server.start()


@contextlib.contextmanager
def s3_place(folder: Path) -> Iterator[Place]:
    """Have one."""
    with Seaweed(folder, "AKIDTEST", "wJalrXUtnFEMIK7MDENGtest", "lake") as server:
        where = Endpoint(url=server.url, tls=None, plain_because="a test", deadline_s=5.0)
        yield S3Place(
            server,
            S3Options(
                endpoint=where, region=REGION, bucket="lake", key_id="AKIDTEST",
                secret=b"wJalrXUtnFEMIK7MDENGtest", layout=Lines(),
            ),
        )  # fmt: skip


SYSLOGS = ("tls", "syslog-ng", "relp")
WEBS = ("splunk", "splunk-ack", "opensearch", "webhook", "otlp-http", "otlp-grpc")
PLACES = (*SYSLOGS, *WEBS, "file", "stdout", "journald", "kafka", "s3")


@contextlib.contextmanager
def place(name: str, folder: Path, seed: int) -> Iterator[Place]:
    """Have a place of a kind, with all of it in a folder."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        if name in SYSLOGS:
            yield stack.enter_context(syslog_place(folder, name))
        elif name in WEBS:
            yield stack.enter_context(web_place(folder, name, seed))
        elif name == "file":
            yield FilePlace(folder)
        elif name == "stdout":
            yield stack.enter_context(StdoutPlace())
        elif name == "journald":
            yield JournaldPlace(stack.enter_context(journald()))
        elif name == "kafka":
            cluster = stack.enter_context(Cluster("stockade"))
            yield stack.enter_context(KafkaPlace(cluster))
        else:
            yield stack.enter_context(s3_place(folder))
