"""`stockade audit key`: the key that signs the heads of the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli import output as out
from supervisor.cli.folders import STATE_FOLDER, require_record
from supervisor.cli.session import json_option, session

if TYPE_CHECKING:
    from supervisor.api.config import Configuration
    from supervisor.audit.notes import VerifierKey

ELSEWHERE = (
    "name the daemon's state folder, or its configuration with --config: without either, it is the "
    "folder that /etc/stockade/config.yaml names, or else /var/lib/stockade"
)

_CONFIG = click.Path(path_type=Path, dir_okay=False, exists=True)

_state_argument = click.argument(
    "directory", default=STATE_FOLDER, type=click.Path(path_type=Path, file_okay=False)
)


@click.group("key", short_help="Make, show and change the log's key.")
def command() -> None:
    """Make the key that signs the heads of the log, show its public half, and hand the log over to
    another. No daemon is asked.

    \b
    Examples:
      stockade audit key new --origin log.example.com/host-1
      stockade audit key show
      stockade audit key rotate

    \b
    Exit codes:
      0  done
      2  there is a key already, or no log can have that name or that key
      3  there is no key
      5  the key is not one, is not this log's, or others may read it
      7  a daemon runs in that folder
      8  the record is damaged
    """


@command.command("new", short_help="Make a log's key, before the first start.")
@click.option(
    "--origin",
    metavar="NAME",
    help="The log's name, under which auditors and witnesses know it; it stays the log's for "
    "good.  [default: HOST/stockade/RANDOM]",
)
@_state_argument
@json_option
def new(origin: str | None, directory: Path) -> None:
    """Make the key of the log in DIRECTORY, the state folder, /var/lib/stockade where not given:
    `log.key` and, as its public half, `log.pub`. Print the public half, for whoever is to verify
    the log.

    A daemon that finds no key makes one at its first start. This is for who wants to name the log,
    or to hand out its public half before there is anything in it. Run it as the daemon's user.

    With --json, one document: `key`, `origin`, `key_id`.

    \b
    Examples:
      stockade audit key new
      stockade audit key new --origin log.example.com/host-1 /var/lib/stockade

    \b
    Exit codes:
      0  made
      2  there is a key already, or heads of the log were signed, or no log can have that name
      7  a daemon runs in that folder
    """
    from supervisor.audit.keys import new_key, new_origin

    _say(new_key(directory, new_origin() if origin is None else origin))


@command.command("show", short_help="Print the public half of a log's key.")
@_state_argument
@json_option
def show(directory: Path) -> None:
    """Print the public half of the key of the log in DIRECTORY, the state folder,
    /var/lib/stockade where not given, as NAME+ID+BASE64 (C2SP signed-note). Where the private half
    is there too, it is seen to be that one's.

    Keep it where root on this host cannot change it: who has another key believes another log.

    With --json, one document: `key`, `origin`, `key_id`.

    \b
    Examples:
      stockade audit key show > log.pub
      stockade audit key show --json /mnt/backup/stockade | jq -r .origin

    \b
    Exit codes:
      0  printed
      3  there is no key
      5  it is not a key, the halves are of two, or others may read the private one
    """
    from supervisor.audit.keys import public_key

    _say(public_key(directory))


@command.command("rotate", short_help="Hand a log over to another key.")
@click.option(
    "--config",
    type=_CONFIG,
    help="The configuration that names the key which the log has.  [default: "
    "/etc/stockade/config.yaml, where it exists]",
)
@click.option(
    "--to",
    type=_CONFIG,
    help="The configuration that names the next key. Without: a new one is made in the state "
    "folder.",
)
@click.argument("directory", required=False, type=click.Path(path_type=Path, file_okay=False))
@json_option
def rotate(config: Path | None, to: Path | None, directory: Path | None) -> None:
    """Hand the log in DIRECTORY, the state folder, over to another key, while its daemon is
    stopped. DIRECTORY is the one of the configuration where it is not given.

    An entry says so, signed by both keys: whoever has the public half of the old one can follow,
    and `audit verify --key OLD` does. Heads and receipts under the old key stay good. From then on
    the daemon starts with the new key alone.

    Without --to, a key in the state folder makes way for a new one there. With it, the keys are the
    ones that the `record:` of either configuration names, or the one in the state folder where it
    names none. A private key of the log's that was in the state folder is removed; one that was
    elsewhere is yours to destroy. Run it as the daemon's user. Where it was interrupted, run it
    again: it goes on.

    With --json, one document: `key`, `origin`, `key_id`, `former` ("" where the log was that key's
    already) and `index` of the entry (-1 then).

    \b
    Examples:
      systemctl stop stockade && stockade audit key rotate && systemctl start stockade
      stockade audit key rotate --to /etc/stockade/config.yaml.next

    \b
    Exit codes:
      0  handed over, or it was that key's already
      2  there is no record, a configuration is wrong, or the keys are of two logs
      5  a key cannot be used, or the log is of neither
      7  a daemon runs in that folder, or there is no room
      8  the record is damaged
    """
    from supervisor.audit.handover import hand_over
    from supervisor.cli.provided import signer_of
    from supervisor.cli.serve import configuration_file

    now = _guarded(configuration_file(config))
    following = _guarded(to.absolute()) if to is not None else None
    if following is None and now.record is not None and now.record.key is not None:
        raise click.UsageError(
            "the log's key is not in the state folder: --to names the configuration with the next"
        )
    state = directory or Path(now.state)
    require_record(state, hint=ELSEWHERE if directory is None else "")
    new = signer_of(following) if following is not None else None
    done = hand_over(state, old=signer_of(now), new=new)
    if session().json:
        former = str(done.former) if done.former is not None else ""
        out.document({**_document(done.key), "former": former, "index": done.index})
        return
    click.echo(str(done.key))
    if done.former is None:
        out.note("the log is that key's already")
    else:
        out.note(
            f"entry {done.index} hands the log over from {done.former.key_id.hex()} to "
            f"{done.key.key_id.hex()}"
        )


def _guarded(path: Path | None) -> Configuration:
    """Read a configuration as the daemon does: the library that speaks to a token is loaded here,
    too, so it has to be as well guarded."""
    from supervisor.api.guarded import require_guarded
    from supervisor.cli.serve import configuration

    config = configuration(path)
    require_guarded(config, source=path, profiles=())
    return config


def _document(key: VerifierKey) -> dict[str, str]:
    return {"key": str(key), "origin": key.name, "key_id": key.key_id.hex()}


def _say(key: VerifierKey) -> None:
    if session().json:
        out.document(_document(key))
    else:
        click.echo(str(key))
