"""`stockade doctor`: try every wall on this host, and say what to do where one does not stand."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli import output as out
from supervisor.cli.doctor_record import log_key, witness_rows
from supervisor.cli.folders import profile_folders, runtime_option
from supervisor.cli.session import json_option, session
from supervisor.cli.trace import search_path
from supervisor.errors import HostError, StockadeError

if TYPE_CHECKING:
    from supervisor.api.config import Configuration
    from supervisor.profile.load import ProfileSet
    from supervisor.sandbox.doctor import Row

ADVICE = {
    "CONFIG_MISSING": "--config names the daemon's configuration; without it, the defaults",
    "CONFIG_INVALID": "stockade serve says all that is wrong, with line and column",
    "PROFILE_INVALID": "stockade profile lint",
}
"""What to do by a reason that has no hint of its own."""

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
    That is no failure, unless a profile that the daemon would load requires it. What could not be
    tried, since something before it failed, is `not tried`. The row `configuration` fails where
    the daemon would not start under it, and also where it starts and refuses the calls of a profile
    that is wrong or lacks a secret: it says which. `log key` says what signs the log and who can
    read contents, `witness`, for each, how it does as the daemon left word, and when, and
    `retention`, where it is asked for, whether anything keeps it from removing.

    With --json, one document: a list of `wall`, `verdict` (holds, absent, fails, not tried),
    `detail`, `advice`.

    \b
    Examples:
      sudo stockade doctor
      sudo stockade doctor --json | jq '.[] | select(.verdict == "fails")'

    \b
    Exit codes:
      0  every wall holds, or is absent and not required
      5  at least one fails, or could not be tried
    """
    from supervisor.sandbox import doctor

    required, configured = _configured(config_path)
    rows = [*doctor(runtime_folder, required=required, path=search_path()), *configured]
    if session().json:
        out.document(rows)
    else:
        out.table(
            ("WALL", "VERDICT", "DETAIL", "WHAT TO DO"),
            [(row.wall, row.verdict, row.detail, row.advice) for row in rows],
        )
    if any(row.verdict not in FINE for row in rows):
        context.exit(HostError.exit_code)


def _configured(config_path: Path | None) -> tuple[dict[str, list[str]], list[Row]]:
    """Give what `_judged` does, and rows on the log's key and its witnesses, and on retention where
    the daemon would have it."""
    required, row, config = _judged(config_path)
    if config is None:
        return required, [row]
    state = Path(config.state)
    rows = [row, log_key(state, config.record), *witness_rows(state, config.witnesses)]
    if config.record is not None and config.record.retain is not None:
        rows.append(_retention(state, config.record.retain.policy.exported_by))
    return required, rows


def _retention(state: Path, exporters: tuple[str, ...]) -> Row:
    from supervisor.audit.cursors import CursorError, Cursors
    from supervisor.audit.retention import read_problem
    from supervisor.sandbox.doctor import Row

    for name in exporters:
        try:
            Cursors(state).read(name)
        except CursorError as error:
            said = f"nothing is removed: the cursor {name}: {error}"
            advice = f"stockade audit export-mark {name} INDEX, once all below INDEX is safe"
            return Row(wall="retention", verdict="fails", detail=said, advice=advice)
    problem = read_problem(state)
    if problem:
        advice = "docs/operations.md, Backup and retention"
        return Row(wall="retention", verdict="fails", detail=problem, advice=advice)
    said = f"{', '.join(exporters) or 'nobody'} must have acknowledged what goes"
    return Row(wall="retention", verdict="holds", detail=said, advice="")


def _judged(config_path: Path | None) -> tuple[dict[str, list[str]], Row, Configuration | None]:
    """Give the profiles that require a wall or a runtime, by that; and a row that says whether the
    daemon would start under its configuration, and refuse no profile's calls. Where it would not
    start, nobody can say what it requires."""
    from supervisor.api.callers import check_grants
    from supervisor.api.guarded import require_guarded
    from supervisor.api.sinks import check_files
    from supervisor.cli.provided import egress_options
    from supervisor.cli.serve import configuration, configuration_file, missing_secrets
    from supervisor.profile.load import ProfileSet

    source = configuration_file(config_path)
    try:
        config = configuration(source)
        folders = profile_folders(config.profiles)
        require_guarded(config, source=source, profiles=folders)
        profiles = ProfileSet.load(folders)
        check_grants(config.callers, profiles)
        egress_options(config)
        if os.geteuid() == 0:  # Others may not read what the daemon can.
            asyncio.run(check_files(config))
    except StockadeError as error:
        said = f"the daemon would not start: {error.message.partition(chr(10))[0]}"
        return {}, _row("fails", said, error.hint or ADVICE.get(error.reason, "")), None
    wrong = [name for name in profiles.names if profiles.problems(name)]
    if wrong or profiles.stray:
        said = f"the daemon starts, and refuses what is wrong: {', '.join(wrong) or 'stray files'}"
        return _required(profiles), _row("fails", said, "stockade profile lint"), config
    missing = {name: missing_secrets(name, profiles, config) for name in profiles.names}
    if told := [f"{name} ({', '.join(which)})" for name, which in missing.items() if which]:
        said = f"the daemon starts, and refuses calls, without their secrets: {'; '.join(told)}"
        return _required(profiles), _row("fails", said, "name them under secrets: there"), config
    said = f"{source or '(defaults)'}, {len(profiles.names)} profiles"
    return _required(profiles), _row("holds", said, ""), config


def _row(verdict: str, detail: str, advice: str) -> Row:
    from supervisor.sandbox.doctor import Row

    return Row(wall="configuration", verdict=verdict, detail=detail, advice=advice)


def _required(profiles: ProfileSet) -> dict[str, list[str]]:
    from supervisor.profile.schema import RUNTIME

    required: dict[str, list[str]] = {}
    for name in profiles.names:
        if profiles.problems(name):
            continue
        profile = profiles.effective(name)
        for needed in (*profile.require, profile.runtime):
            if needed != RUNTIME:  # which every host has
                required.setdefault(needed, []).append(name)
    return required
