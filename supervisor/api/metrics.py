"""Numbers for Prometheus, in a registry of their own, on a loopback address.

Every label is one of a short list: a profile that is loaded, a kind of outcome, a reason from the
code, a system call that the kernel knows. A call id is never a label. What does not fit is counted
as "other". `metric_groups` has the figures.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
)

from supervisor import __version__
from supervisor.api.metric_groups import (
    DAMAGE,
    OTHER,
    REASONS_TOLD,
    Calls,
    Few,
    Health,
    Journal,
    Retention,
    Walls,
    Witnesses,
)
from supervisor.api.metrics_server import MetricsServer
from supervisor.api.record_metrics import RecordCollector, RecordView
from supervisor.api.sink_metrics import SinkCollector
from supervisor.audit.journal import JournalObserver
from supervisor.audit.retention import RetentionObserver
from supervisor.bpf.decode import HOOK_NAMES
from supervisor.call.events import BROKER_DENIALS, Timeline, Wall
from supervisor.call.outcome import LimitKind
from supervisor.engine import EngineObserver
from supervisor.export.health import SinkHealth
from supervisor.profile.load import ProfileSet
from supervisor.profile.syscall_numbers import NUMBERS

log = logging.getLogger("stockade.api")

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
        self._reasons = Few(REASONS_TOLD)
        self._lost_what, self._lost_why = Few(), Few()
        self._strays_seen: dict[str, int] = {}
        self._calls = Calls(self.registry, sorted(self._profiles))
        self._walls = Walls(self.registry)
        self._journal = Journal(self.registry)
        self._health = Health(self.registry)
        self._retention = Retention(self.registry)
        self._witnesses = Witnesses(self.registry)
        ProcessCollector(registry=self.registry)
        self._tell_constants(state)

    def _tell_constants(self, state: Path | None) -> None:
        build = Gauge(
            "stockade_build_info", "1, with the daemon's version.", ("version",),
            registry=self.registry,
        )  # fmt: skip
        build.labels(__version__).set(1)
        if state is not None:
            free = Gauge(
                "stockade_state_free_bytes", "What the state folder's file system has left.",
                registry=self.registry,
            )  # fmt: skip
            free.set_function(lambda: _free_bytes(state))

    def tell_limits(self, calls_max: int, profiles: ProfileSet) -> None:
        """Say how many calls may live, and which profiles are in force; wrong ones are none."""
        self._calls.limit.set(calls_max)
        for name in profiles.names:
            if not profiles.problems(name):
                profile = profiles.effective(name)
                self._calls.profile.labels(name, profile.digest, profile.mode).set(1)

    def watch_record(self, record: RecordView) -> None:
        """Tell from now on how the record's heads do, and its room."""
        self.registry.register(RecordCollector(record))

    def watch_sinks(self, sinks: Callable[[], Sequence[SinkHealth]]) -> None:
        """Tell from now on how sinks do. `sinks` is called from the thread of whoever asks."""
        self.registry.register(SinkCollector(sinks))

    def call_closed(self, profile: str, outcome: str, timeline: Timeline) -> None:
        """Count a call that ended, how long it took, and the time it spent in each phase."""
        known = profile if profile in self._profiles else OTHER
        self._calls.ended.labels(known, outcome).inc()
        for phase, begin_ns, end_ns in _phases(timeline):
            if begin_ns and end_ns:
                self._calls.phases.labels(phase).observe(_seconds(begin_ns, end_ns))
        if timeline.accepted_ns and timeline.destroyed_ns:
            took_s = _seconds(timeline.accepted_ns, timeline.destroyed_ns)
            self._calls.duration.labels(known).observe(took_s)

    def call_admitted(self, policy_s: float, record_s: float) -> None:
        """Note how long it took to decide that a call may run, and to have that on record."""
        self._calls.admission.labels("policy").observe(policy_s)
        self._calls.admission.labels("record").observe(record_s)

    def call_rejected(self, reason: str) -> None:
        """Count a request that was refused."""
        self._calls.rejects.labels(self._reasons(reason)).inc()
        if reason in DAMAGE:
            self._journal.damage.labels(reason).inc()

    def denied(self, wall: str, name: str, count: int) -> None:
        """Count denials; what no wall of ours is known to deny has no name of its own."""
        self._walls.denials.labels(wall, _known_name(wall, name)).inc(count)

    def watched(self, name: str, count: int) -> None:
        """Count watched system calls."""
        self._walls.watched.labels(_known_name(Wall.SYSCALL, name)).inc(count)

    def lost(self, what: str, reason: str, count: int) -> None:
        """Count what could not be recorded; 1 where nobody knows how many."""
        labels = self._lost_what(what), self._lost_why(reason)
        self._walls.lost.labels(*labels).inc(max(1, count))

    def flow(self, verdict: str, sent: int, received: int) -> None:
        """Count a connection through the broker that ended, and its bytes."""
        self._walls.flows.labels(verdict).inc()
        self._walls.bytes.labels("sent").inc(sent)
        self._walls.bytes.labels("received").inc(received)

    def live_calls(self, count: int) -> None:
        """Say how many calls are not closed."""
        self._calls.live.set(count)

    def orphans(self, kind: str, count: int) -> None:
        """Count what nobody looked after any more: a "sandbox" or a "process"."""
        self._calls.orphans.labels(kind).inc(count)

    def strays(self, counts: Mapping[str, int]) -> None:
        """Say how many denials there were of processes that belong to no live call, since the
        probes were put in place; names are those of the probes' hooks."""
        for name, count in counts.items():
            self._walls.strays.labels(name).inc(max(0, count - self._strays_seen.get(name, 0)))
            self._strays_seen[name] = count

    def fsynced(self, seconds: float, entries: int) -> None:
        """Count entries that became durable, and how long that took."""
        self._journal.fsync.observe(seconds)
        self._journal.entries.inc(entries)

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
        self._journal.bytes.set(log_bytes)

    def health(self, problems: Iterable[str]) -> None:
        """Say what keeps the daemon from taking calls; nothing where it takes them."""
        self._health.tell(problems)

    def serve(self, host: str, port: int) -> MetricsServer:
        """Answer Prometheus on a loopback address until the server is closed.

        Raises:
            OSError: the address is taken.
        """
        return MetricsServer(host, port, self.registry)


def _free_bytes(folder: Path) -> float:
    try:
        found = os.statvfs(folder)
    except OSError as error:
        log.warning("the free space of %s cannot be told: %s", folder, error.strerror)
        return math.nan
    return found.f_bavail * found.f_frsize


def _seconds(begin_ns: int, end_ns: int) -> float:
    return max(0, end_ns - begin_ns) / NANOS


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
