"""`stockade audit`: what calls did, their bytes, and whether the record is whole."""

from __future__ import annotations

import base64
import datetime
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from supervisor.call.outcome import KINDS
from supervisor.call.safe import command as shown
from supervisor.call.safe import safe, shorten
from supervisor.cli import output as out
from supervisor.cli.completion import call_ids, profile_names, walls
from supervisor.cli.folders import require_record
from supervisor.cli.ps import ended
from supervisor.cli.replay import command as replay
from supervisor.cli.session import daemon_options, json_option, session
from supervisor.errors import AuditCorrupt, NotFound

if TYPE_CHECKING:
    from supervisor.audit.verify import VerifyReport
    from supervisor.call.types import Digest
    from supervisor.client import Call

ARGV_WIDTH = 80
FILES_WIDTH = 200
STATE = Path("/var/lib/stockade")
LEAF = re.compile(r"[0-9a-f]{64}")
PROGRESS_EVERY_S = 0.5
STREAMS = ("stdout", "stderr", "stdin")
OUTCOMES = ("ok", "not_ok", *KINDS.values())
ANY = "*"


class Moment(click.ParamType[int]):
    """A time: `2h` ago, or a date or time as 2026-01-31 or 2026-01-31T12:00:00Z."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Give nanoseconds since the epoch."""
        text = str(value)
        seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}
        if text[:-1].isdigit() and text[-1] in seconds:
            return time.time_ns() - int(text[:-1]) * seconds[text[-1]] * 1_000_000_000
        try:
            when = datetime.datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{value!r} is not a time as 2h, 2026-01-31 or RFC 3339", param, ctx)
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.UTC)
        return int(when.timestamp()) * 1_000_000_000


@click.group("audit", short_help="Read and verify the record.")
def command() -> None:
    """Read the record of calls, and verify it.

    \b
    Examples:
      stockade audit ls --denied
      stockade audit show CALL
      stockade audit cat --stream stdout CALL > out.bin
      stockade audit replay --idle-max 2 CALL
      stockade audit verify /var/lib/stockade

    \b
    Exit codes:
      0  done
      3  there is no such record
      4  you may not read records
      7  no daemon answers; `verify` needs none
      8  the record is damaged
    """


@command.command("ls", short_help="List records, newest first.")
@click.option(
    "-p",
    "--profile",
    default="",
    shell_complete=profile_names,
    help="Only calls under this profile.",
)
@click.option("--caller", default="", help="Only calls of this caller.")
@click.option("--agent", default="", help="Only calls that this agent made, as it named itself.")
@click.option("--session", "session_name", default="", help="Only calls of this session.")
@click.option(
    "--outcome",
    type=click.Choice(OUTCOMES),
    default=None,
    help="Only calls that ended so; `ok` is an exit with 0, `not_ok` any other end.",
)
@click.option(
    "--denied",
    is_flag=False,
    flag_value=ANY,
    default="",
    metavar="[WALL|NAME]",
    shell_complete=walls,
    help="Only calls with a denial, or with one by this wall or of this name.",
)
@click.option(
    "--since",
    type=Moment(),
    default=None,
    metavar="TIME",
    help="Only calls since then: 2h, 7d, 2026-01-31, or RFC 3339 (UTC where not said).",
)
@click.option("--until", type=Moment(), default=None, metavar="TIME", help="Only calls before.")
@click.option(
    "--to",
    default="",
    metavar="HOST[:PORT]",
    help="Only calls that reached for this name or address, let through or denied.",
)
@click.option(
    "--program",
    default="",
    metavar="NAME",
    help="Only calls that started this program: a path, or a name without folders.",
)
@click.option(
    "--text",
    default="",
    metavar="WORDS",
    help="Only calls with all these words in argv, names, rules or denials.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="At most so many.",
)
@daemon_options
def ls(
    denied: str,
    outcome: str | None,
    since: int | None,
    until: int | None,
    session_name: str,
    limit: int,
    **wanted: str,
) -> None:
    """List recorded calls, newest first. Where several options are given, all have to hold.

    --text looks for whole words, in any case, and never in what went through a stream. Of a call
    that is still live, only what was told at its beginning is searched. A call with more programs,
    places, denials or text than the index keeps, or whose record lost some, is listed whenever one
    of that sort is looked for: `audit show` tells what it did.

    With --json, one document: a list of calls, `finished` with everything about their end.

    \b
    Examples:
      stockade audit ls
      stockade audit ls --denied --since 24h
      stockade audit ls --denied network --to api.github.com:443
      stockade audit ls --agent writer --outcome not_ok --since 7d --until 1d
      stockade audit ls --program curl --text "upload report.csv"
      stockade audit ls --json --caller writer | jq -r '.[].call_id'

    \b
    Exit codes:
      0  listed, also where there is none
      2  something is looked for that cannot be
      4  you may not read records; other failures as in `stockade --help`
    """
    current = session()
    with current.client() as client:
        calls = list(
            client.records(
                limit=limit,
                outcome=outcome or "",
                session=session_name,
                denied_only=bool(denied),
                denied="" if denied == ANY else denied,
                since_ns=since or 0,
                until_ns=until or 0,
                **wanted,
            )
        )
    if current.json:
        out.document(calls)
        return
    out.table(
        ("CALL", "ACCEPTED", "CALLER", "PROFILE", "OUTCOME", "DENIED", "COMMAND"),
        [
            (
                call.call_id,
                out.moment(call.accepted_ns),
                call.caller.name,
                call.profile,
                ended(call.finished) if call.finished else call.state,
                call.denials or "",
                shown(call.argv, ARGV_WIDTH),
            )
            for call in calls
        ],
        empty="no records",
    )


