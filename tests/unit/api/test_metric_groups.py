"""Series that alerts look for are there from the start, and names that come are few."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from supervisor.api import metric_groups as groups
from supervisor.call.events import Verdict
from supervisor.call.outcome import KINDS


def test_the_first_names_that_come_are_let_through() -> None:
    few = groups.Few(["known"])
    names = [f"n{number}" for number in range(groups.NAMES_MAX)]
    assert [few(name) for name in names] == [*names[:-1], groups.OTHER]
    assert (few("known"), few("n0"), few("more")) == ("known", "n0", groups.OTHER)


@pytest.mark.parametrize(
    ("series", "labels"),
    [
        *[
            ("stockade_calls_total", {"profile": profile, "outcome": outcome})
            for profile in ("python", "other")
            for outcome in KINDS.values()
        ],
        *[("stockade_rejects_total", {"reason": reason}) for reason in groups.REASONS_TOLD],
        *[("stockade_record_damaged_total", {"reason": reason}) for reason in groups.DAMAGE],
        *[("stockade_egress_flows_total", {"verdict": verdict.value}) for verdict in Verdict],
        *[
            ("stockade_lost_events_total", {"what": what, "reason": "RING_FULL"})
            for what in ("argv", "exec", "exit")
        ],
        ("stockade_orphans_reaped_total", {"kind": "sandbox"}),
    ],
)
def test_what_an_alert_looks_for_begins_with_nothing(series: str, labels: dict[str, str]) -> None:
    registry = CollectorRegistry()
    groups.Calls(registry, ["python"])
    groups.Walls(registry)
    groups.Journal(registry)
    assert registry.get_sample_value(series, labels) == 0
