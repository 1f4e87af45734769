"""How the log's heads do and how much room there is, looked at when somebody asks for metrics."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from supervisor.audit.outlet import Outlet
from supervisor.audit.watermark import Watermark

log = logging.getLogger("stockade.api")


class RecordView(Protocol):
    """What is looked at of an open record."""

    @property
    def outlet(self) -> Outlet:
        """Give what knows how far it is durable and signed."""

    @property
    def watermark(self) -> Watermark | None:
        """Give what knows how much room there has to be."""


class RecordCollector(Collector):
    """Looks at one record. For any threads."""

    def __init__(self, record: RecordView, clock: Callable[[], float] = time.monotonic) -> None:
        self._record = record
        self._clock = clock
        self._lock = threading.Lock()
        self._signed = -1
        self._since: float | None = None

    def describe(self) -> Iterator[Metric]:
        """Give the figures without their values."""
        yield from _families().values()

    def collect(self) -> Iterator[Metric]:
        """Give the figures."""
        families = _families()
        signing = self._record.outlet.signing()
        families["entries"].add_metric((), signing.durable)
        families["head"].add_metric((), signing.signed)
        families["behind"].add_metric((), self._behind_s(signing.signed, signing.durable))
        families["unsigned"].add_metric((), int(signing.unsigned))
        if self._record.watermark is not None:
            try:
                room = self._record.watermark.room()
            except OSError as error:
                log.warning("the marks of the state folder cannot be told: %s", error.strerror)
            else:
                families["marks"].add_metric(("soft",), room.soft)
                families["marks"].add_metric(("hard",), room.hard)
        yield from families.values()

    def _behind_s(self, signed: int, durable: int) -> float:
        """Give since when this head is the newest and covers less than there is, as far as
        somebody looked."""
        with self._lock:
            if signed >= durable:
                self._since = None
            elif self._since is None or signed != self._signed:
                self._since = self._clock()
            self._signed = signed
            return 0.0 if self._since is None else self._clock() - self._since


def _families() -> dict[str, GaugeMetricFamily]:
    return {
        "entries": GaugeMetricFamily(
            "stockade_log_entries", "How many entries of the log are durable."
        ),
        "head": GaugeMetricFamily(
            "stockade_head_entries", "How many entries the newest head covers that is published."
        ),
        "behind": GaugeMetricFamily(
            "stockade_head_behind_seconds",
            "For how long the newest head has covered less than is durable, as far as it was "
            "looked at; 0 where it covers all.",
        ),
        "unsigned": GaugeMetricFamily(
            "stockade_head_unsigned", "1 where the log's key cannot sign its head."
        ),
        "marks": GaugeMetricFamily(
            "stockade_state_watermark_bytes",
            "What the state folder's file system has to have left, by mark: below soft it is "
            "said, below hard no call is taken. Without watermark there is none.",
            labels=("mark",),
        ),
    }