@command.command("show", short_help="Show what one call did.")
@click.argument("call_id", metavar="CALL", shell_complete=call_ids)
@daemon_options
def show(call_id: str) -> None:
    """Show the story of CALL: command, caller, profile and its digest, times of each phase, what
    happened and when after the beginning, which process started which, what was denied, watched
    and connected to, files in and out, digests of the streams, resources, outcome.

    With --json, one document: `call`, and `entries` with `index`, `sequence`, `time`, `kind`,
    `leaf` and `json`, the exact text that the leaf hash is over.

    \b
    Examples:
      stockade audit show CALL
      stockade audit show --json CALL | jq -r '.entries[].kind'

    \b
    Exit codes:
      0  shown
      3  there is no such record
      8  the record is damaged; other failures as in `stockade --help`
    """
    from supervisor.cli.story import tell

    current = session()
    with current.client() as client:
        record = client.record(call_id)
    if current.json:
        out.document(record)
    else:
        tell(record)


@command.command("cat", short_help="Give the recorded bytes of a stream.")
@click.option(
    "--stream",
    type=click.Choice(STREAMS),
    help="Which stream.  [default: stdout]",
)
@click.option(
    "-o",
    "--output",
    "path",
    metavar="PATH",
    help="Instead of a stream, a file that the call left behind, by its path under /work; only "
    "for the caller whose call it was.",
)
@click.argument("call_id", metavar="CALL", shell_complete=call_ids)
@daemon_options
def cat(call_id: str, stream: str | None, path: str | None) -> None:
    """Write the recorded bytes of one stream of CALL, or of a file that it left behind, to
    standard output, exactly as they were. They come from a program that nobody trusts: mind your
    terminal.

    Where the record holds only a part of the stream, standard error says so. With --json, one
    JSON object a line: `offset`, and `data` in base64.

    \b
    Examples:
      stockade audit cat CALL > stdout.bin
      stockade audit cat --stream stderr CALL | cat -v
      stockade audit cat --output chart.png CALL > chart.png

    \b
    Exit codes:
      0  written
      3  there is no such record or file
      8  the bytes are not those that were recorded; other failures as in `stockade --help`
    """
    if stream and path:
        raise click.UsageError("give either --stream or --output")
    current = session()
    offset = 0
    with current.client() as client:
        if path:
            pieces = client.stream_blob(_left_behind(client.get(call_id), path))
        else:
            pieces = client.read_output(call_id, stream or "stdout")
        for data in pieces:
            if current.json:
                out.line({"offset": offset, "data": base64.b64encode(data).decode()})
            else:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            offset += len(data)
        if not path:
            _note_missing(client.recorded_call(call_id), stream or "stdout")


