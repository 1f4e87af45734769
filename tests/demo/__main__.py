"""`make demo`: a daemon of its own, an agent that works, the same agent turned hostile, the proof.

Exit 0 only if every answer was right, every wall held, and the record says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from supervisor.client import StockadeError
from tests.demo import agent, hostile, reach, tamper
from tests.demo.evidence import Fell
from tests.support.daemon import Daemon, running_daemon
from tests.support.world import world

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / ".output" / "demo"
CONFIG = {"profiles": [str(ROOT / "profiles"), str(Path(__file__).parent / "profiles")]}


@dataclasses.dataclass(slots=True, kw_only=True)
class Report:
    """Everything that the demo found."""

    work: list[agent.Done] = dataclasses.field(default_factory=list)
    attacks: list[hostile.Verdict] = dataclasses.field(default_factory=list)
    proof: tamper.Proof | None = None
    problems: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Say whether every answer was right, every wall held and the record proved it."""
        return bool(
            not self.problems
            and self.proof
            and self.work
            and all(done.ok for done in self.work)
            and self.attacks
            and all(verdict.held for verdict in self.attacks)
        )

    def as_json(self) -> dict[str, Any]:
        """Give the report as a JSON object."""
        return {"ok": self.ok, **dataclasses.asdict(self)}


def main() -> int:
    """Run the demo and print what happened."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    as_json = parser.parse_args().json
    console = Console(stderr=as_json, quiet=as_json, highlight=False, soft_wrap=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = Report()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="stockade-demo-"))
    try:
        play(report, folder, console)
    except (Fell, StockadeError, AssertionError) as problem:
        report.problems.append(f"{type(problem).__name__}: {problem}")
    finally:
        shutil.rmtree(folder)
    report.seconds = round(time.monotonic() - began, 1)
    (RESULTS / "report.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    summarise(report, console)
    if as_json:
        sys.stdout.write(json.dumps(report.as_json()) + "\n")
    return 0 if report.ok else 1


def play(report: Report, folder: Path, console: Console) -> None:
    """Do the work, make the attacks, prove the record."""
    daemon_folder = folder / "daemon"
    daemon_folder.mkdir()
    # Not in a namespace of its own: this is how a host runs it.
    with running_daemon(folder=daemon_folder, config=CONFIG, isolated=False) as daemon:
        console.print(f"[bold]The daemon[/] runs as process {daemon.pid} at {daemon.address}\n")
        console.rule("An agent does its work", align="left")
        for done in _shown(agent.work(daemon.client, RESULTS), console, _show_work):
            report.work.append(done)
        console.rule("The same agent turns hostile", align="left")
        for verdict in _shown(hostile.attack(daemon.client), console, _show_attack):
            report.attacks.append(verdict)
        _still_serves(daemon)
    console.rule("An agent that may reach one API, in a world of the demo's own", align="left")
    _reach(report, folder / "reaching", console)
    console.rule("The record", align="left")
    call_id = next((done.call_id for done in report.work if done.ok), "")
    report.proof = tamper.prove(daemon.state, call_id, folder)
    console.print(f"  verified:  {escape(report.proof.verified)}")
    console.print(f"  in a copy: {escape(report.proof.touched)} flipped")
    console.print(f"  noticed:   {escape(report.proof.noticed)}\n")


def _reach(report: Report, folder: Path, console: Console) -> None:
    """Go out by name, with a second daemon: in a namespace whose one wire leads into that world."""
    folder.mkdir()
    with (
        world() as there,
        running_daemon(
            folder=folder, config=there.config(**CONFIG), network=there.island
        ) as daemon,
    ):
        for done in _shown(reach.work(daemon.client, there), console, _show_work):
            report.work.append(done)
        for verdict in _shown(reach.attack(daemon.client, there), console, _show_attack):
            report.attacks.append(verdict)


def _still_serves(daemon: Daemon) -> None:
    call = daemon.client.run(["true"], profile="base")
    if not (daemon.serving() and call.ok):
        raise Fell("the daemon does not serve any more")


Item = TypeVar("Item")


def _shown(
    items: Iterator[Item], console: Console, show: Callable[[Item, Console], None]
) -> Iterator[Item]:
    for item in items:
        show(item, console)
        yield item


def _show_work(done: agent.Done, console: Console) -> None:
    mark = "[green]✓[/]" if done.ok else "[red]✗[/]"
    console.print(f"{mark} [bold]{escape(done.question)}[/]")
    console.print(f"  {escape(done.answer)}")
    if done.ok:
        console.print(f"  [dim]call {done.call_id}, {done.milliseconds:.0f} ms[/]\n")


def _show_attack(verdict: hostile.Verdict, console: Console) -> None:
    mark = "[green]held[/]" if verdict.held else "[red]FELL[/]"
    console.print(f"{mark} [bold]{escape(verdict.title)}[/]")
    console.print(f"  on the host: {escape(verdict.unconfined)}")
    console.print(f"  the record:  {escape(verdict.record)}")
    if verdict.call_id:
        console.print(f"  [dim]call {verdict.call_id}[/]\n")


def summarise(report: Report, console: Console) -> None:
    """Print the table at the end."""
    table = Table(title="Summary", title_justify="left")
    for column in ("what", "unconfined", "in the sandbox"):
        table.add_column(column)
    for done in report.work:
        table.add_row(escape(done.question), "", "right" if done.ok else "[red]WRONG[/]")
    table.add_section()
    for verdict in report.attacks:
        confined = "held" if verdict.held else "[red]FELL[/]"
        table.add_row(escape(verdict.title), escape(verdict.unconfined), confined)
    table.add_section()
    table.add_row("the record", "", "proved" if report.proof else "[red]NOT PROVED[/]")
    console.print(table)
    for problem in report.problems:
        console.print(f"[red]problem:[/] {escape(problem)}")
    end = "[green]Every wall held.[/]" if report.ok else "[red]Not every wall held.[/]"
    console.print(f"{end} {report.seconds} s; the report and the chart are in {RESULTS}")


if __name__ == "__main__":
    sys.exit(main())
