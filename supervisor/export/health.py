"""How a sink does, for who is on call: from what its process says of itself, and how far the log
is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from supervisor.export.exporter import SinkState
from supervisor.export.pump import Circuit


class Place(NamedTuple):
    """A place in the log: how many entries and bytes come before it, and when the entry at it was
    written, in seconds since the epoch."""

    entries: int
    bytes: int
    time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkHealth:
    """How a sink does.

    `up`: its process runs, and the other side takes what it is sent; `why` says why not. `lag_*` is
    what is durable and not acknowledged; `lag_s` the age of the oldest of that, in seconds. What is
    None is not known. `acknowledged` is the index below which all is, `acknowledged_at` when that
    moved, in seconds since the epoch, 0 for never. `events` and `retries` count since the sink's
    process began. `dead` are the dead letters that wait.
    """

    name: str
    kind: str
    up: bool
    why: str
    circuit: str
    lag_entries: int
    lag_bytes: int | None
    lag_s: float | None
    acknowledged: int
    acknowledged_at: float
    events: int
    retries: int
    dead: int


def health_of(state: SinkState, *, durable: Place, at: Place | None, now_s: float) -> SinkHealth:
    """Give how a sink does. `durable` is the end of what is durable; `at` is the place of the entry
    that it is to acknowledge next, None where that is not known; `now_s` is seconds since the
    epoch."""
    said = state.said
    circuit = str(said.get("circuit", Circuit.CLOSED.value))
    lag = max(0, durable.entries - state.index)
    lag_bytes: int | None = 0
    lag_s: float | None = 0.0
    if lag:
        lag_bytes = None if at is None else max(0, durable.bytes - at.bytes)
        lag_s = None if at is None else max(0.0, now_s - at.time_s)
    return SinkHealth(
        name=state.name,
        kind=state.kind,
        up=state.running and circuit == Circuit.CLOSED,
        why=state.why or str(said.get("why", "")),
        circuit=circuit,
        lag_entries=lag,
        lag_bytes=lag_bytes,
        lag_s=lag_s,
        acknowledged=state.index,
        acknowledged_at=float(said.get("acknowledged_at", 0.0)),
        events=int(said.get("events", 0)),
        retries=int(said.get("retries", 0)),
        dead=state.letters,
    )
