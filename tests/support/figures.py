"""Every metric that a daemon can tell of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import Metric

from supervisor.api.metrics import Metrics
from supervisor.audit.outlet import Signing


class NoRecord:
    """A record without entries."""

    watermark = None

    @property
    def outlet(self) -> NoRecord:
        """Give what knows how far it is."""
        return self

    def signing(self) -> Signing:
        """Say that there is nothing."""
        return Signing(0, 0, unsigned=False)


def families() -> Iterator[Metric]:
    """Give the metrics, with and without values."""
    metrics = Metrics([], Path("/"))
    record: Any = NoRecord()
    metrics.watch_record(record)
    metrics.watch_sinks(list)
    yield from metrics.registry.collect()


def name_of(family: Metric) -> str:
    """Give a metric's name as Prometheus has it."""
    return family.name + ("_total" if family.type == "counter" else "")


def series() -> set[str]:
    """Give the names that an expression may hold."""
    names = set()
    for family in families():
        names.add(name_of(family))
        if family.type == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "count", "sum")}
    return names


def named(expression: str) -> set[str]:
    """Give the metrics of ours, and of processes, that an expression names."""
    return set(re.findall(r"\b(?:stockade|process)_[a-z_]+", expression))
