"""How a sink does, by what is known of it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from supervisor.export.exporter import SinkState
from supervisor.export.health import Place, health_of
from supervisor.export.pump import Circuit, PumpState

DURABLE = Place(entries=110, bytes=9000, time_s=1000.0)
AT = Place(entries=100, bytes=8000, time_s=970.0)


def state(*, running: bool = True, index: int = 100, **said: object) -> SinkState:
    return SinkState(
        name="siem", kind="syslog", format="ocsf", index=index, letters=2, running=running,
        said=asdict(PumpState(acknowledged_at=960.0, events=7, retries=3)) | said,
    )  # fmt: skip


def test_what_it_is_behind() -> None:
    found = health_of(state(), durable=DURABLE, at=AT, now_s=1001.5)
    assert (found.name, found.kind, found.up, found.circuit) == ("siem", "syslog", True, "closed")
    assert (found.lag_entries, found.lag_bytes, found.lag_s) == (10, 1000, 31.5)
    assert (found.acknowledged, found.acknowledged_at) == (100, 960.0)
    assert (found.events, found.retries, found.dead) == (7, 3, 2)


def test_one_that_has_all_is_not_behind() -> None:
    """However long ago that was, and where a cursor is ahead of what this look saw."""
    for index in (110, 111):
        found = health_of(state(index=index), durable=DURABLE, at=None, now_s=9000.0)
        assert (found.lag_entries, found.lag_bytes, found.lag_s) == (0, 0, 0.0)


def test_where_the_place_is_not_known_the_lag_is_not_none() -> None:
    found = health_of(state(), durable=DURABLE, at=None, now_s=1001.5)
    assert (found.lag_entries, found.lag_bytes, found.lag_s) == (10, None, None)


def test_a_clock_that_was_set_back_makes_no_lag_negative() -> None:
    assert health_of(state(), durable=DURABLE, at=AT, now_s=10.0).lag_s == 0.0


@pytest.mark.parametrize(
    ("running", "circuit", "up"),
    [
        (True, Circuit.CLOSED, True), (True, Circuit.OPEN, False), (True, Circuit.HALF_OPEN, False),
        (False, Circuit.CLOSED, False),
    ],
)  # fmt: skip
def test_what_is_up(running: bool, circuit: Circuit, up: bool) -> None:
    found = health_of(state(running=running, circuit=circuit), durable=DURABLE, at=AT, now_s=1.0)
    assert (found.up, found.circuit) == (up, circuit.value)


def test_why() -> None:
    told = state(why="no route")
    assert health_of(told, durable=DURABLE, at=AT, now_s=1.0).why == "no route"
    told.why = "its process ended"
    assert health_of(told, durable=DURABLE, at=AT, now_s=1.0).why == "its process ended"


def test_one_that_said_nothing_yet() -> None:
    fresh = SinkState(name="siem", kind="syslog", format="ocsf", index=0, running=True)
    found = health_of(fresh, durable=DURABLE, at=None, now_s=1.0)
    assert found.up
    assert (found.events, found.acknowledged_at) == (0, 0.0)
