"""`stockade audit rerun`: a recorded call again, in a new sandbox, and what differs."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import click

from supervisor.call import outcome
from supervisor.call.events import Started
from supervisor.call.safe import safe, shorten, word
from supervisor.call.types import ARG_BYTES_MAX, Stream
from supervisor.cli import output as out
from supervisor.cli.completion import call_ids, profile_names
from supervisor.cli.naming import whole_id
from supervisor.cli.playback import NS, Piece, moments
from supervisor.cli.replay import Timer
from supervisor.cli.run import environment, input_files, standard_input
from supervisor.cli.session import daemon_options, session
from supervisor.errors import NotFound, StockadeError

if TYPE_CHECKING:
    from supervisor.cli.differences import Compared, Difference
    from supervisor.cli.recorded import Asked
    from supervisor.client import Call, Record, Supervisor

EXIT_DIFFERS = StockadeError.exit_code
STDIN_RECORDED = "recorded"
STDIN_IN_MEMORY_BYTES = 1 << 20
AGENT = "stockade audit rerun"
BLOB_NOT_FOUND = "BLOB_NOT_FOUND"
WIDTH = 100
ROWS_MAX = 200
DIFF_SHOWN_MAX = 200
_ARGUMENT = re.compile(r"([0-9]{1,6})([=@])(.*)", re.ASCII | re.DOTALL)


@click.command("rerun", short_help="Run a recorded call again, and show what differs.")
@click.option(
    "-p",
    "--profile",
    shell_complete=profile_names,
    help="Under this profile.  [default: that of CALL, as it is now]",
)
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="N=VALUE|N@FILE",
    help="argv[N] instead of the recorded one: VALUE, or what FILE holds, but for one line feed at "
    "its end. A file keeps a secret out of the shell's history.",
)
@click.option(
    "-e",
    "--env",
    "variables",
    multiple=True,
    metavar="NAME=VALUE",
    help="A variable instead of the recorded one.",
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="HOST:SANDBOX",
    help="A file instead of the recorded one.",
)
@click.option(
    "-i",
    "--stdin",
    metavar="-|FILE|none|recorded",
    help="Standard input instead of the recorded one: ours, a file, or nothing; `recorded` is what "
    "is on record, also where that is not all.",
)
@click.argument("call_id", metavar="CALL", shell_complete=call_ids)
@daemon_options
@click.pass_context
def command(
    context: click.Context,
    /,
    call_id: str,
    profile: str | None,
    arguments: tuple[str, ...],
    variables: tuple[str, ...],
    files: tuple[str, ...],
    stdin: str | None,
) -> None:
    """Run CALL again in a new sandbox, with its argv, variables, directory, files, limits of time
    and standard input as they are on record, and show what differs: how it ended, what it wrote,
    what was denied, connections, programs, and files that it left. Its effects on the far side of
    a connection happen again.

    The new call is yours, and on record as any other: its session is rerun:CALL. How often
    something was denied, connected or started is told, and is no difference; nor are times. What
    is not on record is named, and nothing runs, unless it is given: a stream that was cut off, what
    was redacted, files of a call that was another caller's. What was typed at a terminal is typed
    again, as fast as it was; the terminal keeps its first size.

    With --json, one document: `call` and `rerun` (`call_id`, `profile`, `profile_digest`,
    `outcome`, `exit_code`, `wall_s`, `usage`), `given`, `same`, `differences` (`what`, `of`,
    `recorded`, `rerun`, `diff`, `offset`) and `unknown`, what one of the records has lost.

    \b
    Examples:
      stockade audit rerun CALL
      stockade audit rerun --profile python-next CALL
      stockade audit rerun --arg 2@token.txt CALL
      stockade audit rerun -e TOKEN=test -i none CALL
      stockade audit rerun --json CALL | jq -r '.differences[].what'

    \b
    Exit codes:
      0  nothing differs
      1  something does, or cannot be told since a record has lost it
      2  wrong command line, or the profile does not take such a request
      3  there is no such record, it has not ended, or not all of its input is on record
      4  you may not read it, or not use the profile; other failures as in `stockade --help`
    """
    from supervisor.cli import recorded
    from supervisor.cli.differences import compare

    argv = arguments_given(arguments)
    env, given_files = environment(variables), input_files(files)
    source = None if stdin in (None, STDIN_RECORDED) else standard_input(stdin)
    with session().client() as client:
        call_id = whole_id(client, call_id)
        before = client.record(call_id)
        asked, given = recorded.read(before, client.read_blob).given(
            env=env, files=given_files, stdin=stdin is not None, arguments=argv
        )
        asked.require(call_id)
        if source is None:
            source = _recorded_stdin(client, before.call, partly=stdin is not None)
            if asked.terminal is not None:
                source = cast("BinaryIO", Typed(before, source))
        _look(client, before.call)
        name = profile or before.call.profile
        after = client.record(_run(client, before.call, asked, source, name))
        found = compare(before, after, client.read_output)
    _tell(before.call, after.call, given, found)
    if not found.same:
        context.exit(EXIT_DIFFERS)


def arguments_given(given: tuple[str, ...]) -> dict[int, bytes]:
    """Read each N=VALUE and N@FILE."""
    arguments: dict[int, bytes] = {}
    for one in given:
        found = _ARGUMENT.fullmatch(one)
        if found is None:
            raise click.BadParameter(f"{one!r} is not N=VALUE or N@FILE", param_hint="--arg")
        place, sign, rest = int(found[1]), found[2], found[3]
        if place in arguments:
            raise click.BadParameter(f"argv[{place}] is given twice", param_hint="--arg")
        try:
            value = os.fsencode(rest) if sign == "=" else _secret(Path(rest))
        except OSError as error:
            raise click.BadParameter(f"{rest}: {error.strerror}", param_hint="--arg") from error
        arguments[place] = value
    return arguments


def _secret(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(ARG_BYTES_MAX + 1).removesuffix(b"\n")


class Typed(io.RawIOBase):
    """What was typed at a terminal, again, each piece as long after the start as it came: at once,
    a Ctrl-C would throw away what stands before it."""

    def __init__(self, record: Record, source: BinaryIO) -> None:
        super().__init__()
        read = partial(source.read, STDIN_IN_MEMORY_BYTES)
        self._pieces = moments(record, [Stream.STDIN], lambda _: iter(read, b""))
        self._begun = threading.Event()
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Say that the program was let go; until then nobody types."""
        self._begun.set()

    def readable(self) -> bool:
        """Say that it can be read, and not sought in."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Wait for the next piece; empty at the end. No piece is larger than a frame."""
        self._begun.wait()
        self._timer = self._timer or Timer()
        for moment in self._pieces:
            if isinstance(moment, Piece):
                self._timer.wait(moment.at_ns / NS)
                return moment.data
        return b""


