"""`stockade console`: a link to the daemon's web page."""

from __future__ import annotations

import os
import pwd
import subprocess

import click

from supervisor.cli import output as out
from supervisor.cli.session import daemon_options, session
from supervisor.errors import HostError, InvalidRequest

OPENER = "xdg-open"
SUDO_USER = "SUDO_USER"
"""Where sudo says who asked it (sudo(8))."""


@click.command("console", short_help="Look at calls and records in a browser.")
@click.option("--open", "opens", is_flag=True, help="Open the link in your browser.")
@click.option("--user", default="", metavar="NAME", help="Whose browser it is.  [default: yours]")
@daemon_options
def command(opens: bool, user: str) -> None:
    """Print a link to the daemon's web page, which shows what you may read: live calls, recorded
    ones, what each did and wrote, denials, and sinks.

    The link is good once, for a minute, and on the daemon's host alone, in a browser of the user
    who asked for it, or of --user. What the page shows is asked for in your name, and is on record
    as if you had asked for it here. The session ends half an hour after its last request, and
    after twelve hours in any case.

    With --json, one document: `url`, `expires`, `uid`.

    \b
    Examples:
      stockade console --open
      sudo stockade console --user ann

    \b
    Exit codes:
      0  printed
      2  there is no such user; or you come from another host and named none
      3  the daemon serves no console: its configuration has no `console:`
      5  xdg-open is not there, or opened nothing
      6  you have as many sessions as there may be; other failures as in `stockade --help`
    """
    from supervisor.client.console import open_console

    uid = _uid_of(user) if user else None
    with session().client() as client:
        link = open_console(client, uid=uid)
    if session().json:
        out.document(link)
    else:
        click.echo(link.url)
        asked_by = os.environ.get(SUDO_USER, "")
        if not user and link.uid == 0 and asked_by:
            out.note(f"for a browser of root alone; --user {asked_by} is for yours")
    if opens:
        _open(link.url)


def _uid_of(user: str) -> int:
    try:
        return int(user) if user.isascii() and user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise InvalidRequest("USER_UNKNOWN", f"this host has no user {user!r}") from None


def _open(url: str) -> None:
    quiet = subprocess.DEVNULL
    try:
        subprocess.run([OPENER, url], check=True, stdin=quiet, stdout=quiet)
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it ended with {error.returncode}"
        raise HostError(
            "BROWSER_MISSING",
            f"{OPENER} did not open the link: {why}",
            hint="open it by hand: it is good for a minute",
        ) from error
