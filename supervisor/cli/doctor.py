"""`stockade doctor`: try every wall on this host, and say what to do where one does not stand."""

from __future__ import annotations

from pathlib import Path

import click

from supervisor.cli import output as out
from supervisor.cli.session import json_option, session
from supervisor.errors import HostError

HOLDS = "holds"


@click.command("doctor", short_help="Try every wall on this host.")
@click.option(
    "--runtime-dir",
    "runtime_folder",
    default=Path("/run/stockade"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the sandbox that is tried.",
)
@json_option
@click.pass_context
def command(context: click.Context, /, runtime_folder: Path) -> None:
    """Try every wall on this host with a sandbox of its own: being listed proves nothing, a
    denial that is seen does. Says what holds, what does not, and what to do. Needs root, and no
    daemon.

    With --json, one document: a list of `wall`, `verdict`, `detail`, `advice`.

    \b
    Examples:
      sudo stockade doctor
      sudo stockade doctor --json | jq '.[] | select(.verdict != "holds")'

    \b
    Exit codes:
      0  every wall holds
      5  at least one does not
    """
    from supervisor.sandbox import doctor

    rows = list(doctor(runtime_folder))
    if session().json:
        out.document(rows)
    else:
        out.table(
            ("WALL", "VERDICT", "DETAIL", "WHAT TO DO"),
            [(row.wall, row.verdict, row.detail, row.advice) for row in rows],
        )
    if any(row.verdict != HOLDS for row in rows):
        context.exit(HostError.exit_code)
