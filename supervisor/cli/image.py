"""`stockade image`: the images that profiles name with `image: oci:NAME@sha256:…`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.call.safe import safe
from supervisor.cli import output as out
from supervisor.cli.folders import STATE_FOLDER
from supervisor.cli.session import json_option, session

if TYPE_CHECKING:
    from supervisor.oci.images import ImageStore


state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=STATE_FOLDER,
    show_default=True,
    help="The daemon's state folder.",
)


@click.group("image", short_help="Manage the images that profiles name.")
def command() -> None:
    """Manage the images of this host. They belong to the state folder: no daemon is needed, but
    the right to write there is.

    \b
    Examples:
      stockade image import ./debian-layout debian
      stockade image ls
      stockade image rm debian

    \b
    Exit codes:
      0  done
      2  this is no OCI layout, the name cannot be used, or there is no such state folder
      3  there is no such image
      5  a program that is needed is missing
    """


@command.command("import", short_help="Import an OCI image layout.")
@click.argument("layout", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("name")
@state_option
@json_option
def import_(layout: Path, name: str, state: Path) -> None:
    """Unpack LAYOUT, a folder with an OCI image layout of one image, and call it NAME. Prints
    what a profile has to say to use it.

    With --json, one document: `name`, `digest`, `size_bytes`.

    \b
    Examples:
      skopeo copy docker-archive:debian.tar oci:debian-layout:latest
      stockade image import ./debian-layout debian

    \b
    Exit codes:
      0  imported
      2  this is no OCI layout, or the name cannot be used
      5  umoci is missing or failed
    """
    image = _store(state).import_layout(layout, name)
    if session().json:
        out.document(image)
    else:
        click.echo(f"image: oci:{safe(image.name)}@sha256:{safe(image.digest)}")


@command.command("ls", short_help="List images.")
@state_option
@json_option
def ls(state: Path) -> None:
    """List the images of this host.

    With --json, one document: a list of `name`, `digest`, `size_bytes`.

    \b
    Examples:
      stockade image ls
      stockade image ls --state ./state --json

    \b
    Exit codes:
      0  listed, also where there is none
      2  there is no such state folder
    """
    images = _store(state).list()
    if session().json:
        out.document(images)
        return
    out.table(
        ("IMAGE", "SIZE", "DIGEST"),
        [(image.name, out.size(image.size_bytes), f"sha256:{image.digest}") for image in images],
        empty="no images",
    )


@command.command("rm", short_help="Remove an image.")
@click.argument("image", metavar="NAME|DIGEST")
@state_option
@json_option
def rm(image: str, state: Path) -> None:
    """Remove an image by its name or digest. Profiles that name it do not run any more.

    With --json, one document: the removed image.

    \b
    Examples:
      stockade image rm debian

    \b
    Exit codes:
      0  removed
      2  there is no such state folder
      3  there is no such image
    """
    removed = _store(state).remove(image)
    if session().json:
        out.document(removed)
    else:
        click.echo(f"removed {safe(removed.name)} sha256:{safe(removed.digest)}")


def _store(state: Path) -> ImageStore:
    from supervisor.oci.images import ImageStore

    return ImageStore(state)
