"""`stockade serve`: put the rooms together, and serve until somebody says stop.

Order matters: configuration and profiles are checked before anything is touched; the record is
opened before the engine, which cleans up what a former daemon left behind; only then does
anybody listen.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli.folders import profile_folders
from supervisor.cli.session import json_option
from supervisor.errors import AuditUnavailable, InvalidRequest, StockadeError

if TYPE_CHECKING:
    from supervisor.api.config import Configuration
    from supervisor.api.metrics import Metrics
    from supervisor.audit.store import Store
    from supervisor.engine import Engine

RUNTIME_FOLDER = Path("/run/stockade")
LEVELS = ("debug", "info", "warning", "error")

log = logging.getLogger("stockade")


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """The rooms, put together."""

    config: Configuration
    metrics: Metrics
    store: Store
    engine: Engine


@click.command("serve", short_help="Run the daemon.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the record and of images.  [default: /var/lib/stockade]",
)
@click.option(
    "--listen",
    "addresses",
    multiple=True,
    metavar="ADDRESS",
    help="Listen here instead of where the configuration says; may be given again. "
    "unix:///path only: TCP needs the certificates of the configuration.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration.  [default: /etc/stockade/config.yaml, where it exists]",
)
@click.option(
    "--profiles",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Load profiles from this folder and no other; may be given again.",
)
@click.option(
    "--runtime-dir",
    "--runtime",
    "runtime_folder",
    default=RUNTIME_FOLDER,
    type=click.Path(path_type=Path, file_okay=False),
    show_default=True,
    help="Folder for what lives as long as a call: bundles, sockets.",
)
@click.option("--log-json", is_flag=True, help="Write the log as JSON, one object a line.")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="The least serious messages to write.",
)
@json_option
def command(
    state: Path | None,
    addresses: tuple[str, ...],
    config_path: Path | None,
    folders: tuple[Path, ...],
    runtime_folder: Path,
    log_json: bool,
    log_level: str,
) -> None:
    """Run the daemon in the foreground, with its log on standard error.

    SIGTERM and SIGINT stop it: no new calls, live ones may end within the configured grace, the
    rest is killed, every outcome is on record. What is given here wins over the configuration.
    What a former daemon left behind is cleaned up first, its open calls closed as interrupted.

    \b
    Examples:
      stockade serve
      stockade serve --config /etc/stockade/config.yaml --log-json
      stockade serve --state ./state --listen unix://$PWD/stockade.sock --runtime-dir ./run

    \b
    Exit codes:
      0  stopped on request
      2  the configuration or a profile is wrong
      5  this host cannot raise a wall, or an address cannot be used
      7  the record cannot be written, or another daemon has it
      8  the record is damaged
    """
    _set_up_logging(log_level, as_json=log_json)
    config = configuration(config_path, state=state, addresses=addresses, folders=folders)
    # systemd's address is read here: no other room looks at the environment.
    notify_socket = os.environ.pop("NOTIFY_SOCKET", "")
    _enter_private_mounts()
    asyncio.run(_serve(config, runtime_folder, notify_socket))


def configuration(
    path: Path | None,
    *,
    state: Path | None = None,
    addresses: tuple[str, ...] = (),
    folders: tuple[Path, ...] = (),
) -> Configuration:
    """Read the configuration and put what the command line says over it.

    Raises:
        ProfileError: the configuration is missing or wrong.
        InvalidRequest: `ADDRESS_INVALID`.
    """
    from supervisor.api import config as configs

    loaded = configs.load(path)
    changes: dict[str, Any] = {}
    if state is not None:
        changes["state"] = str(state.absolute())
    if addresses:
        changes["listen"] = [_listener(address) for address in addresses]
    if folders:
        changes["profiles"] = [str(folder.absolute()) for folder in folders]
    return loaded.model_copy(update=changes)


def build_daemon(config: Configuration, runtime_folder: Path) -> Daemon:
    """Load the profiles, open the record, and make the engine; nothing runs yet.

    Raises:
        ProfileError: a profile folder is missing or wrong.
        AuditUnavailable: `STATE_LOCKED`, `STATE_UNUSABLE`, or the record cannot be written.
        AuditCorrupt: the record is damaged.
    """
    from supervisor.api.metrics import Metrics
    from supervisor.audit.store import Store
    from supervisor.engine import Engine, EngineOptions
    from supervisor.profile.load import ProfileSet

    profiles = ProfileSet.load(profile_folders(config.profiles))
    for name in profiles.names:
        for problem in profiles.problems(name):
            log.warning("profile %s: %s:%s: %s", name, problem.file, problem.line, problem.message)
    metrics = Metrics(profiles.names)
    state = Path(config.state)
    try:
        store = Store.open(state, clock_ns=time.time_ns, observer=metrics, on_fatal=_stop)
    except OSError as error:
        raise AuditUnavailable(
            "STATE_UNUSABLE",
            f"the state folder {state} cannot be used: {error.strerror}",
            hint="--state names a folder that this user may write",
        ) from error
    engine = Engine(
        store=store,
        profiles=profiles,
        state=state,
        runtime=runtime_folder,
        observer=metrics,
        options=EngineOptions(calls_max=config.limits.calls, keep_alive_s=config.limits.keepalive),
    )
    return Daemon(config=config, metrics=metrics, store=store, engine=engine)


def _enter_private_mounts() -> None:
    """Take a mount namespace of our own, while there is one thread: see `linux.mounts`."""
    from supervisor.linux.mounts import enter_private_mounts

    if os.geteuid() == 0:
        enter_private_mounts()


def _stop(failure: StockadeError) -> None:
    """End the daemon in order: a record that failed once is never written again."""
    log.critical("the record can no longer be written, stopping: %s", failure)
    os.kill(os.getpid(), signal.SIGTERM)


async def _serve(config: Configuration, runtime_folder: Path, notify_socket: str) -> None:
    from supervisor.api.server import serve

    daemon = build_daemon(config, runtime_folder)
    try:
        await daemon.engine.start()
        try:
            await serve(daemon.engine, config, daemon.metrics, notify_socket=notify_socket)
        except BaseException:
            # What the engine put on the host goes, also where nobody could listen.
            await daemon.engine.drain(0.0)
            raise
    finally:
        await daemon.store.close()
    if daemon.store.failure is not None:
        raise daemon.store.failure
    log.info("stopped")


def _listener(address: str) -> Any:
    from pydantic import ValidationError

    from supervisor.api.config import Listener

    try:
        return Listener.model_validate(address)
    except ValidationError as error:
        raise InvalidRequest(
            "ADDRESS_INVALID",
            f"cannot listen on {address!r}: {error.errors()[0]['msg']}",
            hint="--listen takes unix:///path; TCP goes into the configuration, with its tls:",
            metadata={"address": address},
        ) from error


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        body = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return json.dumps(body)


def _set_up_logging(level: str, *, as_json: bool) -> None:
    formatter = (
        JsonLines()
        if as_json
        else logging.Formatter(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s",
            datefmt="%Y-%m-%dT%H:%M:%S",
        )
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
