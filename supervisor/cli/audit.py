"""`stockade audit`: what calls did, their bytes, and whether the record is whole."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.call.events import Wall
from supervisor.call.outcome import KINDS
from supervisor.call.safe import command as shown
from supervisor.call.safe import safe, shorten
from supervisor.call.types import Stream
from supervisor.cli import events, evidence
from supervisor.cli import output as out
from supervisor.cli.completion import call_ids, profile_names, walls
from supervisor.cli.erase import command as erase
from supervisor.cli.folders import require_record
from supervisor.cli.key import command as key
from supervisor.cli.moment import Moment
from supervisor.cli.naming import whole_id
from supervisor.cli.ps import ended
from supervisor.cli.replay import command as replay
from supervisor.cli.rerun import command as rerun
from supervisor.cli.retain import export_mark, hold, release, retain
from supervisor.cli.session import daemon_options, session
from supervisor.cli.what_if import command as what_if
from supervisor.errors import NotFound

if TYPE_CHECKING:
    from supervisor.call.events import Finished
    from supervisor.call.types import Digest
    from supervisor.client import Call, Supervisor

ARGV_WIDTH = 80
FILES_WIDTH = 200
STREAMS = ("stdout", "stderr", "stdin")
OUTCOMES = ("ok", "not_ok", *KINDS.values())
ANY = "*"
SOCKETS = "--denied socket finds those"


@click.group("audit", short_help="Read and verify the record.")
def command() -> None:
    """Read the record of calls, and verify it.

    \b
    Examples:
      stockade audit ls --denied
      stockade audit show CALL
      stockade audit cat --stream stdout CALL > out.bin
      stockade audit replay --idle-max 2 CALL
      stockade audit rerun --profile python-next CALL
      stockade audit log --kind refused --since 24h
      stockade audit what-if ./python.yaml --since 7d
      stockade audit verify --key log.pub /var/lib/stockade
      stockade audit proof -o CALL.tlog-proof CALL
      stockade audit retain --dry-run
      stockade audit erase --why 'request 4711' CALL

    \b
    Exit codes:
      0  done
      1  `rerun`, `what-if`: something differs
      3  there is no such record
      4  you may not read records
      7  no daemon answers; `verify` and `check` need none
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
    """List recorded calls, newest first, for which all that is given holds.

    --text looks for whole words, in any case, and never in what went through a stream. Of a call
    that is still live, only what was told at its beginning is searched. A call with more programs,
    places, denials or text than the index keeps, or whose record lost some, is listed whenever one
    of that sort is looked for: `audit show` tells what it did.

    A WALL is syscall, limit, network, program or kernel, a NAME that of a system call or limit, or
    dns, connect, tls, http, secret of the network. Without egress in the profile, its programs are
    denied the socket: --denied socket.

    Behind the outcome stands whether contents were removed by retention, or erased, or are held.

    With --json, one document: a list of calls, `finished` with everything about their end;
    `removed`, `erased`, `encrypted` and `holds` (how many) say how it stands with their contents.

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
    if not calls and denied == Wall.NETWORK:
        out.note(f"without egress in a profile, it is system calls that are denied: {SOCKETS}")
    if current.json:
        out.document(calls)
    else:
        _tell_calls(calls)


def _tell_calls(calls: list[Call]) -> None:
    out.table(
        ("CALL", "ACCEPTED", "CALLER", "PROFILE", "OUTCOME", "DENIED", "COMMAND"),
        [
            (
                call.call_id,
                out.moment(call.accepted_ns),
                call.caller.name,
                call.profile,
                _outcome(call),
                call.denials or "",
                shown(call.argv, ARGV_WIDTH),
            )
            for call in calls
        ],
        empty="no records",
    )


def _outcome(call: Call) -> str:
    told = ended(call.finished) if call.finished else str(call.state)
    also = (
        (call.removed, "contents removed"),
        (call.erased, "erased"),
        (call.holds, "held"),
    )
    return ", ".join([told, *(word for is_so, word in also if is_so)])


@command.command("show", short_help="Show what one call did.")
@click.argument("call_id", metavar="CALL", shell_complete=call_ids)
@daemon_options
def show(call_id: str) -> None:
    """Show the story of CALL: command, caller, profile and its digest, times of each phase, what
    happened and when after the beginning, which process started which, what was denied, watched
    and connected to, files in and out, digests of the streams, resources, outcome. CALL is an id,
    or the beginning of one, of eight characters or more.

    What happened is in the order of its times. SEQUENCE is the order on record, and that of
    `entries`: what processes did is recorded some at a time.

    With --json, one document: `call`, and `entries` with `index`, `sequence`, `time`, `kind`,
    `leaf` and `json`, the exact text that the leaf hash is over. Of an encrypted call, digests in
    `call` are those of the contents where the daemon has the key: else streams have none, and files
    go by those of the encrypted files, as they always do in `entries`.

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
        record = client.record(whole_id(client, call_id))
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
@click.option(
    "--input",
    "given",
    metavar="PATH",
    help="Instead of a stream, a file that the call was given, by its path under /work; only for "
    "the caller whose call it was.",
)
@click.option(
    "--dir",
    "directory",
    metavar="STATE",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Read this state folder, or a copy, and ask no daemon.",
)
@click.option(
    "--identity",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="With --dir: the age identities that open the content of an encrypted call.",
)
@click.argument("call_id", metavar="CALL", shell_complete=call_ids)
@daemon_options
def cat(
    call_id: str,
    stream: str | None,
    path: str | None,
    given: str | None,
    directory: Path | None,
    identity: Path | None,
) -> None:
    """Write the recorded bytes of one stream of CALL, or of a file that it was given or left
    behind, to standard output, exactly as they are on record: a secret as its mark, also while the
    daemon still knows what a file was (standard error says so). They come from a program that
    nobody trusts: mind your terminal.

    Where the record holds only a part of the stream, standard error says so. With --json, one
    JSON object a line: `offset`, and `data` in base64.

    What is encrypted is opened by the daemon, if it has an identity, or with --dir and --identity.

    \b
    Examples:
      stockade audit cat CALL > stdout.bin
      stockade audit cat --dir /mnt/copy --identity key.txt CALL > stdout.bin
      stockade audit cat --stream stderr CALL | cat -v
      stockade audit cat --output chart.png CALL > chart.png
      stockade audit cat --input data.csv CALL > data.csv

    \b
    Exit codes:
      0  written
      3  there is no such record or file, its content was erased, or nothing here opens it
      8  the bytes are not those that were recorded; other failures as in `stockade --help`
    """
    if sum(map(bool, (stream, path, given))) > 1:
        raise click.UsageError("give one of --stream, --output and --input")
    if given and directory is not None:
        raise click.UsageError("--input asks the daemon; --dir has streams and --output alone")
    if identity is not None and directory is None:
        raise click.UsageError("--identity opens what --dir has; a daemon has its own")
    if directory is not None:
        _cat_folder(directory, identity, call_id, stream or "stdout", path)
        return
    with session().client() as client:
        call_id = whole_id(client, call_id)
        if given:
            _put(client.stream_blob(_given_on_record(client, call_id, given)))
        elif path:
            _put(client.stream_blob(_on_record(client, call_id, path)))
        else:
            _put(client.read_output(call_id, stream or "stdout"))
            _note_missing(client.recorded_call(call_id).finished, stream or "stdout")


