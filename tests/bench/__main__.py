"""`make bench`: Stockade against bare `runc run`, with its fence against without, egress by name
against the bare wire, what the record takes, and what its sinks take.

Absolute times say little about another machine; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from tests.bench import egress, export, fence, measures, record
from tests.bench.figures import Figure
from tests.support.daemon import running_daemon

QUICK = 0.02


def main() -> int:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it works")
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    options = parser.parse_args()
    scale = QUICK if options.quick else 1.0
    console = Console(stderr=options.json, quiet=options.json, highlight=False)
    figures = []
    for name, measure in PARTS.items():
        for figure in measure(scale) if options.only in (None, name) else ():
            figures.append(figure)
            console.print(f"  {figure.name}: {figure.ours:.4g} {figure.unit}")
    console.print(as_table(figures))
    if options.json:
        rows = [
            {**dataclasses.asdict(figure), "ratio": figure.ratio, "met": figure.met}
            for figure in figures
        ]
        sys.stdout.write(json.dumps({"figures": rows}) + "\n")
    return 0


def calls(scale: float) -> Iterator[Figure]:
    """Measure calls that reach nothing, each time from a daemon that has nothing else to do."""
    with running_daemon(config=measures.CONFIG) as daemon, measures.bundle(daemon) as bundle:
        yield measures.idle(daemon)
        yield from measures.cold(daemon, bundle, scale)
        yield from measures.throughput(daemon, bundle, scale)
    with running_daemon(config=measures.CONFIG) as daemon:
        yield from measures.output(daemon, scale)
    with running_daemon(config=measures.CONFIG) as daemon:
        yield from measures.growth(daemon, scale)


PARTS: dict[str, Callable[[float], Iterator[Figure]]] = {
    "calls": calls, "fence": fence.cost, "egress": egress.cost,
    "record": record.cost, "export": export.cost,
}  # fmt: skip


def as_table(figures: list[Figure]) -> Table:
    """Lay the figures out for people."""
    table = Table(title="Stockade against bare runc", title_justify="left")
    words = {"what", "unit", "against", ""}
    for column in ("what", "unit", "ours", "against", "theirs", "ratio", "goal", ""):
        table.add_column(column, justify="left" if column in words else "right")
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        table.add_row(
            figure.name,
            figure.unit,
            f"{figure.ours:.4g}",
            "" if figure.bare is None else figure.peer,
            "" if figure.bare is None else f"{figure.bare:.4g}",
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            "" if figure.goal is None else f"{sign} {figure.goal:g}",
            {None: "", True: "met", False: "missed"}[figure.met],
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
