"""`stockade audit log`: what the daemon itself has on record, beside the calls."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from supervisor.call.safe import shorten
from supervisor.cli import output as out
from supervisor.cli.moment import Moment
from supervisor.cli.session import daemon_options, session

if TYPE_CHECKING:
    from supervisor.client.values import RecordEntry

KINDS = (
    "daemon_started",
    "daemon_stopped",
    "log_cut",
    "blob",
    "policy",
    "read",
    "refused",
    "unauthenticated",
    "refusals_dropped",
    "key_rotated",
    "removed",
    "held",
    "released",
    "erased",
    "witnessed",
    "head_contradicted",
    "console_entered",
    "export",
)
"""Those of `audit.entry.Kind` that belong to no call; a client has no such room."""

WHAT_WIDTH = 120
DIGEST_WIDTH = 12
ROWS_SHOWN = 3
NEXT_KEY_LINE = 3
"""Of the statement that hands a log over, from 0."""
KEY_ID_BYTES = 4
"""With which the signature of such a statement begins."""
WHOLE = frozenset({"head_contradicted"})
"""Kinds that are told to their end: each says that the log is not the one it was."""

PARTS = ("configuration", "callers", "profiles")

Body = Mapping[str, Any]


@click.command("log", short_help="List what the daemon did and decided.")
@click.option(
    "-k", "--kind", type=click.Choice(KINDS), default=None, help="Only entries of this kind."
)
@click.option(
    "--since",
    type=Moment(),
    default=None,
    metavar="TIME",
    help="Only entries since then: 2h, 7d, 2026-01-31, or RFC 3339 (UTC where not said).",
)
@click.option("--until", type=Moment(), default=None, metavar="TIME", help="Only entries before.")
@click.option("--call", default="", metavar="CALL", help="Only what is about this call.")
@click.option(
    "--caller", default="", metavar="NAME", help="Only what this caller did or asked for."
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
def command(
    kind: str | None, since: int | None, until: int | None, call: str, caller: str, limit: int
) -> None:
    """List the daemon's own entries of the log, newest first: its starts and stops, what was in
    force (configuration, grants, profiles), who was refused or not known, who read which record, to
    which key the log was handed over, what retention removed, and what is held.

    It is for callers with `audit: all`. Calls are listed by `audit ls`.

    There is no index of them: with --call and --caller the whole log is looked through where fewer
    than --limit are found, which --since bounds.

    Of `policy`, the parts are named that differ from the next older one of the list. With --json,
    one document: a list of entries, `json` the exact text that the leaf hash is over.

    \b
    Examples:
      stockade audit log --since 24h
      stockade audit log --kind policy
      stockade audit log --call CALL
      stockade audit log --caller ci --since 7d
      stockade audit log --kind read --json | jq -r '.[].json | fromjson | .body.of'

    \b
    Exit codes:
      0  listed, also where there is none
      4  you may not read the daemon's entries; other failures as in `stockade --help`
    """
    current = session()
    with current.client() as client:
        entries = list(
            client.events(
                kind=kind or "",
                since_ns=since or 0,
                until_ns=until or 0,
                call=call,
                caller=caller,
                limit=limit,
            )
        )
    if current.json:
        out.document(entries)
        return
    out.table(
        ("INDEX", "TIME", "KIND", "WHO", "WHAT"),
        [
            (entry.index, out.moment(entry.time_ns), entry.kind, who, _fitting(entry.kind, what))
            for entry, (who, what) in zip(entries, _told(entries), strict=True)
        ],
        empty="no entries",
    )


def _fitting(kind: str, what: str) -> str:
    """Cut it for a terminal; who reads a file can cut it, and cannot get back what was cut."""
    return shorten(what, 0 if kind in WHOLE or out.columns() is None else WHAT_WIDTH)


def _told(entries: Sequence[RecordEntry]) -> Iterable[tuple[str, str]]:
    """Give who it was and what, of each entry."""
    bodies = [_body(entry) for entry in entries]
    policies = [body for entry, body in zip(entries, bodies, strict=True) if entry.kind == "policy"]
    older = {id(body): before for body, before in itertools.pairwise(policies)}
    for entry, body in zip(entries, bodies, strict=True):
        if entry.kind == "policy":
            what = _policy(body, older.get(id(body)))
        else:
            what = _TELLERS.get(entry.kind, _plainly)(body)
        yield _ACTORS.get(entry.kind, _who)(body), what


def _body(entry: RecordEntry) -> Body:
    body = entry.body().get("body")
    return body if isinstance(body, dict) else {}


def _who(body: Body) -> str:
    caller, peer = body.get("caller"), body.get("peer")
    if isinstance(caller, str):
        return caller
    if isinstance(caller, dict):
        pid = caller.get("pid")
        return f"{caller.get('name')}" + (f" (pid {pid})" if pid is not None else "")
    if isinstance(peer, dict):
        return str(body.get("certificate") or peer.get("address"))
    return ""


def _read(body: Body) -> str:
    of = body.get("of")
    if isinstance(of, dict):
        of = {name: one for name, one in of.items() if one is not False}
    return f"{body.get('rpc')} {_pairs(of)}"


def _refused(body: Body) -> str:
    rpc = str(body.get("rpc")).rpartition("/")[2]
    return f"{body.get('reason')} {rpc} {_pairs(body.get('asked'))}"


def _dropped(body: Body) -> str:
    rows = body.get("of") or []
    told = [f"{row['count']} {row['reason']} of {row['who']}" for row in rows[:ROWS_SHOWN]]
    more = [f"and {len(rows) - ROWS_SHOWN} more"] if len(rows) > ROWS_SHOWN else []
    return f"{body.get('count')} refusals: {', '.join([*told, *more])}"


def _rotated(body: Body) -> str:
    """Name both keys, as the statement does: nothing of it is verified here."""
    lines = str(body.get("statement")).split("\n")
    if len(lines) <= NEXT_KEY_LINE:
        return _plainly(body)
    former = _former(body)
    return (f"from {former} " if former else "") + f"to {lines[NEXT_KEY_LINE]}"


def _former(body: Body) -> str:
    """Give the number of the key that handed the log over, "" where nobody else has signed."""
    text, _, signatures = str(body.get("statement")).partition("\n\n")
    next_id = text.rpartition("\n")[2].partition("+")[2].partition("+")[0]
    for line in signatures.splitlines():
        with contextlib.suppress(ValueError):
            made = base64.b64decode(line.rpartition(" ")[2], validate=True)[:KEY_ID_BYTES].hex()
            if len(made) == 2 * KEY_ID_BYTES and made != next_id:
                return made
    return ""


def _old_key(body: Body) -> str:
    former = _former(body)
    return f"key {former}" if former else ""


def _contradicted(body: Body) -> str:
    return f"{body.get('why')} (size={body.get('size')} root={body.get('root')})"


def _witness(body: Body) -> str:
    return f"witness {body.get('witness')}"


def _policy(body: Body, older: Body | None) -> str:
    digests = [f"{part} {str(body.get(f'{part}_sha256'))[:DIGEST_WIDTH]}" for part in PARTS]
    told = ", ".join(digests)
    if older is None:
        return told
    changed = [part for part in PARTS if body.get(f"{part}_sha256") != older.get(f"{part}_sha256")]
    return f"changed: {', '.join(changed)}; {told}" if changed else f"unchanged; {told}"


def _removed(body: Body) -> str:
    calls, uploads = body.get("calls") or [], body.get("uploads") or []
    more = f" and {len(uploads)} uploads" if uploads else ""
    told = ", ".join(map(str, calls[:ROWS_SHOWN])) + ("…" if len(calls) > ROWS_SHOWN else "")
    return (
        f"by {body.get('why')}: {body.get('bytes')} bytes in {body.get('files_count')} files of "
        f"{len(calls)} calls{more}: {told}"
    )


def _plainly(body: Body) -> str:
    return _pairs({name: value for name, value in body.items() if name != "caller"})


def _pairs(value: Any) -> str:
    """Give a flat object as words; what is nested, as JSON."""
    if not isinstance(value, dict):
        return ""
    words = []
    for name, one in value.items():
        if isinstance(one, dict) and name == "filter":
            words.append(_pairs(one) or "everything")
        elif name.endswith("_ns") and type(one) is int:
            words.append(f"{name.removesuffix('_ns')}={out.moment(one)}")
        else:
            text = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
            words.append(f"{name}={text}")
    return " ".join(words)


_TELLERS: Mapping[str, Callable[[Body], str]] = {
    "read": _read,
    "refused": _refused,
    "unauthenticated": _refused,
    "refusals_dropped": _dropped,
    "key_rotated": _rotated,
    "head_contradicted": _contradicted,
    "removed": _removed,
}

_ACTORS: Mapping[str, Callable[[Body], str]] = {
    "key_rotated": _old_key,
    "head_contradicted": _witness,
}
"""Whose doing it was, where it was no caller's."""
