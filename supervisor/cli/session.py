"""The options that every verb takes, and the client that they lead to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from supervisor.errors import InvalidRequest

if TYPE_CHECKING:
    from supervisor.client import Supervisor

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Session:
    """What the options say; a verb's own options win over those before the verb."""

    address: str | None = None
    json: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def client(self) -> Supervisor:
        """Give a client for the daemon.

        Raises:
            InvalidRequest: `ADDRESS_INVALID`, `TLS_REQUIRED`, `TLS_INCOMPLETE`.
        """
        from supervisor.client import Supervisor, Tls

        tls = None
        if self.tls_ca or self.tls_cert or self.tls_key:
            if not (self.tls_ca and self.tls_cert and self.tls_key):
                raise InvalidRequest(
                    "TLS_INCOMPLETE",
                    "mutual TLS needs all three files",
                    hint="give --tls-ca, --tls-cert and --tls-key together",
                )
            tls = Tls(ca=self.tls_ca, certificate=self.tls_cert, key=self.tls_key)
        return Supervisor(self.address, tls=tls)


def session() -> Session:
    """Give the session of the command that runs."""
    return click.get_current_context().ensure_object(Session)


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    current, name = context.ensure_object(Session), parameter.name
    if not (value and name):
        return
    # The variable is read again for the verb; it must not undo an option before the verb.
    from_environment = context.get_parameter_source(name) is ParameterSource.ENVIRONMENT
    if not (from_environment and getattr(current, name)):
        setattr(current, name, value)


def json_option(function: F) -> F:
    """Add --json."""
    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_store,
        help="Print JSON: one document, or one line for each event of a stream.",
    )(function)


def daemon_options(function: F) -> F:
    """Add --json, --address and the files of mutual TLS."""
    file = click.Path(path_type=Path, dir_okay=False)
    shared: dict[str, Any] = {"expose_value": False, "callback": _store}
    for name, what in (("key", "our key"), ("cert", "our certificate"), ("ca", "the daemon's CA")):
        function = click.option(
            f"--tls-{name}",
            type=file,
            envvar=f"STOCKADE_TLS_{name.upper()}",
            **shared,
            help=f"PEM file: {what}, for an address that is reached over TCP.",
        )(function)
    function = click.option(
        "--address",
        envvar="STOCKADE_ADDR",
        metavar="ADDRESS",
        **shared,
        help="Where the daemon is: unix:///path or host:port. "
        "[env STOCKADE_ADDR; default unix:///run/stockade/stockade.sock]",
    )(function)
    return json_option(function)
