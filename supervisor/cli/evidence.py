"""`stockade audit checkpoint`, `proof`, `check` and `verify`: the record as evidence."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from supervisor.call.outcome import describe
from supervisor.call.safe import safe
from supervisor.cli import output as out
from supervisor.cli.completion import call_ids
from supervisor.cli.folders import STATE_FOLDER, require_record, unreadable
from supervisor.cli.session import daemon_options, json_option, session
from supervisor.errors import AuditCorrupt, InvalidRequest

if TYPE_CHECKING:
    from supervisor.audit.checkpoints import Receipt
    from supervisor.audit.notes import VerifierKey
    from supervisor.audit.verify import VerifyReport

LEAF = re.compile(r"[0-9a-f]{64}")
KEY_BYTES_MAX = 4096
HEADS_BYTES_MAX = 64 << 20
"""Of a file of heads, some 300 bytes each."""
PROGRESS_EVERY_S = 0.5
HANDED_OVER = (
    "Was the log handed over to another key? A receipt is of the one that the log had at its time: "
    "for one since then give the newer public key (`audit key show`), for one before the older"
)

_FILE = click.Path(path_type=Path, dir_okay=False)
_READ = click.Path(path_type=Path, dir_okay=False, exists=True, readable=True)


class PublicKey(click.ParamType["VerifierKey"]):
    """A public key of a log: name+id+base64, or a file in which it is."""

    name = "key"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> VerifierKey:
        """Read it."""
        from supervisor.audit.notes import NoteError, VerifierKey

        text, path = str(value), Path(str(value))
        try:
            if "+" not in text or path.is_file():
                with path.open("rb") as file:
                    text = file.read(KEY_BYTES_MAX).decode()
            return VerifierKey.parse(text)
        except (OSError, UnicodeDecodeError, NoteError) as error:
            self.fail(
                f"{value!r}: {error}; a key is name+id+base64, or a file with that, as log.pub in "
                "the state folder",
                param,
                ctx,
            )


_key_option = click.option(
    "--key",
    type=PublicKey(),
    metavar="KEY",
    help="The public key of the log: name+id+base64, or a file with it.",
)


@click.command("checkpoint", short_help="Give the log's signed head.")
@click.option("-o", "--output", type=_FILE, help="Write it there, and over nothing.")
@daemon_options
def checkpoint(output: Path | None) -> None:
    """Give the signed head of the log (C2SP tlog-checkpoint): three lines, and who signed them.

    Keep it where the host cannot reach it. `audit verify --head` holds the log to it ever after:
    one that was rewritten, or cut back, is not the one that it was given for.

    With --json: `checkpoint` (base64), `key`, `origin`, `size` and `root` (base64).

    \b
    Examples:
      stockade audit checkpoint -o /mnt/elsewhere/$(date +%F)
      stockade audit checkpoint --json | jq -r .key > log.pub

    \b
    Exit codes:
      0  given
      2  the file is there already
      4  you may not read records
      7  no daemon answers: it lies in tlog/checkpoint of the state folder, too
    """
    from supervisor.audit.checkpoints import open_checkpoint
    from supervisor.audit.notes import VerifierKey, to_base64

    with session().client() as client:
        signed = client.checkpoint()
    head, _ = open_checkpoint(signed.checkpoint, [VerifierKey.parse(signed.key)])
    if output is not None:
        _write_new(output, signed.checkpoint)
    if session().json:
        out.document(
            {
                "checkpoint": to_base64(signed.checkpoint),
                "key": signed.key,
                "origin": head.origin,
                "size": head.size,
                "root": to_base64(head.root),
            }
        )
    elif output is None:
        click.echo(signed.checkpoint, nl=False)
        out.note(f"signed by {safe(signed.key)}")
    else:
        out.note(f"{output}: {out.count(head.size, 'entry', 'entries')} of {safe(head.origin)}")


@click.command("proof", short_help="Give the receipt of a call.")
@click.option("-o", "--output", type=_FILE, help="Write it there, and over nothing.")
@click.argument("call_id", metavar="CALL", shell_complete=call_ids)
@daemon_options
def proof(call_id: str, output: Path | None) -> None:
    """Give the receipt of CALL (C2SP tlog-proof): that its outcome lies in the log, below a signed
    head, with the exact bytes of that entry. Whoever has it and the log's public key can check it
    with `audit check`, or with any tool for such receipts, and needs nothing else.

    With --json: `call`, and `receipt` (base64).

    \b
    Examples:
      stockade audit proof CALL > CALL.tlog-proof
      stockade audit proof -o CALL.tlog-proof CALL

    \b
    Exit codes:
      0  given
      2  the file is there already
      3  there is no such record, or the call has not ended
      4  you may not read records
      7  no daemon answers
    """
    from supervisor.audit.notes import to_base64

    with session().client() as client:
        receipt = client.receipt(call_id)
    if output is not None:
        _write_new(output, receipt)
    if session().json:
        out.document({"call": call_id, "receipt": to_base64(receipt)})
    elif output is None:
        click.echo(receipt, nl=False)
    else:
        out.note(f"{output}: {out.count(len(receipt), 'byte')}")


@click.command("check", short_help="Check a receipt, without a daemon.")
@click.option(
    "--key",
    type=PublicKey(),
    metavar="KEY",
    required=True,
    help="The public key of the log: name+id+base64, or a file with it.",
)
@click.argument("receipt", type=_READ)
@json_option
@click.pass_context
def check(context: click.Context, /, key: VerifierKey, receipt: Path) -> None:
    """Check RECEIPT, a file that `audit proof` gave: that who has KEY signed a head of a log in
    which the outcome lies that it tells of. No log is needed, and no daemon.

    With --json: `ok`, and `problem`, or `origin`, `index`, `size` and `entry`.

    \b
    Examples:
      stockade audit check --key log.pub CALL.tlog-proof

    \b
    Exit codes:
      0  it holds
      8  it does not
    """
    from supervisor.audit.checkpoints import CheckpointError, OtherKey, Receipt
    from supervisor.audit.entry import leaf_hash

    try:
        parsed = Receipt.parse(receipt.read_bytes())
        if not parsed.extra:
            raise CheckpointError("it has no entry with it, as `audit proof` gives it")
        head = parsed.verify(leaf_hash(parsed.extra), [key])
    except CheckpointError as error:
        why = f"{error}. {HANDED_OVER}" if isinstance(error, OtherKey) else str(error)
        if session().json:
            out.document({"ok": False, "problem": why})
        else:
            click.echo(f"DOES NOT HOLD: {safe(why)}")
        context.exit(AuditCorrupt.exit_code)
    if session().json:
        out.document(
            {
                "ok": True,
                "origin": head.origin,
                "index": parsed.index,
                "size": head.size,
                "entry": json.loads(parsed.extra),
            }
        )
        return
    click.echo(
        f"holds: entry {parsed.index} of {safe(head.origin)}, below a head over "
        f"{out.count(head.size, 'entry', 'entries')}"
    )
    click.echo(safe(_told(parsed)))


def _write_new(path: Path, data: bytes) -> None:
    """Write what is to be kept, and nothing over what was kept before.

    Raises:
        InvalidRequest: `FILE_EXISTS`.
    """
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise InvalidRequest(
            "FILE_EXISTS", f"{path} is there already", hint="nothing is written over"
        ) from error


def _told(receipt: Receipt) -> str:
    """Say what the entry of a receipt says."""
    from supervisor.audit.codec import finished_from_json

    entry = json.loads(receipt.extra)
    if entry["kind"] != "outcome":
        of = f" of call {entry['call']}" if entry["call"] else ""
        return f"{entry['kind']}{of}, {out.moment(entry['time_ns'])}: it tells of no call's end"
    finished = finished_from_json(entry["body"], record="", record_bytes=0)
    started = finished.timeline.started_ns > 0
    ended = out.moment(finished.timeline.ended_ns)
    return f"call {entry['call']} {describe(finished.outcome, started=started)}, {ended}"


@click.command("verify", short_help="Verify a state folder, without a daemon.")
@click.option(
    "--expect",
    multiple=True,
    metavar="CALL=HEX",
    help="The leaf hash of the OUTCOME entry that a client was told; may be given "
    "again. Only this finds a log that was rewritten as a whole.",
)
@_key_option
@click.option(
    "--head",
    "heads",
    type=_READ,
    multiple=True,
    help="A head of this log that was kept, as `audit checkpoint` gave it, a file that a witness "
    "keeps, or a receipt; may be given again. Only these find a log that was rewritten, or cut "
    "back, by who has its key.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.argument("directory", default=STATE_FOLDER, type=click.Path(path_type=Path, file_okay=False))
@json_option
@click.pass_context
def verify(
    context: click.Context,
    /,
    expect: tuple[str, ...],
    key: VerifierKey | None,
    heads: tuple[Path, ...],
    quiet: bool,
    directory: Path,
) -> None:
    """Verify the record in DIRECTORY, the state folder, /var/lib/stockade where not given: every
    byte of the log, the chain from the first entry to the last, the tree over it and its signed
    head, each call's sequence, every recording and blob that an entry names, and that the key of
    each encrypted call is there unless an entry says that it was erased. No key is needed. Nothing
    is written; a daemon may run meanwhile, and a copy is as good.

    Without --key the log is held to the key that lies beside it, which says no more than that all
    of it fits together. With an earlier key of the log, those after it follow from what the log
    says (`audit key rotate`); heads and receipts have to be of the key whose time it was, and none
    from before the one that was given.

    What retention removed is counted: where each call and upload that names a file was let go by a
    `removed` entry, it may be gone. All else that is missing is a problem.

    Where the log itself says that a witness knew another one (`head_contradicted`), that is told:
    the log is as it was written, and the exit code is 0.

    With --json, one document: `ok`, `entries`, `calls`, `open_calls`, `removed_calls` (whose
    contents retention removed), `erased` (how many calls), `head_index`, `head_leaf` ("" where the
    last entry cannot be read), `contradictions` (how many there are), `last_contradiction` (null,
    or its `index`, `time`, `witness` and `why`), `live`,
    `origin`, `signed_size` (-1 where nothing is signed), `signers` (the keys from the one that was
    given on), `heads` (those that were given: `name`, `origin`, `size`, and `verdict`, which is
    fits, or what the problem is called), `consistent` (how many of them fit), `problem_count` and
    `problems`, of which some have a name, `reason`: head_missing, head_behind (entries of more than
    a minute that nobody signed), head_cut_back, head_rewritten, and where the log may be well, and
    the key or the head is not its own: key_of_other_log, head_of_other_log, head_of_other_key.

    \b
    Examples:
      stockade audit verify
      stockade audit verify /mnt/backup/stockade
      stockade audit verify --key log.pub --head kept/2026-11-27 /mnt/backup/stockade
      stockade audit verify --expect CALL=HEX --json /var/lib/stockade

    \b
    Exit codes:
      0  nothing is wrong
      2  there is no record in DIRECTORY, or it, the key or a head cannot be read
      8  the record is damaged, each problem names its entry; or it is not the one of the key or
         the heads that were given
    """
    from supervisor.audit.verify import verify as verify_record

    require_record(directory)
    kept = [head for path in heads for head in _heads_in(path)]
    with _Progress(shown=not quiet) as progress:
        try:
            report = verify_record(
                directory, progress=progress.step, expect=_expected(expect), key=key, heads=kept
            )
        except PermissionError as error:
            raise unreadable(directory, error) from error
    if session().json:
        out.document({"ok": report.ok, **out.to_json(report)})
    else:
        _say(report, key)
    if not report.ok:
        context.exit(AuditCorrupt.exit_code)


def _heads_in(path: Path) -> Iterator[tuple[str, bytes]]:
    """Give the signed heads in a file, each with what it is called: one, those that a witness has
    kept, or the one that a receipt lies below."""
    from supervisor.audit.checkpoints import RECEIPT_BYTES_MAX, CheckpointError, Receipt
    from supervisor.audit.witness import heads_within

    try:
        with path.open("rb") as file:
            data = file.read(HEADS_BYTES_MAX + 1)
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--head") from error
    if len(data) > HEADS_BYTES_MAX:
        said = f"{path} has more than {out.size(HEADS_BYTES_MAX)}: give it in parts"
        raise click.BadParameter(said, param_hint="--head")
    if len(data) <= RECEIPT_BYTES_MAX:
        with contextlib.suppress(CheckpointError):  # It is another kind of file.
            yield str(path), Receipt.parse(data).checkpoint
            return
    found = list(heads_within(data))
    if not found:
        raise click.BadParameter(f"there is no signed head in {path}", param_hint="--head")
    other = len(data) - sum(len(head) + 1 for head in found)
    if other > 0:
        out.note(f"{path}: {out.count(other, 'byte')} in it are no head")
    for number, head in enumerate(found, start=1):
        yield f"{path}, head {number}" if len(found) > 1 else str(path), head


def _expected(given: tuple[str, ...]) -> dict[str, str]:
    expected = {}
    for one in given:
        call_id, _, leaf = one.partition("=")
        leaf = leaf.removeprefix("sha256:").lower()
        if not call_id or not LEAF.fullmatch(leaf):
            raise click.BadParameter(f"{one!r} is not CALL=HEX", param_hint="--expect")
        expected[call_id] = leaf
    return expected


def _say(report: VerifyReport, key: VerifierKey | None) -> None:
    for problem in report.problems:
        click.echo(safe(problem))
    if report.problem_count > len(report.problems):
        click.echo(f"and {report.problem_count - len(report.problems)} more")
    for call_id in report.open_calls:
        end = "is live" if report.live else "has no outcome yet: the next daemon closes it"
        out.note(f"call {call_id} {end}")
    if report.removed_calls:
        calls = out.count(report.removed_calls, "call")
        out.note(f"the contents of {calls} were removed by retention, as the log says")
    erased = f", {report.erased} of them erased" if report.erased else ""
    click.echo(
        f"{_verdict(report)}: {out.count(report.entries, 'entry', 'entries')}, "
        f"{out.count(report.calls, 'call')}{erased}, {_end(report)}"
    )
    if report.last_contradiction is not None:
        last = report.last_contradiction
        click.echo(
            f"the log itself says {out.count(report.contradictions, 'time')} that a witness has a "
            f"head which it does not begin with, the last in entry {last.index}, "
            f"{out.moment(last.time_ns)}, of {safe(last.witness)}: {safe(last.why)}"
        )
    all_fit = report.consistent == len(report.heads)
    if report.heads and not (all_fit and report.signed_size >= 0):
        click.echo(
            f"of {out.count(len(report.heads), 'head')} that you kept, "
            f"{report.consistent or 'none'} can be seen to be of this log"
        )
    if report.signed_size >= 0:
        whose = f"signed by {_signer(report, key)}"
        heads = out.count(report.consistent, "head")
        held = f", {heads} that you kept as well" if report.heads and all_fit else ""
        click.echo(
            f"{safe(report.origin)}: {out.count(report.signed_size, 'entry', 'entries')} "
            f"{whose}{held}"
        )
        if key is None:
            out.note("give the key that you know (--key): who rewrote the log may have signed it")


def _verdict(report: VerifyReport) -> str:
    if report.ok:
        return "verified"
    problems = out.count(report.problem_count, "problem")
    if report.is_of_other:
        return f"NOT VERIFIED, {problems} with the key or the heads that were given"
    return f"DAMAGED, {problems}"


def _end(report: VerifyReport) -> str:
    """Say what the log ends with."""
    if report.head_index < 0:
        return "no head"
    if not report.head_leaf:
        return f"the last entry, {report.head_index}, cannot be read"
    return f"head {report.head_index} sha256:{report.head_leaf}"


def _signer(report: VerifyReport, key: VerifierKey | None) -> str:
    """Say who signs the log, and how that follows from the key that is known."""
    from supervisor.audit.notes import VerifierKey

    known = key.key_id.hex() if key else "the key beside it"
    if len(report.signers) < 2:
        return known
    current = VerifierKey.parse(report.signers[-1]).key_id.hex()
    given = known if key else "the first key beside it"
    return f"{current}, to which {given} handed it over ({len(report.signers) - 1} times since)"


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
