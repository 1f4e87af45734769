"""What is counted, under which labels, and that the labels are few."""

from __future__ import annotations

import math
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import __version__
from supervisor.api.metrics import Metrics
from supervisor.call.events import Timeline, Verdict
from supervisor.call.outcome import KINDS, LimitKind
from supervisor.cli.folders import shipped_profiles
from supervisor.profile.load import ProfileSet

MS = 1_000_000


def value(metrics: Metrics, series: str, /, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(series, labels)


def test_calls_and_phases() -> None:
    metrics = Metrics(["python"])
    line = Timeline(
        accepted_ns=1,
        preparing_ns=1 + MS,
        armed_ns=1 + 4 * MS,
        started_ns=1 + 6 * MS,
        ended_ns=1 + 1006 * MS,
        destroyed_ns=1 + 1106 * MS,
    )
    metrics.call_closed("python", "exited", line)
    assert value(metrics, "stockade_calls_total", profile="python", outcome="exited") == 1
    took = "stockade_call_duration_seconds_sum"
    assert value(metrics, took, profile="python") == pytest.approx(1.106)
    for phase, seconds in (
        ("pending", 0.001), ("preparing", 0.003), ("armed", 0.002), ("running", 1.0),
        ("draining", 0.1),
    ):  # fmt: skip
        name = "stockade_call_phase_seconds_sum"
        assert value(metrics, name, phase=phase) == pytest.approx(seconds)


def test_a_phase_that_was_not_reached_is_not_counted() -> None:
    metrics = Metrics(["python"])
    metrics.call_closed("python", "failed", Timeline(accepted_ns=1, preparing_ns=2))
    assert value(metrics, "stockade_call_phase_seconds_count", phase="pending") == 1
    assert value(metrics, "stockade_call_phase_seconds_count", phase="running") is None
    assert value(metrics, "stockade_call_duration_seconds_count", profile="python") is None


def test_how_witnesses_do() -> None:
    metrics = Metrics([])
    metrics.witness_took("/heads", 1234.5)
    metrics.witness_fails("/heads", "no room")
    assert value(metrics, "stockade_witness_head_time_seconds", witness="/heads") == 1234.5
    assert value(metrics, "stockade_witness_failing", witness="/heads") == 1
    metrics.witness_fails("/heads", "")
    assert value(metrics, "stockade_witness_failing", witness="/heads") == 0
    metrics.head_contradicted("/heads", "it was cut back")
    assert value(metrics, "stockade_heads_contradicted_total", witness="/heads") == 1


def test_what_retention_does() -> None:
    metrics = Metrics([])
    metrics.removed("age", 3, 1000)
    metrics.removed("size", 1, 10)
    metrics.contents(77)
    assert value(metrics, "stockade_retention_calls_total", why="age") == 3
    assert value(metrics, "stockade_retention_bytes_total", why="size") == 10
    assert value(metrics, "stockade_contents_bytes") == 77
    for problem in ("CURSOR_UNUSABLE", "HOLDINGS_FULL"):
        metrics.retention_problem(problem)
    series = "stockade_retention_problem"
    assert value(metrics, series, problem="CURSOR_UNUSABLE") is None
    assert value(metrics, series, problem="HOLDINGS_FULL") == 1
    metrics.retention_problem("")
    assert value(metrics, series, problem="HOLDINGS_FULL") is None


def test_the_rest() -> None:
    metrics = Metrics([])
    metrics.call_rejected("CALLS_LIMIT")
    metrics.call_rejected("CHAIN_BROKEN")
    metrics.call_admitted(0.001, 0.004)
    metrics.orphans("sandbox", 2)
    metrics.orphans("process", 0)
    metrics.lost("exec", "RING_FULL", 4)
    metrics.lost("flow", "DAEMON_DIED", 0)
    metrics.live_calls(3)
    metrics.live_calls(2)
    metrics.fsynced(0.002, 5)
    metrics.size(1 << 20)
    assert value(metrics, "stockade_rejects_total", reason="CALLS_LIMIT") == 1
    assert value(metrics, "stockade_record_damaged_total", reason="CHAIN_BROKEN") == 1
    assert value(metrics, "stockade_record_damaged_total", reason="DIGEST_MISMATCH") == 0
    assert value(metrics, "stockade_admission_seconds_sum", step="policy") == 0.001
    assert value(metrics, "stockade_admission_seconds_sum", step="record") == 0.004
    assert value(metrics, "stockade_orphans_reaped_total", kind="sandbox") == 2
    lost = "stockade_lost_events_total"
    assert value(metrics, lost, what="exec", reason="RING_FULL") == 4
    assert value(metrics, lost, what="flow", reason="DAEMON_DIED") == 1
    assert value(metrics, "stockade_live_calls") == 2
    assert value(metrics, "stockade_journal_fsync_seconds_sum") == 0.002
    assert value(metrics, "stockade_journal_entries_total") == 5
    assert value(metrics, "stockade_journal_bytes") == 1 << 20


@pytest.mark.parametrize(
    ("wall", "name", "label"),
    [
        ("syscall", "ptrace", "ptrace"),
        ("syscall", "x" * 50, "other"),
        ("limit", "memory", "memory"),
        ("limit", "ptrace", "other"),
        ("network", "203.0.113.9:443", "other"),
        ("network", "connect", "connect"),
        ("network", "dns", "dns"),
        ("network", "dial", "dial"),
        ("network", "evil.example.com", "other"),
        ("limit", "egress", "egress"),
        ("program", "dns", "other"),
        ("program", "exec", "exec"),
        ("program", "/work/x", "other"),
        ("kernel", "mount", "mount"),
    ],
)
def test_denials(wall: str, name: str, label: str) -> None:
    metrics = Metrics([])
    metrics.denied(wall, name, 3)
    assert value(metrics, "stockade_denials_total", wall=wall, name=label) == 3


@pytest.mark.parametrize(
    ("feed", "series_max"),
    [
        (lambda m, n: m.call_closed(f"p{n}", "exited", Timeline()), 0),
        (lambda m, n: m.call_rejected(f"REASON_{n}"), 65),
        (lambda m, n: m.lost(f"w{n}", f"REASON_{n}", 1), 65),
        (lambda m, n: m.denied("syscall", f"s{n}", 1), 1),
        (lambda m, n: m.denied("network", f"h{n}", 1), 1),
        (lambda m, n: m.health([f"P{n}: x"]), 1),
    ],
)
def test_labels_are_few(feed: Callable[[Metrics, int], None], series_max: int) -> None:
    metrics = Metrics(["python"])
    before = series(metrics)
    for number in range(200):
        feed(metrics, number)
    assert series(metrics) - before <= series_max


def series(metrics: Metrics) -> int:
    """Count what is kept for each combination of labels."""
    return sum(
        1 for family in metrics.registry.collect() for sample in family.samples if sample.labels
    )


def test_connections_through_the_broker() -> None:
    metrics = Metrics([])
    metrics.flow("closed", 100, 7)
    metrics.flow("denied", 0, 0)
    metrics.flow("closed", 1, 3)
    assert value(metrics, "stockade_egress_flows_total", verdict="closed") == 2
    assert value(metrics, "stockade_egress_flows_total", verdict="denied") == 1
    assert value(metrics, "stockade_egress_bytes_total", direction="sent") == 101
    assert value(metrics, "stockade_egress_bytes_total", direction="received") == 10


def test_no_series_names_a_call() -> None:
    metrics = Metrics(["python"])
    for outcome in KINDS.values():
        metrics.call_closed("python", outcome, Timeline(accepted_ns=1, preparing_ns=2))
    for limit in LimitKind:
        metrics.denied("limit", limit.value, 1)
    for verdict in Verdict:
        metrics.flow(verdict.value, 1, 1)
    labels = {
        label
        for family in metrics.registry.collect()
        for sample in family.samples
        for label in sample.labels
    }
    assert labels <= {
        "profile", "outcome", "phase", "wall", "name", "reason", "problem", "le", "version",
        "verdict", "direction", "what", "kind", "step",
    }  # fmt: skip


def test_denials_that_belong_to_no_call() -> None:
    """The probes count; they go on where the daemon is another, and the figure never falls."""
    metrics = Metrics([])
    for count in (2, 2, 5, 1):
        metrics.strays({"connect": count, "socket": 0})
    assert value(metrics, "stockade_strays_total", name="connect") == 5
    assert value(metrics, "stockade_strays_total", name="socket") == 0


def test_the_build_and_the_room_that_is_left(tmp_path: Path) -> None:
    metrics = Metrics([], tmp_path)
    assert value(metrics, "stockade_build_info", version=__version__) == 1
    free = value(metrics, "stockade_state_free_bytes")
    assert free is not None
    assert 0 < free <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    tmp_path.rmdir()
    gone = value(metrics, "stockade_state_free_bytes")
    assert gone is not None
    assert math.isnan(gone)


def test_no_series_of_creation_times() -> None:
    metrics = Metrics(["python"])
    metrics.call_closed("python", "exited", Timeline(accepted_ns=1, preparing_ns=2))
    names = {s.name for family in metrics.registry.collect() for s in family.samples}
    assert "stockade_calls_total" in names
    assert not [name for name in names if name.endswith("_created")]


def test_limits_and_profiles_in_force() -> None:
    profiles = ProfileSet.load([shipped_profiles()])
    metrics = Metrics(profiles.names)
    metrics.tell_limits(7, profiles)
    assert value(metrics, "stockade_calls_limit") == 7
    base = profiles.effective("base")
    labels = {"profile": "base", "digest": base.digest, "mode": base.mode}
    assert value(metrics, "stockade_profile_info", **labels) == 1


def test_prometheus_can_read_it() -> None:
    metrics = Metrics(["python"])
    metrics.live_calls(7)
    server = metrics.serve("127.0.0.1", 0)
    try:
        address = f"http://127.0.0.1:{server.port}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"stockade_live_calls 7.0" in answer.read()
    finally:
        server.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=10)
