"""How a sink does, for who is on call: from what its process says of itself, and how far the log
is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.export.exporter import Lag, SinkState
from supervisor.export.pump import Circuit


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkHealth:
    """How a sink does.

    `up`: its process runs, and the other side takes what it is sent; `why` says why not. `lag_*` is
    what is durable and not acknowledged; `lag_s` the age of the oldest of that, in seconds, None
    where that is not known, since the sink's process never ran. `acknowledged` is the index below
    which all is, `acknowledged_at` when that moved, in seconds since the epoch, 0 for never.
    `events` and `retries` count since the sink's process began. `dead` are the dead letters that
    wait.
    """

    name: str
    kind: str
    up: bool
    why: str
    circuit: str
    lag_entries: int
    lag_bytes: int
    lag_s: float | None
    acknowledged: int
    acknowledged_at: float
    events: int
    retries: int
    dead: int


def health_of(state: SinkState, lag: Lag) -> SinkHealth:
    """Give how a sink does, from what is known of it and how far it is behind."""
    said = state.said
    circuit = str(said.get("circuit", Circuit.CLOSED.value))
    is_known = not lag.entries or bool(lag.seconds)
    return SinkHealth(
        name=state.name,
        kind=state.kind,
        up=state.running and not said.get("failing_since"),
        why=state.why or str(said.get("why", "")),
        circuit=circuit,
        lag_entries=lag.entries,
        lag_bytes=lag.bytes,
        lag_s=lag.seconds if is_known else None,
        acknowledged=state.index,
        acknowledged_at=state.acknowledged_at,
        events=int(said.get("events", 0)),
        retries=int(said.get("retries", 0)),
        dead=state.letters,
    )
