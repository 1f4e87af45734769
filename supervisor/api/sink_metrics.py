"""How sinks do, looked at when somebody asks for metrics. The one label of most is the sink's name,
of which the configuration has few; why one fails is text of others', and never a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from supervisor.export.health import SinkHealth
from supervisor.export.pump import Circuit

GAUGES = {
    "up": "1 where the sink's process runs and the other side takes what it is sent.",
    "lag_entries": "How many durable entries the sink has not acknowledged.",
    "lag_bytes": "How many bytes of the log those are.",
    "lag_seconds": "How old the oldest entry is that the sink has not acknowledged; 0 for none.",
    "acknowledged_entries": "The sink has acknowledged all entries of the log before this one.",
    "acknowledged_time_seconds": "When the sink's cursor moved last, in seconds since the "
    "epoch; 0 for not since the daemon's start.",
    "dead_letters": "Events that the other side will never take, and that wait for a replay.",
}
COUNTERS = {
    "events": "Events that the other side took, since the sink's process began.",
    "retries": "Tries that failed and are made again, since the sink's process began.",
}

Family = GaugeMetricFamily | CounterMetricFamily


class SinkCollector(Collector):
    """Looks at all sinks."""

    def __init__(self, sinks: Callable[[], Sequence[SinkHealth]]) -> None:
        self._sinks = sinks

    def describe(self) -> Iterator[Metric]:
        """Give the figures without their values."""
        yield from _families().values()

    def collect(self) -> Iterator[Metric]:
        """Give the figures."""
        families = _families()
        for sink in self._sinks():
            for name, value in _values(sink).items():
                if value is not None:
                    families[name].add_metric((sink.name,), value)
            families["info"].add_metric((sink.name, sink.kind), 1)
            for circuit in Circuit:
                families["circuit"].add_metric(
                    (sink.name, circuit.value), int(sink.circuit == circuit.value)
                )
        yield from families.values()


def _values(sink: SinkHealth) -> dict[str, float | None]:
    return {
        "up": int(sink.up),
        "lag_entries": sink.lag_entries,
        "lag_bytes": sink.lag_bytes,
        "lag_seconds": sink.lag_s,
        "acknowledged_entries": sink.acknowledged,
        "acknowledged_time_seconds": sink.acknowledged_at,
        "dead_letters": sink.dead,
        "events": sink.events,
        "retries": sink.retries,
    }


def _families() -> dict[str, Family]:
    made: dict[str, Family] = {
        name: GaugeMetricFamily(f"stockade_sink_{name}", said, labels=("sink",))
        for name, said in GAUGES.items()
    }
    made |= {
        name: CounterMetricFamily(f"stockade_sink_{name}", said, labels=("sink",))
        for name, said in COUNTERS.items()
    }
    made["info"] = GaugeMetricFamily(
        "stockade_sink_info", "1 for each sink, with its kind.", labels=("sink", "kind")
    )
    made["circuit"] = GaugeMetricFamily(
        "stockade_sink_circuit",
        "1 for the state of the sink's circuit: closed (all goes through), open (nothing does, for "
        "now), half_open (one event is tried).",
        labels=("sink", "state"),
    )
    return made
