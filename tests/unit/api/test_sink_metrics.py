"""Each sink's figures, under its name and nothing that others chose."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from supervisor.api.sink_metrics import SinkCollector
from supervisor.export.health import SinkHealth

SIEM = SinkHealth(
    name="siem", kind="syslog", up=True, why="", circuit="closed", lag_entries=5, lag_bytes=700,
    lag_s=2.5, acknowledged=100, acknowledged_at=1234.5, events=130, retries=4, dead=3,
)  # fmt: skip
HOOK = replace(
    SIEM, name="hook", kind="webhook", up=False, circuit="open", lag_s=None,
    why='refused: "secret"\nsaid the receiver',
)  # fmt: skip


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(SinkCollector(lambda: [SIEM, HOOK]))
    return made


@pytest.mark.parametrize(
    ("name", "siem", "hook"),
    [
        ("up", 1, 0), ("lag_entries", 5, 5), ("lag_bytes", 700, 700), ("lag_seconds", 2.5, None),
        ("acknowledged_entries", 100, 100), ("acknowledged_time_seconds", 1234.5, 1234.5),
        ("events_total", 130, 130), ("retries_total", 4, 4), ("dead_letters", 3, 3),
    ],
)  # fmt: skip
def test_figures(registry: CollectorRegistry, name: str, siem: float, hook: float | None) -> None:
    for sink, expected in (("siem", siem), ("hook", hook)):
        assert registry.get_sample_value(f"stockade_sink_{name}", {"sink": sink}) == expected


def test_states_and_kinds(registry: CollectorRegistry) -> None:
    value = registry.get_sample_value
    for sink, state, expected in (
        ("siem", "closed", 1), ("siem", "open", 0), ("hook", "open", 1), ("hook", "half_open", 0),
    ):  # fmt: skip
        labels = {"sink": sink, "state": state}
        assert value("stockade_sink_circuit", labels) == expected
    assert value("stockade_sink_info", {"sink": "hook", "kind": "webhook"}) == 1


def test_what_a_receiver_says_is_no_label(registry: CollectorRegistry) -> None:
    assert b"secret" not in generate_latest(registry)


def test_sinks_come_and_go() -> None:
    sinks = [SIEM, HOOK]
    registry = CollectorRegistry()
    registry.register(SinkCollector(lambda: sinks))
    sinks.remove(HOOK)
    assert registry.get_sample_value("stockade_sink_up", {"sink": "hook"}) is None
    assert registry.get_sample_value("stockade_sink_up", {"sink": "siem"}) == 1
