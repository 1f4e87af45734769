"""Orders, and the sinks that are made of them."""

from __future__ import annotations

import dataclasses
import importlib
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from supervisor.export.build import SINKS, Order, make_encoder, make_sink, paced
from supervisor.export.event import Source
from supervisor.export.formats.fitting import Fitting
from supervisor.export.formats.plain import Plain
from supervisor.export.pump import PumpOptions
from supervisor.export.sinks.file import FileOptions, FileSink
from supervisor.export.sinks.http import Endpoint
from supervisor.export.sinks.journald import JournaldOptions
from supervisor.export.sinks.kafka import KafkaOptions
from supervisor.export.sinks.opensearch import OpenSearchOptions
from supervisor.export.sinks.otlp import OtlpOptions
from supervisor.export.sinks.relp import RelpOptions
from supervisor.export.sinks.s3 import Lines, S3Options, SecurityLake
from supervisor.export.sinks.splunk import SplunkOptions
from supervisor.export.sinks.stdout import StdoutOptions
from supervisor.export.sinks.syslog import SyslogOptions
from supervisor.export.sinks.traces import TracesOptions
from supervisor.export.sinks.webhook import WebhookOptions
from supervisor.export.sinks.wire import Peer

ORDER = Order(
    name="archive",
    kind="file",
    options=FileOptions(path=Path("/x/y")),
    made_by="json",
    source=Source(origin="o", host="h", version="v"),
    uid=0,
)


def test_an_order_comes_as_it_was_and_nothing_of_it_is_on_disk() -> None:
    fd = ORDER.write()
    try:
        assert Order.read(fd) == ORDER
        assert Path(f"/proc/self/fd/{fd}").readlink().name.startswith("memfd:")
    finally:
        os.close(fd)


def test_what_is_shown_of_an_order_has_none_of_its_secrets() -> None:
    assert "/x/y" not in repr(ORDER)


def test_the_sink_is_of_the_kind_that_was_ordered() -> None:
    assert isinstance(make_sink(ORDER), FileSink)


@pytest.mark.parametrize("kind", sorted(SINKS))
def test_every_kind_is_there(kind: str) -> None:
    module, name = SINKS[kind]
    assert hasattr(importlib.import_module(module), name)


PEER = Peer(host="h", port=1, tls=None, plain_because="a test", connect_s=7.0, stall_s=40.0)
WEB = Endpoint(url="http://h", tls=None, plain_because="a test", deadline_s=77.0)
LAKE = SecurityLake(source="s", region="r", account="1")
OPTIONS: dict[str, tuple[Any, float]] = {
    "file": (FileOptions(path=Path("/x"), deadline_s=50.0), 50.0),
    "stdout": (StdoutOptions(stall_s=50.0), 50.0),
    "journald": (JournaldOptions(stall_s=50.0), 50.0),
    "syslog": (SyslogOptions(peer=PEER, host="h", facility=1), 48.0),
    "relp": (RelpOptions(peer=PEER, host="h", facility=1), 47.0),
    "kafka": (KafkaOptions(brokers=("b:1",), topic="t", key="k", tls=None, plain_because="a",
                           sasl=None, deadline_s=200.0), 205.0),
    "splunk": (SplunkOptions(endpoint=WEB, token=b"t", channel=uuid.UUID(int=1), host="h",
                             source="s", sourcetype="t", ack_s=500.0), 577.0),
    "otlp": (OtlpOptions(endpoint=WEB, grpc=False, source=ORDER.source, headers={}), 77.0),
    "traces": (TracesOptions(endpoint=WEB, grpc=False, source=ORDER.source, headers={}), 77.0),
    "opensearch": (OpenSearchOptions(endpoint=WEB, auth=None, target="t", stamp=False), 77.0),
    "webhook": (WebhookOptions(endpoint=WEB, secrets=(b"s" * 24,), single=False), 77.0),
    "s3": (S3Options(endpoint=WEB, region="r", bucket="b", key_id="k", secret=b"s", layout=LAKE),
           77.0),
}  # fmt: skip
"""Of each kind, options and how long a single answer may take with them."""


@pytest.mark.parametrize("kind", sorted(SINKS))
def test_a_pump_waits_longer_than_its_sink(kind: str) -> None:
    options, seconds = OPTIONS[kind]
    assert paced(kind, options).deadline_s > seconds


def test_objects_of_a_store_are_few_and_large() -> None:
    lake = OPTIONS["s3"][0]
    assert paced("s3", lake).linger_s == 300.0
    lines = S3Options(
        endpoint=WEB, region="r", bucket="b", key_id="k", secret=b"s", layout=Lines()
    )  # fmt: skip
    assert paced("s3", lines).linger_s == 60.0
    assert paced("s3", lines).batch_events > PumpOptions().batch_events


def test_a_post_for_each_event_makes_batches_small() -> None:
    single = WebhookOptions(endpoint=WEB, secrets=(b"s" * 24,), single=True)
    assert paced("webhook", single).batch_events < PumpOptions().batch_events


def test_no_pace_for_what_is_no_sink() -> None:
    with pytest.raises(ValueError, match="no kind of sink 'fax'"):
        paced("fax", None)


def test_events_are_made_to_fit_where_the_sink_has_a_bound() -> None:
    syslog = dataclasses.replace(ORDER, kind="syslog", options=OPTIONS["syslog"][0])
    assert isinstance(make_encoder(syslog), Fitting)
    assert isinstance(make_encoder(ORDER), Plain)
