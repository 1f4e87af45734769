"""The sinks of a daemon as values, and the requests about them. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from supervisor.errors import InvariantError
from supervisor.v1 import export_pb2

NANOS = 10**9


class SinkStatus(enum.StrEnum):
    """Whether a sink gets on: the other side takes what it is sent, or does not, or the sink's
    process does not run."""

    RUNNING = "running"
    FAILING = "failing"
    STOPPED = "stopped"


_STATUSES = {
    export_pb2.SINK_STATUS_RUNNING: SinkStatus.RUNNING,
    export_pb2.SINK_STATUS_FAILING: SinkStatus.FAILING,
    export_pb2.SINK_STATUS_STOPPED: SinkStatus.STOPPED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """How a sink does: all below the index `acknowledged` has arrived, what is durable beyond it is
    its lag, of which the oldest entry is `lag_s` old, where that is known. `events` and `retries`
    count since its process began. It gets what it had again from `replaying_from` on, where that is
    not None. Times are 0 where there are none."""

    name: str
    kind: str
    format: str
    status: SinkStatus
    why: str
    failing_since_ns: int
    acknowledged: int
    acknowledged_at_ns: int
    lag_entries: int
    lag_bytes: int
    lag_s: float
    events: int
    retries: int
    dead_letters: int
    replaying_from: int | None

    @property
    def fails(self) -> bool:
        """Say whether it does not get on."""
        return self.status is not SinkStatus.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkTest:
    """How far a test is: its entry, and whether the sink has acknowledged that. `refused` is why it
    is a dead letter, "" where it is none."""

    index: int
    acknowledged: bool
    refused: str
    waited_s: float
    sink: Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkReplay:
    """What a sink gets again: so many entries, from `index` on."""

    index: int
    entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that was refused for good. `kind` and `call_id` are of its entry, "" where they were
    not asked for; the daemon's own entries have no call."""

    index: int
    uid: str
    why: str
    time_ns: int
    kind: str = ""
    call_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redelivered:
    """What became of some of `letters` dead letters: uids of those that arrived, and those that did
    not, with the new reason."""

    letters: int
    delivered: tuple[str, ...]
    refused: tuple[DeadLetter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinksReloaded:
    """What a configuration that was read again has changed: sinks by their names; `ignored` are
    other keys that changed, for which the daemon has to start anew."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    ignored: tuple[str, ...]


def sink(message: export_pb2.Sink) -> Sink:
    """Give a sink as a value.

    Raises:
        InvariantError: `MESSAGE_UNKNOWN`.
    """
    if message.status not in _STATUSES:
        raise InvariantError("MESSAGE_UNKNOWN", f"this client knows no status {message.status}")
    return Sink(
        name=message.name,
        kind=message.kind,
        format=message.format,
        status=_STATUSES[message.status],
        why=message.why,
        failing_since_ns=_ns(message.failing_since),
        acknowledged=message.acknowledged,
        acknowledged_at_ns=_ns(message.acknowledged_at),
        lag_entries=message.lag_entries,
        lag_bytes=message.lag_bytes,
        lag_s=_seconds(message.lag),
        events=message.events,
        retries=message.retries,
        dead_letters=message.dead_letters,
        replaying_from=message.replaying_from if message.HasField("replaying_from") else None,
    )


def sink_test(message: export_pb2.TestSinkResponse) -> SinkTest:
    """Give how far a test is as a value."""
    return SinkTest(
        index=message.index,
        acknowledged=message.acknowledged,
        refused=message.refused,
        waited_s=_seconds(message.waited),
        sink=sink(message.sink),
    )


def dead_letter(message: export_pb2.DeadLetter) -> DeadLetter:
    """Give a dead letter as a value."""
    return DeadLetter(
        index=message.index,
        uid=message.uid,
        why=message.why,
        time_ns=_ns(message.time),
        kind=message.kind,
        call_id=message.call_id,
    )


def redelivered(message: export_pb2.RedeliverDeadLettersResponse) -> Redelivered:
    """Give what became of some letters as a value."""
    return Redelivered(
        letters=message.letters,
        delivered=tuple(message.delivered),
        refused=tuple(map(dead_letter, message.refused)),
    )


def replay(message: export_pb2.ReplaySinkResponse) -> SinkReplay:
    """Give what is sent again as a value."""
    return SinkReplay(index=message.index, entries=message.entries)


def reloaded(message: export_pb2.ReloadResponse) -> SinksReloaded:
    """Give what changed as a value."""
    return SinksReloaded(
        added=tuple(message.added),
        removed=tuple(message.removed),
        changed=tuple(message.changed),
        unchanged=tuple(message.unchanged),
        ignored=tuple(message.ignored),
    )


def test_request(name: str, wait_s: float) -> export_pb2.TestSinkRequest:
    """Give the request to test a sink."""
    request = export_pb2.TestSinkRequest(sink=name)
    request.wait.FromNanoseconds(round(wait_s * NANOS))
    return request


def replay_request(
    name: str, *, index: int | None, time_ns: int | None, dry_run: bool
) -> export_pb2.ReplaySinkRequest:
    """Give the request to send from an entry or a time on again."""
    request = export_pb2.ReplaySinkRequest(sink=name, index=index, dry_run=dry_run)
    if index is None and time_ns is not None:
        request.time.FromNanoseconds(time_ns)
    return request


def _ns(stamp: Timestamp) -> int:
    return stamp.seconds * NANOS + stamp.nanos


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / NANOS
