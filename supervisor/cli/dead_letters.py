"""`stockade export dlq`: events that a sink refused for good."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from supervisor.call.safe import shorten
from supervisor.cli import output as out
from supervisor.cli.completion import sink_names
from supervisor.cli.session import daemon_options, session
from supervisor.errors import StockadeError

if TYPE_CHECKING:
    from supervisor.client import DeadLetter

WHY_WIDTH = 100
EXIT_REFUSED = StockadeError.exit_code

F = TypeVar("F", bound=Callable[..., object])

_sink_argument = click.argument("name", metavar="SINK", shell_complete=sink_names)


def _which(function: F) -> F:
    """Add --uid and --all."""
    function = click.option("--all", "everything", is_flag=True, help="All that wait.")(function)
    return click.option(
        "--uid",
        "uids",
        multiple=True,
        metavar="UID",
        help="This one, as `list` names it; may be given again.",
    )(function)


def _chosen(uids: tuple[str, ...], *, everything: bool) -> tuple[str, ...] | None:
    """Give the uids that are meant, None for all."""
    if bool(uids) == everything:
        raise click.UsageError("say which: --uid UID, or --all")
    return None if everything else uids


@click.group("dlq", short_help="See to events that a sink refused for good.")
def command() -> None:
    """See to dead letters: events that the other side of a sink will never take as they are, too
    large or malformed in its eyes. The sink goes on without them. Each is kept with its entry and
    why it was refused, and is made anew from the entry when it is sent again.

    \b
    Examples:
      stockade export dlq list siem
      stockade export dlq replay siem --all

    \b
    Exit codes:
      0  done
      1  some were refused again
      3  there is no such sink or dead letter; other failures as in `stockade --help`
    """


@command.command("list", short_help="List the dead letters of a sink.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="At most so many.",
)
@_sink_argument
@daemon_options
def ls(name: str, limit: int) -> None:
    """List the dead letters of SINK that wait, in the order of the log: of which entry each is,
    when and why it was refused.

    With --json, one document: a list of `index`, `uid`, `why`, `time`, `kind`, `call_id`.

    \b
    Examples:
      stockade export dlq list siem
      stockade export dlq list --json siem | jq -r '.[].why' | sort | uniq -c

    \b
    Exit codes:
      0  listed, also where there is none
      3  there is no such sink
      4  you may not see sinks; other failures as in `stockade --help`
    """
    with session().client() as client:
        letters = list(client.dead_letters(name, limit=limit, entries=True))
    if session().json:
        out.document(letters)
        return
    width = 0 if out.columns() is None else WHY_WIDTH
    out.table(
        ("UID", "ENTRY", "KIND", "CALL", "REFUSED", "WHY"),
        [
            (
                letter.uid,
                letter.index,
                letter.kind,
                letter.call_id,
                out.moment(letter.time_ns),
                shorten(letter.why, width),
            )
            for letter in letters
        ],
        empty="no dead letters",
    )
    if len(letters) == limit:
        out.note(f"--limit {limit} is reached: there may be more")


@command.command("show", short_help="Show dead letters whole.")
@_which
@_sink_argument
@daemon_options
def show(name: str, uids: tuple[str, ...], everything: bool) -> None:
    """Show dead letters of SINK with all that was said when they were refused. What the event tells
    is in its entry: `audit show CALL`, or `audit log` for the daemon's own.

    With --json, one document: a list, as of `list`.

    \b
    Examples:
      stockade export dlq show siem --uid 17-0123456789abcdef-0

    \b
    Exit codes:
      0  shown
      3  there is no such sink or dead letter; other failures as in `stockade --help`
    """
    chosen = _chosen(uids, everything=everything)
    with session().client() as client:
        letters = list(client.dead_letters(name, chosen, entries=True))
    if session().json:
        out.document(letters)
        return
    for letter in letters:
        out.heading(letter.uid)
        out.field("entry", f"{letter.index} {letter.kind}")
        out.field("call", letter.call_id)
        out.field("refused", out.moment(letter.time_ns))
        out.field("why", letter.why)


@command.command("replay", short_help="Send dead letters again.")
@_which
@_sink_argument
@daemon_options
@click.pass_context
def replay(context: click.Context, /, name: str, uids: tuple[str, ...], everything: bool) -> None:
    """Send dead letters of SINK again, once what they were refused for is gone: each is made anew
    from its entry, with the `uid` that it had. One that is refused again stays a dead letter, with
    the new reason.

    With --json, one document: `letters` (how many were sent), `delivered` (uids), `refused`, a list
    as of `list`.

    \b
    Examples:
      stockade export dlq replay siem --all
      stockade export dlq replay siem --uid 17-0123456789abcdef-0

    \b
    Exit codes:
      0  all of them have arrived
      1  some were refused again
      3  there is no such sink or dead letter, or the sink's process does not run
    """
    chosen = _chosen(uids, everything=everything)
    letters = 0
    delivered: list[str] = []
    refused: list[DeadLetter] = []
    with session().client() as client:
        for some in client.redeliver(name, chosen):
            letters = some.letters
            delivered += some.delivered
            refused += some.refused
            done = len(delivered) + len(refused)
            if 0 < done < letters and not session().json and sys.stderr.isatty():
                out.note(f"{done} of {letters}")
    if session().json:
        out.document({"letters": letters, "delivered": delivered, "refused": refused})
    else:
        if refused:
            out.table(("UID", "ENTRY", "WHY"), [(one.uid, one.index, one.why) for one in refused])
        out.note(f"{len(delivered)} of {out.count(letters, 'dead letter')} arrived")
    if refused:
        context.exit(EXIT_REFUSED)


@command.command("discard", short_help="Give up on dead letters.")
@_which
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_sink_argument
@daemon_options
def discard(name: str, uids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Give up on dead letters of SINK: they are not sent again. Their entries stay in the log, and
    `export replay` sends those again as any other. On a terminal it is asked whether to.

    With --json, one document: `discarded`, how many there were.

    \b
    Examples:
      stockade export dlq discard siem --uid 17-0123456789abcdef-0
      stockade export dlq discard siem --all --yes

    \b
    Exit codes:
      0  they are given up, also where there was none
      1  they are not to be, after all
      2  no terminal to ask on, and no --yes
      3  there is no such sink or dead letter; other failures as in `stockade --help`
    """
    chosen = _chosen(uids, everything=everything)
    what = "all dead letters" if chosen is None else out.count(len(chosen), "dead letter")
    out.confirm(f"{what} of {name} will never be sent again", yes=yes)
    with session().client() as client:
        discarded = client.discard(name, chosen)
    if session().json:
        out.document({"discarded": discarded})
    else:
        out.note(f"{out.count(discarded, 'dead letter')} of {name} given up")
