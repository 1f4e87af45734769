"""Sinks as values, and requests about them."""

from __future__ import annotations

import pytest

from supervisor.client import sinks
from supervisor.client.sinks import SinkStatus
from supervisor.errors import InvariantError
from supervisor.v1 import export_pb2
from tests.unit.client import fake_daemon as fake


def test_a_sink() -> None:
    message = fake.sink(lag_entries=3, lag_bytes=900, retries=2, dead_letters=1)
    message.lag.FromMilliseconds(1500)
    found = sinks.sink(message)
    assert (found.name, found.kind, found.format) == ("siem", "syslog", "ocsf")
    assert (found.status, found.fails) == (SinkStatus.RUNNING, False)
    assert (found.acknowledged, found.acknowledged_at_ns) == (1200, fake.START_NS)
    assert (found.lag_entries, found.lag_bytes, found.lag_s) == (3, 900, 1.5)
    assert (found.events, found.retries, found.dead_letters) == (1300, 2, 1)
    assert (found.failing_since_ns, found.replaying_from) == (0, None)


def test_a_sink_that_fails() -> None:
    message = fake.sink(status=export_pb2.SINK_STATUS_FAILING, why="no", replaying_from=0)
    message.failing_since.FromNanoseconds(7)
    found = sinks.sink(message)
    assert (found.status, found.why, found.fails) == (SinkStatus.FAILING, "no", True)
    assert (found.failing_since_ns, found.replaying_from) == (7, 0)
    assert sinks.sink(fake.sink(status=export_pb2.SINK_STATUS_STOPPED)).fails


@pytest.mark.parametrize("status", [0, 9])
def test_a_status_of_a_newer_daemon_is_no_guess(status: int) -> None:
    with pytest.raises(InvariantError) as caught:
        sinks.sink(fake.sink(status=status))
    assert caught.value.reason == "MESSAGE_UNKNOWN"


def test_every_status_is_known() -> None:
    numbers = set(export_pb2.SinkStatus.values()) - {export_pb2.SINK_STATUS_UNSPECIFIED}
    assert {sinks.sink(fake.sink(status=number)).status for number in numbers} == set(SinkStatus)


def test_letters() -> None:
    found = sinks.dead_letter(fake.letter(7, call_id="call-1"))
    assert (found.index, found.uid, found.why) == (7, "7-ab-0", "it is too large")
    assert (found.time_ns, found.kind, found.call_id) == (fake.START_NS, "output", "call-1")
    message = export_pb2.RedeliverDeadLettersResponse(
        letters=3, delivered=["1-ab-0"], refused=[fake.letter(2)]
    )
    some = sinks.redelivered(message)
    assert (some.letters, some.delivered, some.refused[0].index) == (3, ("1-ab-0",), 2)


def test_requests() -> None:
    assert sinks.test_request("siem", 1.5).wait.ToMilliseconds() == 1500
    by_index = sinks.replay_request("siem", index=0, time_ns=None, dry_run=True)
    assert (by_index.WhichOneof("from"), by_index.index, by_index.dry_run) == ("index", 0, True)
    by_time = sinks.replay_request("siem", index=None, time_ns=7, dry_run=False)
    assert (by_time.WhichOneof("from"), by_time.time.nanos) == ("time", 7)
    neither = sinks.replay_request("siem", index=None, time_ns=None, dry_run=False)
    assert neither.WhichOneof("from") is None


def test_a_reload() -> None:
    found = sinks.reloaded(export_pb2.ReloadResponse(added=["a", "b"], ignored=["limits"]))
    assert (found.added, found.removed, found.ignored) == (("a", "b"), (), ("limits",))
