"""How a sink does, by what is known of it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from supervisor.export.exporter import Lag, SinkState
from supervisor.export.health import health_of
from supervisor.export.pump import Circuit, PumpState

LAG = Lag(10, 1000, 31.5)


def state(*, running: bool = True, **said: object) -> SinkState:
    return SinkState(
        name="siem", kind="syslog", format="ocsf", index=100, letters=2, running=running,
        acknowledged_at=960.0, said=asdict(PumpState(events=7, retries=3)) | said,
    )  # fmt: skip


def test_what_it_is_behind() -> None:
    found = health_of(state(), LAG)
    assert (found.name, found.kind, found.up, found.circuit) == ("siem", "syslog", True, "closed")
    assert (found.lag_entries, found.lag_bytes, found.lag_s) == (10, 1000, 31.5)
    assert (found.acknowledged, found.acknowledged_at) == (100, 960.0)
    assert (found.events, found.retries, found.dead) == (7, 3, 2)


def test_one_that_has_all_is_not_behind() -> None:
    assert health_of(state(), Lag(0, 0, 0.0)).lag_s == 0.0


def test_one_that_never_ran_is_behind_for_nobody_knows_how_long() -> None:
    """With 0 it would look as if it had everything."""
    assert health_of(state(running=False), Lag(10, 1000, 0.0)).lag_s is None


@pytest.mark.parametrize(
    ("running", "since", "circuit", "up"),
    [
        (True, 0.0, Circuit.CLOSED, True), (True, 9.0, Circuit.CLOSED, False),
        (True, 9.0, Circuit.OPEN, False), (True, 9.0, Circuit.HALF_OPEN, False),
        (False, 0.0, Circuit.CLOSED, False),
    ],
)  # fmt: skip
def test_what_is_up(running: bool, since: float, circuit: Circuit, up: bool) -> None:
    """As `stockade export status` has it: from the first failure on it is not."""
    found = health_of(state(running=running, circuit=circuit, failing_since=since), LAG)
    assert (found.up, found.circuit) == (up, circuit.value)


def test_why() -> None:
    told = state(why="no route")
    assert health_of(told, LAG).why == "no route"
    told.why = "its process ended"
    assert health_of(told, LAG).why == "its process ended"


def test_one_that_said_nothing_yet() -> None:
    fresh = SinkState(name="siem", kind="syslog", format="ocsf", index=0, running=True)
    found = health_of(fresh, LAG)
    assert found.up
    assert (found.events, found.acknowledged_at) == (0, 0.0)
