"""`stockade doctor`: try every wall on this host, and say what to do where one does not stand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli import output as out
from supervisor.cli.folders import profile_folders, runtime_option
from supervisor.cli.session import json_option, session
from supervisor.cli.trace import search_path
from supervisor.errors import HostError, StockadeError

if TYPE_CHECKING:
    from supervisor.sandbox.doctor import Row

FINE = frozenset({"holds", "absent"})


@click.command("doctor", short_help="Try every wall on this host.")
@runtime_option(help="Folder for the sandbox that is tried.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The daemon's configuration, for its profiles: what they require of the host.  "
    "[default: /etc/stockade/config.yaml, where it exists]",
)
@json_option
@click.pass_context
def command(context: click.Context, /, runtime_folder: Path, config_path: Path | None) -> None:
    """Try every wall on this host with a sandbox of its own: being listed proves nothing, a
    denial that is seen does. Says what holds, what fails, and what to do. Needs root, and no
    daemon.

    A wall is `absent` where this host lacks what some hosts have: the row says what it would add.
    That is no failure, unless a profile that the daemon would load requires it.

    With --json, one document: a list of `wall`, `verdict` (holds, absent, fails), `detail`,
    `advice`.

    \b
    Examples:
      sudo stockade doctor
      sudo stockade doctor --json | jq '.[] | select(.verdict == "fails")'

    \b
    Exit codes:
      0  every wall holds, or is absent and not required
      5  at least one fails
    """
    from supervisor.sandbox import doctor

    required, wrong = _required(config_path)
    rows = [*doctor(runtime_folder, required=required, path=search_path()), *wrong]
    if session().json:
        out.document(rows)
    else:
        out.table(
            ("WALL", "VERDICT", "DETAIL", "WHAT TO DO"),
            [(row.wall, row.verdict, row.detail, row.advice) for row in rows],
        )
    if any(row.verdict not in FINE for row in rows):
        context.exit(HostError.exit_code)


def _required(config_path: Path | None) -> tuple[dict[str, list[str]], list[Row]]:
    """Give the profiles that require a wall or a runtime, by that; and a row where they cannot be
    read, since nobody can say then what they require."""
    from supervisor.cli.serve import configuration, configuration_file
    from supervisor.profile.load import ProfileSet
    from supervisor.profile.schema import RUNTIME
    from supervisor.sandbox.doctor import FAILS, Row

    required: dict[str, list[str]] = {}
    try:
        config = configuration(configuration_file(config_path))
        profiles = ProfileSet.load(profile_folders(config.profiles))
    except StockadeError as error:
        said = error.message.partition("\n")[0]
        return {}, [
            Row(wall="profiles", verdict=FAILS, detail=said, advice="stockade profile lint")
        ]
    for name in profiles.names:
        if profiles.problems(name):
            continue
        profile = profiles.effective(name)
        for needed in (*profile.require, profile.runtime):
            if needed != RUNTIME:  # which every host has
                required.setdefault(needed, []).append(name)
    return required, []