def _note_missing(call: Call, stream: str) -> None:
    """Say it where the record has less of a stream than there was: a cap, or a digest alone."""
    from supervisor.cli.streaming import note_truncated

    for summary in call.finished.streams if call.finished else ():
        if summary.stream == stream:
            note_truncated(summary)


def _left_behind(call: Call, path: str) -> Digest:
    """Find a file among what a call left behind.

    Raises:
        NotFound: `OUTPUT_NOT_FOUND`.
    """
    files = (
        {os.fsdecode(file.path): file for file in call.finished.outputs} if call.finished else {}
    )
    if path not in files:
        raise NotFound(
            "OUTPUT_NOT_FOUND",
            f"call {call.call_id} left no file {path!r} behind",
            hint=f"it left {shorten(safe(', '.join(files)), FILES_WIDTH) or 'none'}; what is kept "
            "are the files that --output of `run` named",
        )
    return files[path].digest


command.add_command(replay)


@command.command("verify", short_help="Verify a state folder, without a daemon.")
@click.option(
    "--expect",
    multiple=True,
    metavar="CALL=HEX",
    help="The leaf hash of the OUTCOME entry that a client was told; may be given "
    "again. Only this finds a log that was rewritten as a whole.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.argument("directory", default=STATE, type=click.Path(path_type=Path, file_okay=False))
@json_option
@click.pass_context
def verify(
    context: click.Context, /, expect: tuple[str, ...], quiet: bool, directory: Path
) -> None:
    """Verify the record in DIRECTORY, the state folder, /var/lib/stockade where not given: every
    byte of the log, the chain from the first entry to the last, each call's sequence, and every
    recording and blob that an entry names. Nothing is written; a daemon may run meanwhile.

    With --json, one document: `ok`, `entries`, `calls`, `open_calls`, `head_index`, `head_leaf`,
    `live`, `problem_count` and `problems`.

    \b
    Examples:
      stockade audit verify
      stockade audit verify /mnt/backup/stockade
      stockade audit verify --expect CALL=HEX --json /var/lib/stockade

    \b
    Exit codes:
      0  nothing is wrong
      2  there is no record in DIRECTORY
      8  the record is damaged; each problem names its entry
    """
    from supervisor.audit.verify import verify as verify_record

    require_record(directory)
    with _Progress(shown=not quiet) as progress:
        report = verify_record(directory, progress=progress.step, expect=_expected(expect))
    if session().json:
        out.document({"ok": report.ok, **out.to_json(report)})
    else:
        _say(report)
    if not report.ok:
        context.exit(AuditCorrupt.exit_code)


def _expected(given: tuple[str, ...]) -> dict[str, str]:
    expected = {}
    for one in given:
        call_id, _, leaf = one.partition("=")
        leaf = leaf.removeprefix("sha256:").lower()
        if not call_id or not LEAF.fullmatch(leaf):
            raise click.BadParameter(f"{one!r} is not CALL=HEX", param_hint="--expect")
        expected[call_id] = leaf
    return expected


def _say(report: VerifyReport) -> None:
    for problem in report.problems:
        click.echo(safe(problem))
    if report.problem_count > len(report.problems):
        click.echo(f"and {report.problem_count - len(report.problems)} more")
    for call_id in report.open_calls:
        end = "is live" if report.live else "has no outcome yet: the next daemon closes it"
        out.note(f"call {call_id} {end}")
    problems = out.count(report.problem_count, "problem")
    verdict = "verified" if report.ok else f"DAMAGED, {problems}"
    click.echo(
        f"{verdict}: {out.count(report.entries, 'entry', 'entries')}, "
        f"{out.count(report.calls, 'call')}, head {report.head_index} sha256:{report.head_leaf}"
    )


class _Progress:
    """A line that counts on a terminal, and only for work that takes a while."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._last = time.monotonic()
        self._dirty = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._dirty:
            click.echo("\r\x1b[K", nl=False, err=True)

    def step(self, done_bytes: int, total_bytes: int) -> None:
        """Take note of how far the work is."""
        now = time.monotonic()
        if not self._shown or now - self._last < PROGRESS_EVERY_S:
            return
        self._last = now
        self._dirty = True
        share = 100 * done_bytes // max(1, total_bytes)
        click.echo(f"\r{share:3} % of {out.size(total_bytes)}", nl=False, err=True)
