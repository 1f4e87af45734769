"""`stockade audit retain`, `hold`, `release` and `export-mark`: what of the record goes, and what
keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli import output as out
from supervisor.cli.completion import call_ids
from supervisor.cli.folders import STATE_FOLDER, require_record
from supervisor.cli.session import daemon_options, json_option, session
from supervisor.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from supervisor.client import Retention

ROWS_SHOWN = 50

_why_option = click.option("--why", required=True, help="Why, for the record.")
_call_argument = click.argument("call_id", metavar="CALL", shell_complete=call_ids)


@click.command("retain", short_help="Say what retention would remove.")
@click.option("--dry-run", is_flag=True, help="Remove nothing. Needed: it removes by itself.")
@daemon_options
def retain(dry_run: bool) -> None:
    """Say what retention would remove now, the oldest first, and why not more. What it removes are
    streams and files of calls that ended; entries stay. It does so by itself, at the start of the
    daemon and every minute, as `record: {retain: …}` of the configuration says.

    With --json, one document: `going` (at most 1000: `call_id`, "" for an upload, `index`, `why`,
    `files`, `bytes`), `count` and `bytes` of all, `contents_bytes` of what there is, `rest`: what
    the next in line waits for, `problem`: why nothing goes at all, `held`, `in_use`, `now`.

    \b
    Examples:
      stockade audit retain --dry-run
      stockade audit retain --dry-run --json | jq .bytes

    \b
    Exit codes:
      0  said
      3  there is no retention: the configuration does not ask for it
      4  only callers with `audit: all` may ask; other failures as in `stockade --help`
    """
    if not dry_run:
        raise click.UsageError("retention removes by itself; --dry-run says what it would")
    current = session()
    with current.client() as client:
        found = client.retention()
    if current.json:
        out.document(found)
        return
    _say(found)


def _say(found: Retention) -> None:
    out.table(
        ("CALL", "ENTRY", "WHY", "FILES", "SIZE"),
        [
            (one.call_id or "(upload)", one.index, one.why, one.files, out.size(one.bytes))
            for one in found.going[:ROWS_SHOWN]
        ],
        empty="nothing would go",
    )
    if found.count > ROWS_SHOWN:
        click.echo(f"and {found.count - ROWS_SHOWN} more")
    click.echo(f"{out.size(found.bytes)} of {out.size(found.contents_bytes)} would go")
    for count, what in (
        (found.held, "held"),
        (found.in_use, "in use: asked for within the hour"),
    ):
        if count:
            click.echo(f"kept though old enough, or too much: {count} {what}")
    if found.problem:
        click.echo(f"nothing goes: {found.problem}")
    elif found.rest:
        click.echo(f"not more: {found.rest}")


@click.command("hold", short_help="Keep what a call left from retention.")
@_why_option
@_call_argument
@daemon_options
def hold(call_id: str, why: str) -> None:
    """Hold CALL: retention leaves its streams and files, however old they are, and nobody erases
    them, until `audit release`. Each hold is an entry of its own (`held`), with who said so and
    why, and needs a release of its own.

    With --json, one document: `call_id`, and `holds`, how many there are now.

    \b
    Examples:
      stockade audit hold --why 'case 4711' CALL
      stockade audit log --kind held

    \b
    Exit codes:
      0  held
      3  there is no such record, or it is too late: its contents were removed or erased
      4  you may not hold: `holds: true` in the configuration grants it
    """
    with session().client() as client:
        holds = client.hold(call_id, why=why)
    _say_holds(call_id, holds)


@click.command("release", short_help="Let retention have what a call left again.")
@_why_option
@_call_argument
@daemon_options
def release(call_id: str, why: str) -> None:
    """Release CALL, which was held, once. That is an entry of its own (`released`), with who said
    so and why. With the last hold released, what it left goes with the next run of retention, if it
    is old enough.

    With --json, one document: `call_id`, and `holds`, how many are left.

    \b
    Examples:
      stockade audit release --why 'case 4711 is closed' CALL

    \b
    Exit codes:
      0  released
      3  there is no such record, or nobody holds it
      4  you may not release: `holds: true` in the configuration grants it
    """
    with session().client() as client:
        holds = client.release(call_id, why=why)
    _say_holds(call_id, holds)


def _say_holds(call_id: str, holds: int) -> None:
    if session().json:
        out.document({"call_id": call_id, "holds": holds})
    elif holds:
        out.note(f"call {call_id} is held ({out.count(holds, 'hold')})")
    else:
        out.note(f"call {call_id} is not held any more")


@click.command("export-mark", short_help="Say how far an exporter has come.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=STATE_FOLDER,
    show_default=True,
    help="Folder of the record.",
)
@click.argument("name", metavar="NAME")
@click.argument("index", metavar="INDEX", type=click.IntRange(min=0))
@json_option
def export_mark(state: Path, name: str, index: int) -> None:
    """Say that the exporter NAME has all entries below INDEX safe elsewhere, with the contents that
    they name. It is a file, cursors/NAME in the state folder, and durable when this returns; no
    daemon is asked.

    Retention that names it (`exported_by:`) then may remove what calls left whose last entry is
    below INDEX. A mark never moves back.

    With --json, one document: `name`, `index`.

    \b
    Examples:
      stockade audit export-mark siem 120000

    \b
    Exit codes:
      0  said
      2  NAME is no name, or more had been acknowledged
      3  the log has not that many entries
      8  the cursor that is there, or the log, is damaged
    """
    from supervisor.audit.cursors import Cursor, CursorError, Cursors
    from supervisor.audit.offline import leaf_at
    from supervisor.errors import AuditCorrupt

    require_record(state)
    leaf = leaf_at(state, index - 1) if index else None
    if index and leaf is None:
        raise NotFound("ENTRY_NOT_FOUND", f"the log has not {index} entries yet")
    cursor = Cursor(index=index, leaf=leaf) if leaf else Cursor(index=0)
    try:
        Cursors(state).advance(name, cursor)
    except CursorError as error:
        raise AuditCorrupt(
            "CURSOR_DAMAGED",
            f"cursors/{name}: {error}",
            hint="remove the file, and mark again what is safe elsewhere",
        ) from error
    except OSError as error:
        raise InvalidRequest("STATE_UNUSABLE", f"{state}: {error.strerror}") from error
    if session().json:
        out.document({"name": name, "index": index})
    else:
        out.note(f"{name} has all entries below {index}")