def _recorded_stdin(client: Supervisor, call: Call, *, partly: bool) -> BinaryIO:
    """Give what is on record of standard input; it has to be all, unless `partly` is enough.

    Raises:
        NotFound: `INPUT_NOT_RECORDED`.
    """
    from supervisor.cli.recorded import STDIN, not_recorded

    file: IO[bytes] = tempfile.SpooledTemporaryFile(STDIN_IN_MEMORY_BYTES)  # noqa: SIM115
    streams = call.finished.streams if call.finished else ()
    summary = next((one for one in streams if one.stream is Stream.STDIN), None)
    if summary is not None and summary.stored_bytes:
        sha256 = hashlib.sha256()
        for piece in client.read_output(call.call_id, Stream.STDIN):
            sha256.update(piece)
            file.write(piece)
        known = summary.digest.sha256  # an interrupted encrypted call has none
        if known and not partly and sha256.hexdigest() != known:
            why = "is on record as something else than what the program had"
            if summary.redactions:
                why = f"has {out.count(summary.redactions, 'secret')} replaced on record"
            raise not_recorded(call.call_id, {STDIN: why})
    file.seek(0)
    return cast("BinaryIO", file)


def _look(client: Supervisor, call: Call) -> None:
    """See that what the call wrote can be compared, while nothing runs yet; say what cannot.

    Raises:
        CallStateError: `CONTENT_LOCKED`; AuditCorrupt: it is not what was recorded.
    """
    from supervisor.cli.streaming import CONTENT_GONE

    for stream in (Stream.STDOUT, Stream.STDERR):
        try:
            next(client.read_output(call.call_id, stream), b"")
        except NotFound as error:
            if error.reason not in CONTENT_GONE:
                raise
            out.note(f"{stream} is compared by its digest only: {error.message}")


def _run(
    client: Supervisor, call: Call, asked: Asked, stdin: bytes | BinaryIO, profile: str
) -> str:
    """Run the call again and give the new one's id.

    Raises:
        NotFound: `INPUT_NOT_RECORDED`, where files may not be read.
        StockadeError: it was refused.
    """
    from supervisor.cli.streaming import Signals

    try:
        execution = client.execute(
            asked.argv,
            profile=profile,
            env=asked.env,
            cwd=asked.cwd,
            files=asked.files,
            outputs=asked.outputs,
            stdin=stdin,
            timeout=asked.timeout_s,
            terminal=asked.terminal,
            agent=AGENT,
            session=f"rerun:{call.call_id}",
            kill_on_disconnect=True,
        )
    except NotFound as error:
        if error.reason == BLOB_NOT_FOUND:
            _require_files(client, call, asked)
        raise
    with execution:
        out.note(f"call {call.call_id} runs again as {execution.call_id}")
        with Signals(execution):
            for event in execution:  # it is on record
                if isinstance(event.event, Started) and isinstance(stdin, Typed):
                    stdin.begin()
        if execution.stdin_error is not None:
            raise execution.stdin_error
        return execution.call_id


