"""`stockade audit erase`: delete the key of a call, and with it its content."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from supervisor.call.safe import safe, shorten
from supervisor.cli import output as out
from supervisor.cli.completion import call_ids
from supervisor.cli.session import daemon_options, session

if TYPE_CHECKING:
    from supervisor.client import Erased

WHY_WIDTH = 200


@click.command("erase", short_help="Erase the content of a call.")
@click.option("--why", required=True, metavar="TEXT", help="The reason; it goes on record.")
@click.argument("call_id", metavar="CALL", shell_complete=call_ids)
@daemon_options
def command(call_id: str, why: str) -> None:
    """Erase the content of CALL, which has ended: what went through its streams, its input and
    output files, and a long request. Its key is overwritten and deleted, so nobody can read them
    any more; copies of the state folder that have the key still can.

    The log stays as it is, with argv, variables, denials, connections, sizes and times, and has one
    more entry: who erased it, when and why. `audit verify` finds nothing wrong.

    Only calls that were recorded under `record: recipients` have a key. It is for callers with
    `erase: own` or `erase: all`. Doing it again changes nothing. What is held (`audit hold`) has to
    be released first.

    With --json, one document: `call_id`, `by`, `time_ns`, `why`.

    \b
    Examples:
      stockade audit erase --why 'request 4711 of the data protection officer' CALL

    \b
    Exit codes:
      0  erased, now or before
      2  there is no reason
      3  there is no such record, the call has not ended, is held, or has no key
      4  you may not erase; other failures as in `stockade --help`
    """
    with session().client() as client:
        erased = client.erase(call_id, why)
    if session().json:
        out.document({"call_id": call_id, **out.to_json(erased)})
    else:
        click.echo(safe(f"call {call_id}: content {told_erased(erased)}"))


def told_erased(erased: Erased) -> str:
    """Say by whom, when and why the content of a call was erased."""
    on = out.timestamp(erased.time_ns)
    return f"erased by {erased.by} on {on}: {shorten(safe(erased.why), WHY_WIDTH)}"
