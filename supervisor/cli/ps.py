"""`stockade ps`: which calls there are."""

from __future__ import annotations

import time

import click

from supervisor.call import outcome
from supervisor.call.events import Finished
from supervisor.call.safe import command as shown
from supervisor.cli import output as out
from supervisor.cli.completion import profile_names
from supervisor.cli.session import daemon_options, session

ARGV_WIDTH = 80
LIMIT = 100


@click.command("ps", short_help="List calls.")
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Also calls that have ended, newest first."
)
@click.option(
    "-p",
    "--profile",
    default="",
    shell_complete=profile_names,
    help="Only calls under this profile.",
)
@click.option("--agent", default="", help="Only calls that gave this agent's name.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=LIMIT,
    show_default=True,
    help="At most so many calls are asked for.",
)
@click.option("-q", "--ids", is_flag=True, help="Print the ids only, one a line.")
@daemon_options
def command(everything: bool, profile: str, agent: str, limit: int, ids: bool) -> None:
    """List live calls: your own, or everybody's where the configuration gives you that right.

    With --json, one document: a list of calls.

    \b
    Examples:
      stockade ps
      stockade ps --all --limit 20
      stockade ps --json | jq -r '.[].call_id'

    \b
    Exit codes:
      0  listed, also where there is none
      7  no daemon answers; other failures as in `stockade --help`
    """
    current = session()
    with current.client() as client:
        calls = [
            call
            for call in client.list_calls(live_only=not everything, profile=profile, limit=limit)
            if not agent or call.correlation.agent == agent
        ]
    if ids:
        for call in calls:
            click.echo(call.call_id)
    elif current.json:
        out.document(calls)
    else:
        now = time.time()
        out.table(
            ("CALL", "CALLER", "AGENT", "PROFILE", "STATE", "AGE", "DENIED", "COMMAND"),
            [
                (
                    call.call_id,
                    call.caller.name,
                    call.correlation.agent,
                    call.profile,
                    ended(call.finished) if call.finished else call.state,
                    out.age(now - call.accepted_ns / 1e9),
                    call.denials or "",
                    shown(call.argv, ARGV_WIDTH),
                )
                for call in calls
            ],
            empty="no calls" if everything else "no live calls; --all shows those that have ended",
        )


def ended(finished: Finished) -> str:
    """Give an outcome in a word: `exited 0`, `timed_out`."""
    match finished.outcome:
        case outcome.Exited(code=code):
            return f"exited {code}"
        case outcome.Signaled(signal=number) | outcome.Stopped(signal=number):
            return f"{outcome.kind(finished.outcome)} {number}"
        case outcome.LimitExceeded(limit=limit):
            return f"limit {limit}"
        case other:
            return outcome.kind(other)