def _require_files(client: Supervisor, call: Call, asked: Asked) -> None:
    """Refuse where files are not to be had, and name each.

    Raises:
        NotFound: `INPUT_NOT_RECORDED`.
    """
    from supervisor.cli.recorded import file_name, not_recorded, removed_when
    from supervisor.client import Stored

    missing = {}
    for path, file in asked.files.items():
        if isinstance(file, Stored):
            try:
                next(client.stream_blob(file.digest), b"")
            except NotFound as error:
                gone = "is kept for its caller only, or is gone"
                if error.metadata.get("redacted"):
                    gone = "is redacted on record"
                elif call.removed:
                    gone = f"was {removed_when(call)}"
                missing[file_name(path)] = gone
    if missing:
        raise not_recorded(call.call_id, missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """One of the two calls, and how it ended."""

    call_id: str
    profile: str
    profile_digest: str
    outcome: outcome.Outcome
    exit_code: int
    wall_s: float
    usage: Any

    @classmethod
    def of(cls, call: Call) -> _End:
        """Give it of a call that has ended."""
        assert call.finished is not None, "only calls that have ended are compared"  # noqa: S101
        line = call.finished.timeline
        return cls(
            call_id=call.call_id,
            profile=call.profile,
            profile_digest=call.profile_digest,
            outcome=call.finished.outcome,
            exit_code=outcome.exit_code(call.finished.outcome),
            wall_s=max(0, line.ended_ns - line.started_ns) / 1e9 if line.started_ns else 0.0,
            usage=call.finished.usage,
        )


def _tell(before: Call, after: Call, given: list[str], found: Compared) -> None:
    ends = _End.of(before), _End.of(after)
    if session().json:
        out.document({
            "call": ends[0], "rerun": ends[1], "given": given, "same": found.same,
            "differences": found.differences, "unknown": found.unknown,
        })  # fmt: skip
        return
    for name in given:
        out.note(f"{name} is not the recorded one: it was given")
    out.table(("", "RECORDED", "RERUN"), [(name, *pair) for name, pair in _heads(*ends).items()])
    out.heading("")
    differs = found.differences
    if not differs:
        out.heading("nothing differs, as far as is known" if found.unknown else "nothing differs")
    else:
        rows = [_row(one) for one in differs[:ROWS_MAX]]
        out.table(("DIFFERS", "", "RECORDED", "RERUN"), rows)
    if len(differs) > ROWS_MAX:
        out.heading(f"and {len(differs) - ROWS_MAX} more; --json has all")
    for one in differs:
        _tell_diff(one)
    for why in found.unknown:
        out.note(f"cannot be told: {why}")


def _heads(before: _End, after: _End) -> Mapping[str, Iterator[str]]:
    both = (before, after)
    return {
        "call": (one.call_id for one in both),
        "profile": (f"{one.profile} sha256:{one.profile_digest[:12]}" for one in both),
        "exit code": (str(one.exit_code) for one in both),
        "took": (out.duration(one.wall_s) for one in both),
        "cpu": (out.duration(one.usage.cpu_user_s + one.usage.cpu_system_s) for one in both),
        "memory": (out.size(one.usage.memory_peak_bytes) for one in both),
    }


def _row(one: Difference) -> tuple[str, str, str, str]:
    where = ""
    if one.offset is not None:
        where = f", from byte {one.offset} on"
    elif one.what in (Stream.STDOUT, Stream.STDERR) and not one.diff:
        where = ", in what is not on record"
    of = word(one.of, WIDTH) if one.what in ("file", "not taken") else shorten(one.of, WIDTH)
    return one.what, of, shorten(one.recorded, WIDTH), shorten(one.rerun, WIDTH) + where


def _tell_diff(one: Difference) -> None:
    if not one.diff:
        return
    out.heading("")
    out.heading(one.what)
    for line in one.diff[:DIFF_SHOWN_MAX]:
        click.echo("\t".join(map(safe, line.split("\t"))))
    if len(one.diff) > DIFF_SHOWN_MAX:
        out.heading(f"and {len(one.diff) - DIFF_SHOWN_MAX} more lines; --json has all")
