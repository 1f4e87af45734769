"""The Grafana dashboard, as code: `make dashboard` writes dashboard.json beside this file.

It is for Grafana 10.1 and newer, with any Prometheus data source, and needs the package
grafana-foundation-sdk (`stockade[dev]`).
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

PATH = Path(__file__).with_name("dashboard.json")
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${source}")
WIDTH, STAT_WIDTH = 8, 4
HEIGHT, STAT_HEIGHT = 7, 4
SELECT = '{instance=~"$instance"}'


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: its title, unit, and expressions with their legends. From `alarm` on a single figure
    is red."""

    title: str
    unit: str
    targets: Sequence[tuple[str, str]]
    why: str = ""
    alarm: float | None = None


def rate(counter: str, by: str, labels: str = "") -> str:
    """Give how often a counter counts in a second, by some labels."""
    inside = f'instance=~"$instance"{"," if labels else ""}{labels}'
    return f"sum by ({by}) (rate({counter}{{{inside}}}[$__rate_interval]))"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """Give a quantile of a histogram, by some labels."""
    inside = rate(f"{histogram}_bucket", "le" + (f", {by}" if by else ""))
    return f"histogram_quantile({share:g}, {inside})"


FIGURES = [
    Panel("Takes calls", "bool_yes_no", [(f"min(stockade_healthy{SELECT})", "")]),
    Panel("Live calls", "short", [(f"sum(stockade_live_calls{SELECT})", "")]),
    Panel(
        "Heads contradicted", "short", [(f"sum(stockade_heads_contradicted_total{SELECT})", "")],
        "Heads of witnesses that the log does not begin with.", 1,
    ),
    Panel(
        "Damage", "short", [(f"sum(stockade_record_damaged_total{SELECT})", "")],
        "Reads that found the record not to be what was written.", 1,
    ),
    Panel("Dead letters", "short", [(f"sum(stockade_sink_dead_letters{SELECT})", "")], "", 1),
    Panel("Sinks that are down", "short", [(f"count(stockade_sink_up{SELECT} == 0)", "")], "", 1),
]  # fmt: skip

ROWS: dict[str, list[Panel]] = {
    "Calls": [
        Panel(
            "Calls a second, by outcome", "ops",
            [(rate("stockade_calls_total", "outcome"), "{{outcome}}")],
        ),
        Panel(
            "Calls a second, by profile", "ops",
            [(rate("stockade_calls_total", "profile"), "{{profile}}")],
        ),
        Panel(
            "Live calls and their limit", "short",
            [
                (f"stockade_live_calls{SELECT}", "live on {{instance}}"),
                (f"stockade_calls_limit{SELECT}", "limit on {{instance}}"),
            ],
        ),
        Panel(
            "Duration of calls", "s",
            [
                (quantile(0.5, "stockade_call_duration_seconds", "profile"), "p50 {{profile}}"),
                (quantile(0.99, "stockade_call_duration_seconds", "profile"), "p99 {{profile}}"),
            ],
        ),
        Panel(
            "Phases, 99th percentile", "s",
            [(quantile(0.99, "stockade_call_phase_seconds", "phase"), "{{phase}}")],
            "preparing is the start of the container.",
        ),
        Panel(
            "Admission, 99th percentile", "s",
            [(quantile(0.99, "stockade_admission_seconds", "step"), "{{step}}")],
            "policy decides whether a call may run; record makes its INTENT durable.",
        ),
        Panel(
            "Refusals a second, by reason", "ops",
            [(rate("stockade_rejects_total", "reason"), "{{reason}}")],
        ),
    ],
    "Walls": [
        Panel(
            "Denials a second, by wall", "ops",
            [(rate("stockade_denials_total", "wall"), "{{wall}}")],
        ),
        Panel(
            "Most denied", "ops",
            [(f"topk(10, {rate('stockade_denials_total', 'wall, name')})", "{{wall}} {{name}}")],
        ),
        Panel(
            "Denials outside of calls", "ops",
            [(rate("stockade_strays_total", "name"), "{{name}}")],
        ),
        Panel(
            "Connections a second, by verdict", "ops",
            [(rate("stockade_egress_flows_total", "verdict"), "{{verdict}}")],
        ),
        Panel(
            "Egress", "Bps",
            [(rate("stockade_egress_bytes_total", "direction"), "{{direction}}")],
        ),
        Panel(
            "Events lost", "ops",
            [(rate("stockade_lost_events_total", "what, reason"), "{{what}}: {{reason}}")],
        ),
    ],
    "Record": [
        Panel(
            "Waits for the disk", "s",
            [
                (quantile(0.5, "stockade_journal_fsync_seconds"), "p50"),
                (quantile(0.99, "stockade_journal_fsync_seconds"), "p99"),
            ],
        ),
        Panel(
            "Entries a second", "ops",
            [(rate("stockade_journal_entries_total", "instance"), "{{instance}}")],
        ),
        Panel(
            "Room", "bytes",
            [
                (f"stockade_state_free_bytes{SELECT}", "free on {{instance}}"),
                (f"stockade_state_watermark_bytes{SELECT}", "{{mark}} mark of {{instance}}"),
            ],
        ),
        Panel(
            "Size", "bytes",
            [
                (f"stockade_journal_bytes{SELECT}", "log of {{instance}}"),
                (f"stockade_contents_bytes{SELECT}", "contents of {{instance}}"),
            ],
        ),
        Panel(
            "Head behind", "s", [(f"stockade_head_behind_seconds{SELECT}", "{{instance}}")],
        ),
        Panel(
            "Age of witnesses' heads", "s",
            [(f"time() - stockade_witness_head_time_seconds{SELECT}", "{{witness}}")],
        ),
    ],
    "Sinks": [
        Panel("Lag", "s", [(f"stockade_sink_lag_seconds{SELECT}", "{{sink}}")]),
        Panel("Lag in entries", "short", [(f"stockade_sink_lag_entries{SELECT}", "{{sink}}")]),
        Panel("Lag in bytes", "bytes", [(f"stockade_sink_lag_bytes{SELECT}", "{{sink}}")]),
        Panel(
            "Events a second", "ops", [(rate("stockade_sink_events_total", "sink"), "{{sink}}")],
        ),
        Panel(
            "Retries a second", "ops", [(rate("stockade_sink_retries_total", "sink"), "{{sink}}")],
        ),
        Panel("Dead letters", "short", [(f"stockade_sink_dead_letters{SELECT}", "{{sink}}")]),
    ],
    "Process": [
        Panel(
            "Processor", "percentunit",
            [(rate("process_cpu_seconds_total", "instance", 'job="stockade"'), "{{instance}}")],
        ),
        Panel(
            "Memory", "bytes",
            [('process_resident_memory_bytes{instance=~"$instance",job="stockade"}',
              "{{instance}}")],
        ),
        Panel(
            "File descriptors", "short",
            [('process_open_fds{instance=~"$instance",job="stockade"}', "{{instance}}")],
        ),
    ],
}  # fmt: skip


