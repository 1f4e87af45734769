"""`stockade audit what-if`: which past calls a profile would have denied something, or let more."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.call.safe import shorten
from supervisor.cli import output as out
from supervisor.cli.completion import profile_names
from supervisor.cli.folders import profile_folders
from supervisor.cli.moment import Moment
from supervisor.cli.session import daemon_options, session
from supervisor.cli.why import Found, judge_of
from supervisor.errors import AuditCorrupt, NotFound, StockadeError

if TYPE_CHECKING:
    from supervisor.client import Call, Supervisor
    from supervisor.profile.what_if import Change, Side

EXIT_CHANGES = StockadeError.exit_code
SUFFIX = ".yaml"
CALLS = 10_000
PROGRESS_S = 5.0
ROWS_MAX = 1_000
WIDTH = 80
OF_WIDTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A call, and what would be otherwise."""

    call_id: str
    accepted_ns: int
    profile: str
    profile_digest: str
    as_before: bool
    let_through: Any = ()
    denied: Any = ()
    unknown: Any = ()


@click.command("what-if", short_help="Say what a changed profile would have meant for past calls.")
@click.option(
    "-p",
    "--profile",
    "only",
    default="",
    shell_complete=profile_names,
    help="Only calls that ran under this profile.",
)
@click.option(
    "--since",
    type=Moment(),
    metavar="TIME",
    help="Only calls since then: 2h, 7d, 2026-01-31, or RFC 3339 (UTC where not said).",
)
@click.option("--until", type=Moment(), metavar="TIME", help="Only calls before.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=CALLS,
    show_default=True,
    help="At most so many, the newest.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="For a file: the configuration whose folders of profiles it builds on.  "
    "[default: /etc/stockade/config.yaml, where it exists]",
)
@click.argument("profile", metavar="PROFILE|FILE", shell_complete=profile_names)
@daemon_options
@click.pass_context
def command(
    context: click.Context,
    /,
    profile: str,
    only: str,
    since: int | None,
    until: int | None,
    limit: int,
    config_path: Path | None,
) -> None:
    """Say for each past call what PROFILE would have let through that was denied, what it would
    have denied that was let through, and what cannot be told from the record. PROFILE is the name
    of one of the daemon's, or a file NAME.yaml, which then stands instead of the profile of that
    name: nothing runs, and nothing changes.

    Judged are denials, connections, programs, watched system calls, the request, and limits by
    what was used. What else a profile takes away (a system call that nobody watched, a path) is
    named as what cannot be told. A call that is denied something may go on otherwise: that nobody
    knows. Of calls that ran under the very same profile, nothing is read.

    With --json, one document: `profile`, `digest`, `summary` (`calls`, `as_before`, `denied`,
    `let_through`, `unknown`) and `calls`, each with `call_id`, `accepted`, `profile`,
    `profile_digest`, `as_before`, `let_through`, `denied`, `unknown`: lists of `what`, `of`, `why`.

    \b
    Examples:
      stockade audit what-if python-next --since 7d --profile python
      stockade audit what-if ./python.yaml --since 24h
      stockade audit what-if --json base | jq -r '.calls[] | select(.denied != []).call_id'

    \b
    Exit codes:
      0  all calls would be as before
      1  one would not, or that cannot be told
      2  the profile is wrong, or the command line
      3  there is no such profile
      4  you may not read records; other failures as in `stockade --help`
    """
    if config_path is not None and not profile.endswith(SUFFIX):
        raise click.UsageError("--config is for a FILE: the daemon has its own")
    with session().client() as client:
        found = _changed(client, profile, config_path)
        wanted = client.records(
            limit=limit + 1, profile=only, since_ns=since or 0, until_ns=until or 0
        )
        calls = list(wanted)
        if len(calls) > limit:
            del calls[limit:]
            out.note(f"there are more calls: these are the newest {limit}; see --limit")
        judged = list(_judge_all(client, found, calls))
    _tell(profile, found, judged)
    if not all(one.as_before for one in judged):
        context.exit(EXIT_CHANGES)


