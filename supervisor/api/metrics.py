"""Numbers for Prometheus, in a registry of their own, on a loopback address.

Every label is one of a short list: a profile that is loaded, a kind of outcome, a reason from the
code, a system call that the kernel knows. A call id is never a label. What does not fit is counted
as "other".
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

from supervisor import __version__
from supervisor.audit.journal import JournalObserver
from supervisor.audit.retention import RetentionObserver
from supervisor.bpf.decode import HOOK_NAMES
from supervisor.call.events import BROKER_DENIALS, Timeline, Wall
from supervisor.call.outcome import LimitKind
from supervisor.engine import EngineObserver
from supervisor.profile.syscall_numbers import NUMBERS

log = logging.getLogger("stockade.api")

OTHER = "other"
REASONS_MAX = 64
"""Reasons are constants of the code; this bounds the series if one ever is not."""

PHASE_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
FSYNC_BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
NANOS = 10**9

# A series of creation times beside each counter: nobody asks for it, and it doubles what is kept.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Hears of calls from the engine and of writes from the journal, and counts them.

    `state` is the folder whose file system's free bytes are told, None for nobody's.
    """

    def __init__(self, profiles: Collection[str], state: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        self._profiles = frozenset(profiles)
        self._reasons: set[str] = set()
        self._known_problems: set[str] = set()
        self._lock = threading.Lock()
        self._calls = Counter(
            "stockade_calls", "Calls that ended, by profile and outcome.",
            ("profile", "outcome"), registry=self.registry,
        )  # fmt: skip
        self._phases = Histogram(
            "stockade_call_phase_seconds", "How long calls spend in each phase.",
            ("phase",), buckets=PHASE_BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self._live = Gauge(
            "stockade_live_calls", "Calls that are not closed.", registry=self.registry
        )
        self._denials = Counter(
            "stockade_denials", "What the walls held against, by wall and name.",
            ("wall", "name"), registry=self.registry,
        )  # fmt: skip
        self._strays = Counter(
            "stockade_strays", "Denials of processes that belong to no live call, by name.",
            ("name",), registry=self.registry,
        )  # fmt: skip
        self._strays_seen: dict[str, int] = {}
        self._watched = Counter(
            "stockade_watched_syscalls", "System calls that were let through and told, by name.",
            ("name",), registry=self.registry,
        )  # fmt: skip
        self._flows = Counter(
            "stockade_egress_flows", "Connections through the broker that ended, by verdict.",
            ("verdict",), registry=self.registry,
        )  # fmt: skip
        self._egress = Counter(
            "stockade_egress_bytes", "What those carried, by direction: sent or received.",
            ("direction",), registry=self.registry,
        )  # fmt: skip
        self._rejects = Counter(
            "stockade_rejects", "Requests that were refused, by reason.",
            ("reason",), registry=self.registry,
        )  # fmt: skip
        self._fsync = Histogram(
            "stockade_journal_fsync_seconds", "How long the journal waits for the disk.",
            buckets=FSYNC_BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self._entries = Counter(
            "stockade_journal_entries", "Entries made durable.", registry=self.registry
        )
        self._bytes = Gauge(
            "stockade_journal_bytes", "Size of the journal.", registry=self.registry
        )
        self._healthy = Gauge(
            "stockade_healthy", "1 where the daemon takes calls.", registry=self.registry
        )
        self._problems = Gauge(
            "stockade_health_problem", "1 for each reason why the daemon takes no calls.",
            ("problem",), registry=self.registry,
        )  # fmt: skip
        self._retention = _Retention(self.registry)
        self._witnesses = _Witnesses(self.registry)
        self._tell_constants(state)

    def _tell_constants(self, state: Path | None) -> None:
        build = Gauge(
            "stockade_build_info", "1, with the version.", ("version",), registry=self.registry
        )
        build.labels(__version__).set(1)
        if state is not None:
            free = Gauge(
                "stockade_state_free_bytes", "What the state folder's file system has left.",
                registry=self.registry,
            )  # fmt: skip
            free.set_function(lambda: _free_bytes(state))

    def call_closed(self, profile: str, outcome: str, timeline: Timeline) -> None:
        """Count a call that ended, and the time it spent in each phase."""
        known = profile if profile in self._profiles else OTHER
        self._calls.labels(known, outcome).inc()
        for phase, begin_ns, end_ns in _phases(timeline):
            if begin_ns and end_ns:
                self._phases.labels(phase).observe(max(0, end_ns - begin_ns) / NANOS)

    def call_rejected(self, reason: str) -> None:
        """Count a request that was refused."""
        with self._lock:
            if len(self._reasons) < REASONS_MAX:
                self._reasons.add(reason)
            known = reason in self._reasons
        self._rejects.labels(reason if known else OTHER).inc()

    def denied(self, wall: str, name: str, count: int) -> None:
        """Count denials; what no wall of ours is known to deny has no name of its own."""
        self._denials.labels(wall, _known_name(wall, name)).inc(count)

    def watched(self, name: str, count: int) -> None:
        """Count watched system calls."""
        self._watched.labels(_known_name(Wall.SYSCALL, name)).inc(count)

    def flow(self, verdict: str, sent: int, received: int) -> None:
        """Count a connection through the broker that ended, and its bytes."""
        self._flows.labels(verdict).inc()
        self._egress.labels("sent").inc(sent)
        self._egress.labels("received").inc(received)

    def live_calls(self, count: int) -> None:
        """Say how many calls are not closed."""
        self._live.set(count)

    def strays(self, counts: Mapping[str, int]) -> None:
        """Say how many denials there were of processes that belong to no live call, since the
        probes were put in place; names are those of the probes' hooks."""
        for name, count in counts.items():
            self._strays.labels(name).inc(max(0, count - self._strays_seen.get(name, 0)))
            self._strays_seen[name] = count

    def fsynced(self, seconds: float, entries: int) -> None:
        """Count entries that became durable, and how long that took."""
        self._fsync.observe(seconds)
        self._entries.inc(entries)

    def removed(self, why: str, calls: int, bytes_: int) -> None:
        """Count what retention removed."""
        self._retention.calls.labels(why).inc(calls)
        self._retention.bytes.labels(why).inc(bytes_)

    def witness_took(self, witness: str, time_s: float) -> None:
        """Say when a witness had the newest head."""
        self._witnesses.time.labels(witness).set(time_s)

    def witness_fails(self, witness: str, why: str) -> None:
        """Say whether there is a reason why a witness takes no head."""
        self._witnesses.failing.labels(witness).set(int(bool(why)))

    def head_contradicted(self, witness: str, _why: str) -> None:
        """Count a head that the log does not begin with."""
        self._witnesses.contradicted.labels(witness).inc()

    def retention_problem(self, problem: str) -> None:
        """Say what keeps retention from removing; "" where nothing does."""
        self._retention.tell(problem)

    def contents(self, bytes_: int) -> None:
        """Say how much the contents take."""
        self._retention.contents.set(bytes_)

    def size(self, log_bytes: int) -> None:
        """Say how large the journal is."""
        self._bytes.set(log_bytes)

    def health(self, problems: Iterable[str]) -> None:
        """Say what keeps the daemon from taking calls; nothing where it takes them."""
        found = {problem.partition(":")[0][:64] for problem in problems}
        for gone in self._known_problems - found:
            self._problems.remove(gone)
        for problem in found:
            self._problems.labels(problem).set(1)
        self._known_problems = found
        self._healthy.set(not found)

    def serve(self, host: str, port: int) -> MetricsServer:
        """Answer Prometheus on a loopback address until the server is closed.

        Raises:
            OSError: the address is taken.
        """
        server, thread = start_http_server(port, host, registry=self.registry)
        return MetricsServer(server, thread)


class _Witnesses:
    """What there is to tell of who is given the log's heads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.time = Gauge(
            "stockade_witness_head_time_seconds", "When a witness had the log's newest head.",
            ("witness",), registry=registry,
        )  # fmt: skip
        self.failing = Gauge(
            "stockade_witness_failing", "1 where a witness takes no head of the log.",
            ("witness",), registry=registry,
        )  # fmt: skip
        self.contradicted = Counter(
            "stockade_heads_contradicted", "Heads of a witness that the log does not begin with.",
            ("witness",), registry=registry,
        )  # fmt: skip


class _Retention:
    """What there is to tell of retention."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "stockade_retention_calls", "Calls whose contents were removed, by why.",
            ("why",), registry=registry,
        )  # fmt: skip
        self.bytes = Counter(
            "stockade_retention_bytes", "What the contents that were removed took, by why.",
            ("why",), registry=registry,
        )  # fmt: skip
        self.contents = Gauge(
            "stockade_contents_bytes", "What the contents that retention looks after take.",
            registry=registry,
        )  # fmt: skip
        self._problems = Gauge(
            "stockade_retention_problem", "1 for the reason why contents do not go as they should.",
            ("problem",), registry=registry,
        )  # fmt: skip
        self._known = ""

    def tell(self, problem: str) -> None:
        if self._known and self._known != problem:
            self._problems.remove(self._known)
        if problem:
            self._problems.labels(problem).set(1)
        self._known = problem


class MetricsServer:
    """The HTTP server of the metrics, in a thread of its own."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def port(self) -> int:
        """Give the port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _free_bytes(folder: Path) -> float:
    try:
        found = os.statvfs(folder)
    except OSError as error:
        log.warning("the free space of %s cannot be told: %s", folder, error.strerror)
        return math.nan
    return found.f_bavail * found.f_frsize


def _phases(line: Timeline) -> tuple[tuple[str, int, int], ...]:
    return (
        ("pending", line.accepted_ns, line.preparing_ns),
        ("preparing", line.preparing_ns, line.armed_ns),
        ("armed", line.armed_ns, line.started_ns),
        ("running", line.started_ns, line.ended_ns),
        ("draining", line.ended_ns, line.destroyed_ns),
    )


def _known_name(wall: str, name: str) -> str:
    if wall == Wall.SYSCALL and name in NUMBERS:
        return name
    if wall == Wall.LIMIT and name in set(LimitKind):
        return name
    if wall in (Wall.NETWORK, Wall.PROGRAM, Wall.KERNEL) and name in HOOK_NAMES.values():
        return name
    if wall == Wall.NETWORK and name in BROKER_DENIALS:
        return name
    return OTHER


if TYPE_CHECKING:

    def _observes(
        metrics: Metrics,
    ) -> tuple[EngineObserver, JournalObserver, RetentionObserver]:
        return metrics, metrics, metrics