def made() -> str:
    """Give the dashboard's JSON."""
    board = (
        dashboard.Dashboard("Stockade")
        .uid("stockade")
        .description("Made by docs/monitoring/dashboard.py: change that, and not this.")
        .tags(["stockade"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .with_variable(dashboard.DatasourceVariable("source").label("Source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("instance")
            .label("Daemon")
            .query("label_values(stockade_build_info, instance)")
            .datasource(SOURCE)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(models.VariableOption(selected=True, text="All", value="$__all"))
        )
    )
    numbers = itertools.count(1)
    for figure in FIGURES:
        board.with_panel(_figure(figure).id(next(numbers)))
    for title, panels in ROWS.items():
        board.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            board.with_panel(_graph(panel).id(next(numbers)))
    plain = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    return json.dumps(_without_nulls(plain), indent=1, sort_keys=True) + "\n"


def _without_nulls(value: Any) -> Any:
    """Leave out what was not set: Grafana has a default for what is missing, and none for null."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def expressions() -> list[str]:
    """Give every expression that it asks Prometheus for."""
    panels = [*FIGURES, *(panel for panels in ROWS.values() for panel in panels)]
    return [expression for panel in panels for expression, _ in panel.targets]


def _queries(panel: Panel) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery()
        .expr(expression)
        .legend_format(legend or "__auto")
        .ref_id(string.ascii_uppercase[number])
        for number, (expression, legend) in enumerate(panel.targets)
    ]


def _figure(panel: Panel) -> stat.Panel:
    made = (
        stat.Panel()
        .title(panel.title)
        .description(panel.why)
        .unit(panel.unit)
        .datasource(SOURCE)
        .height(STAT_HEIGHT)
        .span(STAT_WIDTH)
        .no_value("0")
    )
    if panel.alarm is not None:
        made.thresholds(
            dashboard.ThresholdsConfig()
            .mode(models.ThresholdsMode.ABSOLUTE)
            .steps(
                [
                    models.Threshold(color="green"),
                    models.Threshold(color="red", value=panel.alarm),
                ]
            )
        )
    for query in _queries(panel):
        made.with_target(query)
    return made


def _graph(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.why)
        .unit(panel.unit)
        .min(0)
        .datasource(SOURCE)
        .height(HEIGHT)
        .span(WIDTH)
        .show_points(common.VisibilityMode.NEVER)
    )
    for query in _queries(panel):
        made.with_target(query)
    return made


if __name__ == "__main__":
    PATH.write_text(made())