def _changed(client: Supervisor, profile: str, config_path: Path | None) -> Found:
    """Give the profile to judge by: the daemon's, or a file's."""
    if not profile.endswith(SUFFIX):
        said = client.get_profile(profile)
        return Found(canonical=said.canonical, digest=said.summary.digest, lines=said.lines)
    from supervisor.cli.serve import configuration, configuration_file
    from supervisor.profile.load import ProfileSet

    path = Path(profile)
    if not path.is_file():
        raise NotFound("PROFILE_NOT_FOUND", f"there is no file {profile!r}")
    folders = profile_folders(configuration(configuration_file(config_path)).profiles)
    effective = ProfileSet.load(folders).instead(path).effective(path.stem)
    return Found(canonical=effective.canonical, digest=effective.digest, lines=effective.lines)


def _side(found: Found) -> Side:
    from supervisor.profile.what_if import Side

    return Side(canonical=json.loads(found.canonical), judge=judge_of(found))


def _judge_all(client: Supervisor, found: Found, calls: list[Call]) -> Iterator[Judged]:
    """Judge each call; say now and then how far it is."""
    from supervisor.profile.what_if import Change, Finding

    new, olds = _side(found), dict[str, "Side"]()
    said_s = time.monotonic()
    for done, call in enumerate(calls):
        if time.monotonic() - said_s >= PROGRESS_S:
            said_s = time.monotonic()
            out.note(f"{done} of {out.count(len(calls), 'call')}")
        change = Change()
        if call.profile_digest != found.digest:
            try:
                change = _judge(client, call, new, olds)
            except (NotFound, AuditCorrupt) as error:
                why = Finding(what="record", of=error.reason, why=error.message)
                change = Change(unknown=(why,))
        yield Judged(
            call_id=call.call_id,
            accepted_ns=call.accepted_ns,
            profile=call.profile,
            profile_digest=call.profile_digest,
            as_before=change.as_before,
            let_through=change.let_through,
            denied=change.denied,
            unknown=change.unknown,
        )


def _judge(client: Supervisor, call: Call, new: Side, olds: dict[str, Side]) -> Change:
    from supervisor.profile.what_if import judge

    digest = call.profile_digest
    if digest not in olds:
        olds[digest] = _side(Found(canonical=client.recorded_profile(call.call_id), digest=digest))
    entries = client.record(call.call_id).entries
    bodies: list[tuple[str, Any]] = [(entry.kind, entry.body()["body"]) for entry in entries]
    return judge(olds[digest], new, bodies)


def _tell(profile: str, found: Found, judged: list[Judged]) -> None:
    summary = {
        "calls": len(judged),
        "as_before": sum(one.as_before for one in judged),
        "denied": sum(bool(one.denied) for one in judged),
        "let_through": sum(bool(one.let_through) for one in judged),
        "unknown": sum(bool(one.unknown) for one in judged),
    }
    if session().json:
        out.document({
            "profile": profile, "digest": found.digest, "summary": summary, "calls": judged,
        })  # fmt: skip
        return
    rows = [row for one in judged for row in _rows(one)]
    if rows:
        columns = ("CALL", "ACCEPTED", "PROFILE", "WOULD BE", "WHAT", "", "WHY")
        out.table(columns, rows[:ROWS_MAX])
        out.heading("")
    if len(rows) > ROWS_MAX:
        out.heading(f"and {len(rows) - ROWS_MAX} more; --json has all")
    out.heading(
        f"{out.count(summary['calls'], 'call')}: {summary['as_before']} as before, "
        f"{summary['denied']} would be denied something, {summary['let_through']} let through "
        f"more, of {summary['unknown']} not everything can be told"
    )


def _rows(one: Judged) -> Iterator[tuple[object, ...]]:
    for would, findings in (
        ("denied", one.denied), ("let through", one.let_through), ("not told", one.unknown),
    ):  # fmt: skip
        for finding in findings:
            yield (
                one.call_id, out.moment(one.accepted_ns), one.profile, would, finding.what,
                shorten(finding.of, OF_WIDTH), shorten(finding.why, WIDTH),
            )  # fmt: skip
