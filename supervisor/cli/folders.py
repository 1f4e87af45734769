"""Where the profiles of this installation and the record are, for the daemon and for the verbs that
need none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from supervisor.errors import InvalidRequest

F = TypeVar("F", bound=Callable[..., Any])

RUNTIME_FOLDER = Path("/run/stockade")
STATE_FOLDER = Path("/var/lib/stockade")
LOG_NAME = "log"
ETC_PROFILES = Path("/etc/stockade/profiles")
_PACKAGE = Path(__file__).resolve().parent.parent


def runtime_option(*names: str, help: str) -> Callable[[F], F]:  # noqa: A002 (as click has it)
    """Add --runtime-dir. It is made absolute: runtimes and mount(8) work in folders of their own,
    where a relative one would be another."""
    return click.option(
        "--runtime-dir",
        *names,
        "runtime_folder",
        default=RUNTIME_FOLDER,
        type=click.Path(path_type=Path, file_okay=False),
        callback=lambda _context, _parameter, value: value.absolute(),
        show_default=True,
        help=help,
    )


alone_option = click.option(
    "--alone", is_flag=True, help="Do not load the shipped profiles beside those of the folders."
)


def folders_option(function: F) -> F:
    """Add --dir and --alone: profiles of folders, for verbs that then need no daemon."""
    return click.option(
        "--dir",
        "folders",
        multiple=True,
        type=click.Path(path_type=Path, file_okay=False),
        help="Read the profiles of this folder and the shipped ones, without a daemon; may be "
        "given again.",
    )(alone_option(function))


def shipped_profiles() -> Path:
    """Give the folder of the profiles that come with Stockade: a wheel's, or a checkout's."""
    packaged = _PACKAGE / "_data" / "profiles"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "profiles"


def profile_folders(configured: list[str] | None = None) -> list[Path]:
    """Give the folders to load: those that the configuration names and no others, or the shipped
    ones and /etc/stockade/profiles."""
    if configured is not None:
        return [Path(folder) for folder in configured]
    return [shipped_profiles(), *([ETC_PROFILES] if ETC_PROFILES.is_dir() else [])]


def beside(folders: Sequence[Path], *, alone: bool) -> Sequence[Path]:
    """Give the folders to load: the shipped profiles first, unless they are not wanted."""
    shipped = shipped_profiles()
    if alone or shipped.resolve() in {folder.resolve() for folder in folders}:
        return folders
    return [shipped, *folders]


def require_record(state: Path, *, hint: str = "") -> None:
    """Refuse a folder that is no state folder, or that cannot be read; `hint` says where else it
    could be.

    Raises:
        InvalidRequest: `RECORD_MISSING`, `RECORD_UNREADABLE`.
    """
    try:
        next((state / LOG_NAME).iterdir(), None)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidRequest(
            "RECORD_MISSING",
            f"there is no record in {state}",
            hint=hint or "name the daemon's state folder, the one that holds log/ and blobs/",
        ) from None
    except OSError as error:
        raise unreadable(state, error) from error


def unreadable(state: Path, error: OSError) -> InvalidRequest:
    """Give the error for a record of which nobody here can say whether it is well."""
    return InvalidRequest(
        "RECORD_UNREADABLE",
        f"the record in {state} cannot be read: {error.filename}: {error.strerror}",
        hint="run it as who owns the state folder, or as root",
    )