def _cat_folder(
    directory: Path, identity: Path | None, call_id: str, stream: str, path: str | None
) -> None:
    """Do it without a daemon."""
    from supervisor.audit.offline import Folder
    from supervisor.audit.sealing import identities_in

    try:
        identities = identities_in(identity.read_text("ascii")) if identity is not None else ()
    except ValueError as error:
        raise click.BadParameter(f"{identity}: {error}", param_hint="--identity") from None
    require_record(directory)
    folder = Folder(directory, call_id, identities)
    if path:
        digest, is_redacted = folder.stored(os.fsencode(path))
        _note_redacted(path, is_redacted)
        _put(folder.output(digest))
    else:
        _put(folder.stream(Stream(stream)))
        _note_missing(folder.finished, stream)


def _put(pieces: Iterable[bytes]) -> None:
    """Write pieces to standard output as they come."""
    current, offset = session(), 0
    for data in pieces:
        if current.json:
            out.line({"offset": offset, "data": base64.b64encode(data).decode()})
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        offset += len(data)


def _note_missing(finished: Finished | None, stream: str) -> None:
    """Say it where the record has less of a stream than there was: a cap, or a digest alone."""
    from supervisor.cli.streaming import note_truncated

    for summary in finished.streams if finished else ():
        if summary.stream == stream:
            note_truncated(summary)


def _on_record(client: Supervisor, call_id: str, path: str) -> Digest:
    """Find what is on record of a file that a call left behind.

    Raises:
        NotFound: `OUTPUT_NOT_FOUND`, `OUTPUT_NOT_STORED`.
    """
    from supervisor.audit.files import stored_as
    from supervisor.call.types import as_map

    call = client.recorded_call(call_id)
    digest = _left_behind(call, path)
    (last,) = client.record(call_id, from_sequence=call.last_sequence).entries
    stored, is_redacted = stored_as(as_map(last.body()["body"]), digest, path)
    _note_redacted(path, is_redacted)
    return stored


def _given_on_record(client: Supervisor, call_id: str, path: str) -> Digest:
    """Find what is on record of a file that a call was given.

    Raises:
        NotFound: `INPUT_NOT_FOUND`, `INPUT_NOT_RECORDED`, `OUTPUT_NOT_STORED`.
    """
    from supervisor.audit.files import stored_as
    from supervisor.call.types import as_map
    from supervisor.cli.recorded import files_given

    record = client.record(call_id)
    files = files_given(record, client.read_blob)
    if path not in files:
        given = shorten(safe(", ".join(files)), FILES_WIDTH) or "none"
        raise NotFound(
            "INPUT_NOT_FOUND", f"call {call_id} was given no file {path!r}", hint=f"given: {given}"
        )
    stored, is_redacted = stored_as(as_map(record.entries[0].body()["body"]), files[path], path)
    _note_redacted(path, is_redacted)
    return stored


def _note_redacted(path: str, is_redacted: bool) -> None:
    if is_redacted:
        out.note(f"{path}: on record, its secrets are replaced by marks; so they are here")


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


command.add_command(key)
command.add_command(replay)
command.add_command(rerun)
command.add_command(erase)
command.add_command(events.command)
command.add_command(what_if)
command.add_command(retain)
command.add_command(hold)
command.add_command(release)
command.add_command(export_mark)
command.add_command(evidence.checkpoint)
command.add_command(evidence.proof)
command.add_command(evidence.check)
command.add_command(evidence.verify)
