"""The figures that `metrics` keeps, in groups, each with what a person is told of it.

Series that an alert looks for are there from the start, with 0: a counter that appears with its
first event was never seen to rise.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from supervisor.call.events import Verdict
from supervisor.call.outcome import KINDS

OTHER = "other"
NAMES_MAX = 64
"""Reasons are constants of the code; this bounds the series if one ever is not."""

PHASE_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
ADMISSION_BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
)  # fmt: skip
FSYNC_BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip

REASONS_TOLD = ("AUDIT_BACKLOG", "CALLS_LIMIT", "JOURNAL_FULL", "PEER_UNKNOWN")
"""Of refusals, with alerts of their own."""

DAMAGE = ("CHAIN_BROKEN", "CHECKPOINT_BROKEN", "DIGEST_MISMATCH", "KEY_MISSING", "RECORD_DAMAGED")
"""Reasons of `AuditCorrupt`: the record is not what was written."""

RING_FULL = "RING_FULL"
PROBED = ("argv", "exec", "exit")
"""What the probes' ring can lose (`bpf.watch`); all else is told from counters."""


class Few:
    """Lets the first names through that come, and no more: a label has few values. For threads."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = set(known)
        self._lock = threading.Lock()

    def __call__(self, name: str) -> str:
        """Give the name, or "other"."""
        with self._lock:
            if len(self._known) < NAMES_MAX:
                self._known.add(name)
            return name if name in self._known else OTHER


class Calls:
    """What there is to tell of calls and of who asks for them."""

    def __init__(self, registry: CollectorRegistry, profiles: Iterable[str]) -> None:
        self.ended = Counter(
            "stockade_calls", "Calls that ended, by profile and outcome.",
            ("profile", "outcome"), registry=registry,
        )  # fmt: skip
        self.duration = Histogram(
            "stockade_call_duration_seconds",
            "How long calls took, from their entry in the record to the end of their sandbox.",
            ("profile",), buckets=PHASE_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.phases = Histogram(
            "stockade_call_phase_seconds",
            "How long calls spend in each phase: pending, preparing (which starts the container), "
            "armed, running, draining.",
            ("phase",), buckets=PHASE_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.admission = Histogram(
            "stockade_admission_seconds",
            "How long calls wait to be admitted, by step: policy decides, record makes it durable.",
            ("step",), buckets=ADMISSION_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.live = Gauge("stockade_live_calls", "Calls that are not closed.", registry=registry)
        self.limit = Gauge(
            "stockade_calls_limit", "How many calls may live at a time (limits.calls).",
            registry=registry,
        )  # fmt: skip
        self.rejects = Counter(
            "stockade_rejects", "Requests that were refused, of all services, by reason.",
            ("reason",), registry=registry,
        )  # fmt: skip
        self.orphans = Counter(
            "stockade_orphans_reaped",
            "What nobody looked after any more and the daemon ended, by kind: sandbox (of a daemon "
            "that died), process (that had ended).",
            ("kind",), registry=registry,
        )  # fmt: skip
        self.profile = Gauge(
            "stockade_profile_info", "1 for each profile in force, with its digest and mode.",
            ("profile", "digest", "mode"), registry=registry,
        )  # fmt: skip
        for profile in (*profiles, OTHER):
            for outcome in KINDS.values():
                self.ended.labels(profile, outcome)
        for reason in REASONS_TOLD:
            self.rejects.labels(reason)
        for kind in ("sandbox", "process"):
            self.orphans.labels(kind)


class Walls:
    """What there is to tell of what the walls held against, and of what was seen."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.denials = Counter(
            "stockade_denials",
            "What the walls held against, by wall (syscall, network, limit, program, kernel) and "
            "name: of the system call, the limit, or what the network denied.",
            ("wall", "name"), registry=registry,
        )  # fmt: skip
        self.strays = Counter(
            "stockade_strays",
            "Denials of processes below the daemon's cgroup that belong to no live call, by name.",
            ("name",), registry=registry,
        )  # fmt: skip
        self.watched = Counter(
            "stockade_watched_syscalls", "System calls that were let through and told, by name.",
            ("name",), registry=registry,
        )  # fmt: skip
        self.flows = Counter(
            "stockade_egress_flows", "Connections through the broker that ended, by verdict.",
            ("verdict",), registry=registry,
        )  # fmt: skip
        self.bytes = Counter(
            "stockade_egress_bytes",
            "What connections carried that ended, by direction: sent or received.",
            ("direction",), registry=registry,
        )  # fmt: skip
        self.lost = Counter(
            "stockade_lost_events",
            "What could not be put on record, by what and reason; RING_FULL is the probes' ring. "
            "Where nobody knows how many, 1.",
            ("what", "reason"), registry=registry,
        )  # fmt: skip
        for verdict in Verdict:
            self.flows.labels(verdict.value)
        for direction in ("sent", "received"):
            self.bytes.labels(direction)
        for what in PROBED:
            self.lost.labels(what, RING_FULL)


class Journal:
    """What there is to tell of the record as it is written and read."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.fsync = Histogram(
            "stockade_journal_fsync_seconds", "How long the journal waits for the disk.",
            buckets=FSYNC_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.entries = Counter(
            "stockade_journal_entries", "Entries made durable since the start.", registry=registry
        )
        self.bytes = Gauge(
            "stockade_journal_bytes", "Size of the log, without blobs.", registry=registry
        )
        self.damage = Counter(
            "stockade_record_damaged",
            "Reads that found the record not to be what was written, by reason.",
            ("reason",), registry=registry,
        )  # fmt: skip
        for reason in DAMAGE:
            self.damage.labels(reason)


class Witnesses:
    """What there is to tell of who is given the log's heads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.time = Gauge(
            "stockade_witness_head_time_seconds",
            "When a witness had the log's newest head, in seconds since the epoch.",
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


class Retention:
    """What there is to tell of retention."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "stockade_retention_calls",
            "Calls whose contents were removed, by why: age or size.",
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
        """Say what keeps contents from going; "" where nothing does."""
        if self._known and self._known != problem:
            self._problems.remove(self._known)
        if problem:
            self._problems.labels(problem).set(1)
        self._known = problem


class Health:
    """Whether the daemon takes calls, and why not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._healthy = Gauge(
            "stockade_healthy", "1 where the daemon takes calls.", registry=registry
        )
        self._problems = Gauge(
            "stockade_health_problem", "1 for each reason why the daemon takes no calls.",
            ("problem",), registry=registry,
        )  # fmt: skip
        self._known: set[str] = set()

    def tell(self, problems: Iterable[str]) -> None:
        """Say what keeps the daemon from taking calls; nothing where it takes them."""
        found = {problem.partition(":")[0][:64] for problem in problems}
        for gone in self._known - found:
            self._problems.remove(gone)
        for problem in found:
            self._problems.labels(problem).set(1)
        self._known = found
        self._healthy.set(not found)
